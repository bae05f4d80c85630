"""Which weight of a feature loss suits which strategy, by a sweep: python -m stages.tools.feature_weights [--out FILE].

Reads reports/results of a run of `grid=weights` that was validated on held-out training images (dataset.held_out), and
prints for each strategy and feature loss the top-1 of every weight, beside that without a feature loss, and the weight
of the highest, of equal ones the smallest. If it is the smallest or largest weight of several, a better one may lie
beyond, and the table says so. The last lines are what `student.strategies` then takes. --out writes the table as CSV,
to be kept with the study.
"""

import argparse
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, write_text
from stages.core.config.schema import Objective
from stages.core.evidence.results import read_table
from stages.paths import MANIFEST, RESULTS
from stages.tools.markdown import table

SUFFIX = re.compile(r"_w[0-9_]+$")  # of an objective's name in the sweep: mse_w0_2 is mse with the weight 0.2
LOSS = [name for name in Objective.model_fields if name != "feature_weight"]
COLUMNS = ["strategy", "objective", "feature_weight", "seeds", "top1", "gain", "chosen", "end"]


def sweep(runs: pd.DataFrame) -> pd.DataFrame:
    """Top-1 by strategy, feature loss and weight, means over seeds, and which weight is the best.

    Args:
        runs: runs.csv, of objectives that differ in `feature_weight` alone, and of `none`.

    Returns:
        A row for each weight: `objective` is the loss's name, `gain` the difference from the strategy without a feature
        loss (empty if it was not run), `chosen` whether the weight is the best, `end` "smallest" or "largest" where the
        best one is at the sweep's end.

    Raises:
        UserError: no feature loss was run with several weights.
    """
    losses = runs[runs["feature"].notna()]
    bases = losses.assign(objective=losses["objective"].str.replace(SUFFIX, "", regex=True))
    groups = bases.groupby(["strategy", *LOSS, "objective", "feature_weight"], dropna=False, sort=False)
    rows = groups.agg(seeds=("seed", "size"), top1=("top1", "mean")).reset_index()
    plain = runs[runs["objective"] == "none"].groupby("strategy")["top1"].mean()
    rows["gain"] = rows["top1"] - rows["strategy"].map(plain)
    rows = rows.sort_values(["strategy", "objective", "feature_weight"]).reset_index(drop=True)
    ends: dict[int, str] = {}  # of the rows of the best weights
    for _, weights in rows.groupby(["strategy", "objective"])["top1"]:
        if len(weights) > 1:  # of equal ones `argmax` takes the first, the smallest weight
            best = int(weights.to_numpy().argmax())
            ends[int(weights.index[best])] = {0: "smallest", len(weights) - 1: "largest"}.get(best, "")
    if not ends:
        raise UserError(f"{RESULTS / 'runs.csv'}: no feature loss with several weights; run grid=weights first")
    return rows.assign(chosen=rows.index.isin(list(ends)), end=[ends.get(place, "") for place in rows.index])[COLUMNS]


def settings(rows: pd.DataFrame) -> str:
    """The chosen weights as lines of `student.strategies`."""
    chosen = rows[rows["chosen"]]
    return "".join(
        f"{strategy}: {{feature_weights: {{"
        + ", ".join(f"{name}: {weight:g}" for name, weight in group[["objective", "feature_weight"]].values)
        + "}}\n"
        for strategy, group in chosen.groupby("strategy", sort=False)
    )


def main() -> None:
    """Print the sweep's table and the chosen weights.

    Raises:
        UserError: there is no sweep, or it was judged by validation images that are to judge the study.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there as CSV, too")
    arguments = parser.parse_args()
    held_out: Any = read_json(MANIFEST).get("held_out")
    if held_out is None:
        raise UserError(
            f"{MANIFEST}: the runs were validated on the validation images, which must not choose a weight; run the "
            "sweep with dataset.held_out=0.1"
        )
    file = RESULTS / "runs.csv"
    if not file.is_file():
        raise UserError(f"{file} is missing; run grid=weights first")
    rows = sweep(read_table(file))
    shown = rows.assign(
        feature_weight=rows["feature_weight"].map("{:g}".format),
        top1=rows["top1"].map("{:.2f}".format),
        gain=rows["gain"].map("{:+.2f}".format, na_action="ignore").fillna(""),
        chosen=rows["chosen"].map({True: "yes", False: ""}),
    )
    print(table(COLUMNS, shown.values.tolist()))
    for _, row in rows[rows["end"] != ""].iterrows():
        name = f"{row['strategy']}, {row['objective']}"
        print(f"{name}: the best weight, {row['feature_weight']:g}, is the {row['end']} of the sweep; widen it")
    print(settings(rows), end="")
    if arguments.out:
        text = io.StringIO()
        rows.to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
        write_text(arguments.out, text.getvalue())


if __name__ == "__main__":
    run(main)
