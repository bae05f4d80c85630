"""The manipulation check: how far a run's feature loss moved what it aims at, from training without it to what can be.

A loss that does not move the features says nothing of what moving them would bring. Two errors say how far, both
relative: 1 is the error of a map of zeros, which knows nothing of the teacher.

* own: the feature loss itself, over that of a map of zeros; through a linear projector, which no run keeps, that of the
  best one (`probe`);
* probe: of the best linear projector from the student's tokens to the teacher's.

The way begins where the same strategy and seed ends without the loss, or at 1 if that is less: features that merely
shrink towards zero have not moved towards the teacher. It ends at the least that a map of that rank can have. Both are
measured for the target as it is and, with `_equal`, as the mean over the directions that hold 99 % of its energy of the
relative error along each, at most 1: so one large direction cannot pass for all.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stages.core.base.names import TEACHER

SHARE = 0.99  # of the energy, which the directions hold that are counted alike (stages.core.analysis.linear_probe)
_PARTS = ("without", "reached", "floor", "moved")
KINDS = {  # what a way is measured by
    "own": "its own loss",
    "own_equal": "every direction counted alike",
    "probe": "the best projector's error",
    "probe_equal": "the same, every direction counted alike",
}
APPLIED_COLUMNS = (
    *(f"{kind}_{part}" for kind in KINDS for part in _PARTS),
    *("loss_share", "gradient_ratio"),
)
MATCHING_COLUMNS = (
    "run",
    "objective",
    "own",
    "own_floor",
    "own_equal",
    "own_equal_floor",
    "loss_share",
    "gradient_ratio",
)
_OBJECTIVE = ("feature", "feature_weight", "alpha", "tau", "projector", "project_equal", "target", "wider", "blocks")
PASSED, FAILED, UNCHECKED = "passed", "not passed", "not checked"


def moved(without: float, reached: float, floor: float) -> float:
    """Percent of the way from training without the loss, or from a map of zeros, to the least possible error.

    Not a number where an error is unknown, or there is no way to go; below 0 where the loss moved the features away.
    """
    start = min(without, 1.0)
    return 100 * (start - reached) / (start - floor) if start > floor else np.nan


def with_applied(
    runs: pd.DataFrame, encoding: pd.DataFrame, floors: pd.DataFrame, matching: pd.DataFrame | None = None
) -> pd.DataFrame:
    """runs.csv with `APPLIED_COLUMNS`; they are empty for a run without a feature loss, and where nothing was measured.

    Args:
        runs: runs.csv without these columns.
        encoding: encoding.csv.
        floors: floor.csv.
        matching: with `MATCHING_COLUMNS`, the loss of each student by each feature loss of its strategy, its own or
            not; None of a study that was recorded before it was measured: then as far as runs.csv has it.
    """
    if not set(_OBJECTIVE) <= set(runs):
        return runs.reindex(columns=[*runs, *APPLIED_COLUMNS])
    matching = _recorded(runs, encoding, floors) if matching is None else matching
    errors = _probes(encoding, floors).join(runs.set_index("run")[["strategy", "seed"]], how="right")
    losses = matching.set_index(["run", "objective"]).reindex(columns=list(MATCHING_COLUMNS[2:]))
    rows = []
    for run in runs.to_dict("records"):
        row: dict[str, float] = dict.fromkeys(APPLIED_COLUMNS, np.nan)
        if not pd.isna(run["feature"]):
            before = without_loss(runs, run)
            for kind in ("probe", "probe_equal"):
                row |= _way(kind, _cell(errors, before, kind), *(errors.loc[run["run"], [kind, f"{kind}_floor"]]))
            for kind in ("own", "own_equal"):
                if _read_by_best_projector(run):
                    row |= {f"{kind}_{part}": row[f"{kind.replace('own', 'probe')}_{part}"] for part in _PARTS}
                    continue
                own, name = (run["run"], run["objective"]), run["objective"]
                floor = _cell(losses, own, f"{kind}_floor")
                row |= _way(kind, _cell(losses, (before, name), kind), _cell(losses, own, kind), floor)
            own = (run["run"], run["objective"])
            row |= {name: _cell(losses, own, name) for name in ("loss_share", "gradient_ratio")}
        rows.append(row)
    columns = pd.DataFrame(rows, columns=list(APPLIED_COLUMNS), index=runs.index, dtype=float)
    return runs.drop(columns=[name for name in APPLIED_COLUMNS if name in runs]).join(columns)


def without_loss(runs: pd.DataFrame, run: Mapping[Any, Any]) -> str | None:
    """The run of the same strategy and seed that leaves the feature loss of `run` out, and nothing else."""
    if pd.isna(run["feature"]):
        return None
    found = runs[
        (runs["strategy"] == run["strategy"])
        & (runs["seed"] == run["seed"])
        & runs["feature"].isna()
        & (runs["alpha"] == run["alpha"])
        & (runs["tau"] == run["tau"])
    ]["run"]
    return str(found.iloc[0]) if len(found) else None


def _way(kind: str, without: float, reached: float, floor: float) -> dict[str, float]:
    values = (without, reached, floor, moved(without, reached, floor))
    return {f"{kind}_{part}": float(value) for part, value in zip(_PARTS, values, strict=True)}


def _cell(table: pd.DataFrame, place: Any, column: str) -> float:
    """A number of a table, or not a number where there is no such row."""
    return float(np.asarray(table.at[place, column])) if place in table.index else np.nan


def _read_by_best_projector(run: Mapping[Any, Any]) -> bool:
    """Whether the loss is the squared error through a linear projector that is trained beside the student."""
    through = str(run["project_equal"]).lower() == "true" or run["width"] != run["teacher_width"]
    return run["projector"] == "linear" and run["feature"] == "mse" and run["target"] == "features" and through


def _probes(encoding: pd.DataFrame, floors: pd.DataFrame) -> pd.DataFrame:
    """By run: the best projector's errors and the least that a map of its rank can have."""
    of = floors[floors["backbone"] == TEACHER].set_index("dims")["shared"]
    width = len(of)
    table = encoding.set_index("run").reindex(columns=["probe_error", "probe_equal", "rank", "width"])
    ranks = table["rank"].fillna(table["width"]).clip(upper=width).astype(int)
    return pd.DataFrame(
        {
            "probe": table["probe_error"],
            "probe_floor": [of.get(rank, np.nan) for rank in ranks],
            "probe_equal": table["probe_equal"],
            "probe_equal_floor": (1 - ranks / ((of > 1 - SHARE).sum() + 1)).clip(lower=0),
        }
    )


def _recorded(runs: pd.DataFrame, encoding: pd.DataFrame, floors: pd.DataFrame) -> pd.DataFrame:
    """What can be had of `matching` from the relative feature error: the loss `mse` of the last block's own map."""
    of = floors[floors["backbone"] == TEACHER].set_index("dims")["shared"]
    ranks = encoding.set_index("run")["rank"] if "rank" in encoding else pd.Series(dtype=float)
    equal = runs["project_equal"].astype(str).str.lower()
    plain = runs[
        (runs["feature"] == "mse")
        & (runs["projector"].isna() | ((runs["width"] == runs["teacher_width"]) & (equal == "false")))
        & (runs["target"] == "features")
        & (runs["wider"] == "refuse")
        & runs["blocks"].astype(str).str.contains("last")
        & ~runs["blocks"].astype(str).str.contains("first")
    ]
    rows = []
    for strategy, objective in dict.fromkeys(zip(plain["strategy"], plain["objective"], strict=True)):
        for run in runs[runs["strategy"] == strategy].to_dict("records"):
            rank = ranks.get(run["run"], np.nan)
            whole = run["width"] == run["teacher_width"]  # else the teacher's channels are pooled to the student's
            floor = of.get(rank, np.nan) if whole else 0.0
            rows.append((run["run"], objective, run["relative_feature_error"], floor))
    return pd.DataFrame(rows, columns=list(MATCHING_COLUMNS[:4]))


def means(runs: pd.DataFrame) -> pd.DataFrame:
    """`APPLIED_COLUMNS` of runs.csv as means over seeds, by strategy and objective in the order of runs.csv."""
    known = runs.reindex(columns=["strategy", "objective", *APPLIED_COLUMNS])
    return known.groupby(["strategy", "objective"], sort=False)[list(APPLIED_COLUMNS)].mean()


def check(
    runs: pd.DataFrame, settings: Iterable[tuple[str, str]], kinds: Sequence[str], passes_at: float
) -> tuple[str, str]:
    """Whether the feature losses of some settings were applied strongly enough to speak of, and how far they moved.

    Args:
        runs: runs.csv with `APPLIED_COLUMNS`.
        settings: strategies and objectives; those without a feature loss need no check.
        kinds: of `KINDS`, all of which must pass.
        passes_at: the percent of the way at which a check passes.

    Returns:
        `PASSED`, `FAILED`, `UNCHECKED` or, where no setting has a feature loss, nothing; and the reason in words.
    """
    found, words = [], []
    for strategy, objective in dict.fromkeys(settings):
        of = runs[(runs["strategy"] == strategy) & (runs["objective"] == objective)]
        if of.empty or of["feature"].isna().all():
            continue
        parts = {}
        for kind in kinds:
            way = of.reindex(columns=[f"{kind}_moved"])[f"{kind}_moved"].mean(skipna=False)
            parts[kind] = _why_unknown(of, kind) if pd.isna(way) else f"{way:.0f} %"
            found.append(UNCHECKED if pd.isna(way) else PASSED if way >= passes_at else FAILED)
        weight = of["feature_weight"].iloc[0]
        beside = "; ".join(f"{KINDS[kind]}: {part}" for kind, part in parts.items() if kind != "own")
        own = f"{parts['own']} of the way" if "own" in parts else "part of the way"
        words.append(f"at w = {weight:g} {objective} moved the features of {strategy} {own}{beside and f' ({beside})'}")
    worst = next((one for one in (FAILED, UNCHECKED, PASSED) if one in found), "")
    return worst, "; ".join(words)


def _why_unknown(runs: pd.DataFrame, kind: str) -> str:
    """Why it is not known how far the loss of one setting moved its features."""
    parts = runs.reindex(columns=[f"{kind}_reached", f"{kind}_without"])
    if parts[f"{kind}_reached"].notna().all() and parts[f"{kind}_without"].isna().any():
        return f"an unknown part (no run of {runs['strategy'].iloc[0]} without the loss)"
    return "an unknown part (not recorded)"
