"""The report's tables, and the paragraph that says what its runs can and cannot show."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from stages.core.analysis.energy import dims
from stages.core.base.files import read_json
from stages.core.base.names import DIGITS, TEACHER, setting_name
from stages.core.evidence.studies import Study

COMPARED = (
    ("top1", "top-1, %", 2),
    ("probe_error", "best projector's error", 3),
    ("feature_error", "feature error", 3),
)


def setting(data: Mapping[str, Any], runs: pd.DataFrame, teacher: Mapping[str, Any]) -> str:
    """A paragraph on data, teacher and runs, with a warning where accuracy cannot rank strategies.

    Args:
        data: data.json.
        runs: runs.csv.
        teacher: teacher.json.
    """
    epochs = ", ".join(map(str, sorted(set(runs["epochs"]))))
    reached = "" if teacher.get("top1") is None else f", {teacher['top1']:.2f} % top-1"
    marked = " with random weights" if teacher["weights"] == "random" else ""
    text = (
        f"Dataset `{data['dataset']}`: {data['classes']} classes, {data['train']['images']:,} images to train on, "
        f"{data['val']['images']:,} to validate on. Teacher: `{teacher['architecture']}`{marked}{reached}. "
        f"Runs: {len(runs)}, of {epochs} epochs."
    )
    if data["dataset"] == DIGITS:
        image = 100 / data["val"]["images"]
        text += (
            "\n\n**Read accuracy with care.** At this scale it is near its ceiling: top-1 of all runs lies between "
            f"{runs['top1'].min():.2f} and {runs['top1'].max():.2f} %, and one image of the validation set is worth "
            f"{image:.2f} points. It cannot rank strategies. The figures show that the pipeline works; for what a "
            "feature loss does, look at the error of the best linear projector instead, which compares all strategies."
        )
    return text


def comparison(rows: pd.DataFrame) -> pd.DataFrame:
    """comparison.csv with headings that name units, rounded for reading."""
    table = pd.DataFrame({"strategy": rows["strategy"], "objective": rows["objective"], "seeds": rows["seeds"]})
    for key, name, digits in COMPARED:
        pairs = zip(rows[f"{key}_mean"], rows[f"{key}_std"], strict=True)
        table[name] = [with_std(mean, std, digits) for mean, std in pairs]
    return table


def with_std(mean: float, std: float, digits: int) -> str:
    """A mean ± its standard deviation; without one (a single seed) the mean alone, and a dash for what is unknown."""
    if pd.isna(mean):
        return "–"
    return f"{mean:.{digits}f}" if pd.isna(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def differences(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """differences.csv in words: what was compared, the difference with its interval, and what that shows."""
    return [
        {
            "setting": setting_name(row["strategy"], row["objective"]),
            "minus": setting_name(row["against_strategy"], row["against_objective"]),
            "points": f"{row['difference']:+.2f}",
            "interval": "–" if pd.isna(row["low"]) else f"{row['low']:+.2f} to {row['high']:+.2f}",
            "p, not adjusted": row["p"],
            "method": row["method"],
            "verdict": row["verdict"],
        }
        for row in rows.to_dict("records")
    ]


def widths(floors: pd.DataFrame, levels: Sequence[int] = (80, 90, 95, 99)) -> pd.DataFrame:
    """The smallest width that holds each share of a backbone's energy: of one fixed projector (of one per image).

    Args:
        floors: floor.csv.
        levels: percents.
    """
    rows = []
    for backbone, of in floors.groupby("backbone", sort=False):
        fixed, per_image = dims(1 - of[["fixed", "per_image"]].to_numpy().T, levels)
        cells = (f"{one} ({own})" for one, own in zip(fixed, per_image, strict=True))
        rows.append(
            {"backbone": backbone, "D": len(of)} | dict(zip((f"{level} %" for level in levels), cells, strict=True))
        )
    return pd.DataFrame(rows)


def premise(floors: pd.DataFrame, encoding: pd.DataFrame) -> str:
    """Whether the paper's premise holds here: a teacher that needs more directions than its narrowest student is wide.

    Args:
        floors: floor.csv.
        encoding: encoding.csv.
    """
    teacher = floors[floors["backbone"] == TEACHER]
    fixed, per_image = dims(1 - teacher[["fixed", "per_image"]].to_numpy().T, [95])[:, 0]
    width = int(encoding[encoding["strategy"] != TEACHER]["width"].min())
    text = (
        f"For 95 % of its energy the teacher needs {per_image} of {len(teacher)} directions where each image has "
        f"its own, and {fixed} that all images share; the narrowest student's map has {width} channels. "
    )
    if fixed > width:
        return text + "The premise of the paper, low rank within an image and a mismatch over all of them, holds here."
    floor = teacher["fixed"].iloc[width - 1]
    return text + (
        "So the mismatch of widths from which the paper starts is not there at this scale: one fixed projector from "
        f"{width} channels need not lose more than {floor:.2g} of the energy."
    )


def encodings(rows: pd.DataFrame) -> pd.DataFrame:
    """encoding.csv as means over seeds by strategy and objective, with the teacher first.

    Args:
        rows: encoding.csv.
    """
    heads = {
        "width": "width",
        "rank": "rank at most",
        "cka": "CKA",
        "probe_error": "best projector's error",
        "relative_feature_error": "feature error",
        "participation_image": "participation ratio, one image",
        "participation_dataset": "participation ratio, all images",
    }
    for kind, name in (
        ("svd_mean", "SVD dims, mean"),
        ("dataset_global", "PCA dims"),
        ("bandwidth_folded", "SEP bandwidth, folded"),
    ):
        level = threshold(rows.columns, kind)
        heads[f"{kind}_{level}"] = f"{name}, {level} %"
    means = rows.fillna({"objective": "–"}).groupby(["strategy", "objective"], sort=False)[list(heads)].mean()
    return means.round(3).rename(columns=heads).reset_index()


def threshold(columns: Iterable[str], kind: str) -> int:
    """The threshold to show of a kind of column: of those measured the nearest to the paper's, 95 %, or 90 % of SEP."""
    found = (re.fullmatch(rf"{kind}_(\d+)", column) for column in columns)
    shown = 90 if kind.startswith("bandwidth") else 95
    return min((int(match[1]) for match in found if match), key=lambda level: abs(level - shown))


def spectral_against_mse(rows: pd.DataFrame, comparisons: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The spectral loss beside mse on the trained students' maps, and the accuracy that each leads to.

    Args:
        rows: encoding.csv of the current run.
        comparisons: comparison.csv by where it is from, that of the current run first.

    Returns:
        A row for each strategy and source: ratio of the losses, the bounds of any such ratio, and cosine of their
        gradients (lowest and highest of the current run's students, whatever their objective), top-1 with either loss
        where it was trained.
    """
    trained = {objective for table in comparisons.values() for objective in table["objective"]}
    shown = ["mse", "spectral", *(name for name in ("softkd_mse", "softkd_spectral") if name in trained)]
    found = []
    for place, (source, table) in enumerate(comparisons.items()):
        top1 = table.set_index(["strategy", "objective"])
        for strategy in dict.fromkeys(table["strategy"]):
            row: dict[str, Any] = {"from": source, "strategy": strategy}
            maps = rows[rows["strategy"] == strategy] if place == 0 else rows[:0]
            for lowest, highest, name, digits in (
                ("spectral_over_mse", "spectral_over_mse", "spectral loss / mse", 3),
                ("spectral_over_mse_least", "spectral_over_mse_most", "bounds of it", 3),
                ("gradient_cosine", "gradient_cosine", "cosine of their gradients", 4),
            ):
                least, most = maps[lowest].min(), maps[highest].max()  # NaN where no student has a target
                row[name] = None if pd.isna(least) else f"{least:.{digits}f} – {most:.{digits}f}"
            for objective in shown:
                known = (strategy, objective) in top1.index
                reached = top1.loc[(strategy, objective)] if known else None
                row[f"top-1 with {objective}, %"] = (
                    with_std(reached["top1_mean"], reached["top1_std"], 2) if reached is not None else None
                )
            found.append(row)
    return pd.DataFrame(found)


def studies(recorded: Sequence[Study]) -> list[dict[str, Any]]:
    """What each recorded study was of, and where and when it was computed."""
    rows = []
    for study in recorded:
        teacher = read_json(study.results / "teacher.json")
        rows.append(
            {
                "study": study.name,
                "dataset": read_json(study.data)["dataset"],
                "teacher": f"{teacher['architecture']}"
                + ("" if teacher.get("top1") is None else f", {teacher['top1']:.2f} %"),
                "hardware": _hardware(study.record["hardware"]),
                "date": study.record["date"],
            }
        )
    return rows


def studies_top1(comparisons: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Top-1 of every study's strategies, one column per objective.

    Args:
        comparisons: comparison.csv by the study's name.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for study, table in comparisons.items():
        for row in table.itertuples():
            reached = with_std(float(row.top1_mean), float(row.top1_std), 2)  # type: ignore[arg-type]
            rows.setdefault((study, str(row.strategy)), {})[str(row.objective)] = reached
    return pd.DataFrame(
        [{"study": study, "strategy": strategy, **reached} for (study, strategy), reached in rows.items()]
    )


def _hardware(machine: Mapping[str, Any]) -> str:
    text = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    gpus = [f"{gpu['name']}, {gpu['memory_gib']} GiB" for gpu in machine["gpus"]]
    return "; ".join([text, *(f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus))])
