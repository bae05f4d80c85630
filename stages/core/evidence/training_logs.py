"""Published training logs beside the runs of this project that are comparable with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.core.evidence.claims import Claim
from stages.core.evidence.results import Results
from stages.core.evidence.training_measures import runs_of_the_paper

EPOCHS = 300  # of the comparable logs


@dataclass(frozen=True)
class PublishedCurve:
    """Validation top-1 in a published log, whose training this reproduction repeated.

    Attributes:
        strategy, objective: the setting of the runs that are comparable.
        top1: percent, by the number of epochs trained.
        runs: how many runs of the setting there are.
    """

    strategy: str
    objective: str
    top1: Mapping[int, float]
    runs: int


def published_curves(results: Results, paper: Mapping[str, Any]) -> list[PublishedCurve]:
    """The published logs whose setting was trained here by the paper's recipe, on ImageNet-1K.

    Args:
        results: of a reproduction.
        paper: all reference data, as `stages.core.evidence.register.read_published` reads it.
    """
    logs, found = paper["training_logs"], []
    for name, row in logs["comparable"].items():
        claim = Claim(
            id=f"log/{name}",
            family="",
            statement="",
            source="",
            figure=None,
            measure="",
            requires=("imagenet", "training"),
            entry=row,
            paper=paper,
        )
        runs = runs_of_the_paper(claim, results)
        if not isinstance(runs, str):
            points = {**logs.get(f"{name}_by_epoch", {}), EPOCHS: row["last"]}
            found.append(PublishedCurve(row["strategy"], row["objective"], points, len(runs)))
    return found
