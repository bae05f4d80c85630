"""The table of what others report of the paper's student, beside the paper's own figures and no run of this project."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.base.names import BASELINE, LABELS_ONLY
from stages.core.evidence.neighbours import Neighbour
from stages.core.report.markup import Link

THIS = "the paper"


def rows(neighbours: Sequence[Neighbour], published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows, by top-1.

    Args:
        neighbours: what others report.
        published: paper.yaml.
    """
    own = [
        {
            "method": f"{THIS}: {row['strategy']} with {row['objective']}",
            "teacher": None if row["objective"] == LABELS_ONLY else "CaiT-S24",
            "top-1, %": row["top1"],
            "note": None,
            "source": None,
        }
        for row in _best(published)
    ]
    others = [
        {
            "method": one.method,
            "teacher": one.teacher,
            "top-1, %": one.top1,
            "note": one.note or None,
            "source": Link(one.source.removeprefix("https://"), one.source),
        }
        for one in neighbours
    ]
    return sorted([*own, *others], key=lambda row: row["top-1, %"])


def why_higher(published: Mapping[str, Any], neighbours: Sequence[Neighbour]) -> str:
    """What is known of why the paper's baseline is above DeiT-Tiny's first figure, in sentences."""
    recipe, baseline = published["recipe"], published["headline"]["top1"]["baseline"]
    first = min(one.top1 for one in neighbours if one.teacher is None)
    return (
        f"The paper's baseline has {baseline:.2f}, DeiT-Tiny as first published {first:.1f}. The authors' scripts "
        f"train without Mixup ({recipe['mixup']}) and with drop path {recipe['drop_path']:g}, in batches of "
        f"{recipe['global_batch']:,} at a learning rate of {recipe['lr']:g}; the first recipe has Mixup, CutMix and "
        "drop path, and a public run that leaves drop path and averaged weights out comes near the paper's. Which "
        "difference counts for how much, no source says; and the release calls the row *Distilled DeiT-Tiny baseline / "
        "Original baseline*, so that it is not certain that no teacher was there."
    )


def _best(published: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The paper's baseline without a teacher, and the best setting of each other strategy."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in published["top1"]:
        strategy = row["strategy"]
        if strategy == BASELINE and row["objective"] != LABELS_ONLY:
            continue
        if strategy not in found or row["top1"] > found[strategy]["top1"]:
            found[strategy] = row
    return list(found.values())
