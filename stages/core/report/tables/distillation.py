"""Tables of runs and their differences, and the paragraph that says what the runs can and cannot show."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from stages.core.base.names import DIGITS, setting_name

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


def by_strategy(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Each measure of comparison.csv but the feature error, which strategies cannot be compared by: a row an objective.

    Args:
        rows: comparison.csv.

    Returns:
        By the measure's name with its unit a table with the objective, and a column for each strategy.
    """
    table = comparison(rows)
    found = {}
    for _, name, _ in COMPARED[:2]:
        cells = table.set_index(["objective", "strategy"])[name]
        found[name] = pd.DataFrame(
            {"objective": objective}
            | {one: cells.get((objective, one), None) for one in dict.fromkeys(table["strategy"])}
            for objective in dict.fromkeys(table["objective"])
        )
    return found


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
            "interval": _interval(row["low"], row["high"]),
            "p, not adjusted": row["p"],
            "method": row["method"],
            "paired t alone": _interval(row["paired_low"], row["paired_high"]),
            "verdict": row["verdict"],
        }
        for row in rows.to_dict("records")
    ]


def _interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{low:+.2f} to {high:+.2f}"
