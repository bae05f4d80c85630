"""Show DVC's experiments in 80 columns: python -m stages.tools.experiments [--commits N].

One row per strategy and objective of the workspace (where it differs from the last commit), of that commit, and of each
experiment that was run, runs or is queued. `dvc exp show` has a column for every parameter and metric of the project.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from dvc.api import exp_show
from dvc.exceptions import DvcException

from stages.core.base.errors import UserError, run
from stages.core.base.names import BASELINE, LABELS_ONLY, Run

COLUMNS = ("experiment", "created", "state", "strategy", "objective", "seeds", "top-1", "vs plain")
RIGHT = ("seeds", "top-1", "vs plain")
DISPENSABLE = ("created", "seeds", "state")  # left out in this order where the terminal is too narrow
GAP = "  "
NOTES = (
    "top-1: mean over seeds, %. vs plain: minus the plain student (baseline, none)",
    "of the experiment, or of its commit where only strategy and objective differ;",
    "empty where that has other seeds: reports/results/differences.csv compares them.",
)
# What may differ between an experiment and its commit, whose plain student then is that of the experiment, too.
FREE = ("strategy.", "objective.", "grid.", "analysis.", "profile", "student.strategies.", "student.ablations")
PARAMS = ("dataset.", "teacher.", "student.", "recipe.", "seeds", *FREE)

Row = Mapping[str, Any]  # of dvc.api.exp_show
Setting = tuple[str, str]  # strategy and objective
NO_STUDENTS = ("no students", "")


def settings(row: Row) -> dict[Setting, list[int]]:
    """The seeds of every strategy and objective that an experiment's parameters name, in their order."""
    found: dict[Setting, list[int]] = {}
    for names in (_value(cell) for key, cell in row.items() if key.startswith("grid.runs.")):
        for one in map(Run.named, names if isinstance(names, list) else ()):  # of an older commit it is no list
            found.setdefault((one.strategy, one.objective), []).append(one.seed)
    if found:
        return found
    if _value(row.get("grid.blocks")) == []:
        return {NO_STUDENTS: []}
    strategies, objectives, seeds = (
        _value(row.get(key)) or [] for key in ("strategy.names", "objective.names", "seeds")
    )
    return {(strategy, objective): list(seeds) for strategy in strategies for objective in objectives}


def table(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The rows of `COLUMNS`, from those of `dvc.api.exp_show`; each experiment follows the commit it comes from."""
    shown: list[dict[str, str]] = []
    commit: Row = {}
    for place, row in enumerate(rows):
        of_commit = row["typ"] == "baseline"
        if of_commit:
            commit = row
        if row["rev"] == "workspace" and place + 1 < len(rows) and _same(row, rows[place + 1]):
            continue
        head = {
            "experiment": str(row["rev"] if of_commit else row["Experiment"] or row["rev"]),
            "created": str(row["Created"] or ""),
            "state": "" if of_commit else {"Success": "done"}.get(row["State"], row["State"] or "done").lower(),
        }
        for setting, seeds in settings(row).items():
            top1, plain = _top1(row, setting), _plain(row, commit, setting, seeds)
            difference = "" if top1 is None or plain is None or setting == (BASELINE, LABELS_ONLY) else top1 - plain
            shown.append(
                {
                    **head,
                    "strategy": setting[0],
                    "objective": setting[1],
                    "seeds": str(len(seeds)),
                    "top-1": "" if top1 is None else f"{top1:.2f}",
                    "vs plain": difference if isinstance(difference, str) else f"{difference:+.1f}",
                }
            )
            head = dict.fromkeys(head, "")  # said once
    return shown


def text(rows: Sequence[Mapping[str, str]], width: int) -> str:
    """Rows of `table` as lines, of at most `width` characters where leaving out `DISPENSABLE` columns suffices."""
    columns = [column for column in COLUMNS if any(row[column] for row in rows)]
    wide = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    for column in DISPENSABLE:
        if column in columns and sum(wide[one] for one in columns) + len(GAP) * (len(columns) - 1) > width:
            columns.remove(column)
    lines = [{column: column for column in columns}, {column: "-" * wide[column] for column in columns}, *rows]
    return "\n".join(
        GAP.join(
            line[column].rjust(wide[column]) if column in RIGHT else line[column].ljust(wide[column])
            for column in columns
        ).rstrip()
        for line in lines
    )


def _plain(row: Row, commit: Row, setting: Setting, seeds: Sequence[int]) -> float | None:
    """Top-1 of the plain student with which a setting can be compared, if there is one of the same seeds."""
    plain = (BASELINE, LABELS_ONLY)
    for of in (row, commit):
        same = of is row or _recipe(row) == _recipe(of)
        if same and sorted(settings(of).get(plain, [])) == sorted(seeds) and (found := _top1(of, plain)) is not None:
            return found
    return None


def _recipe(row: Row) -> dict[str, Any]:
    """The parameters that decide what the plain student reaches."""
    own = f"student.strategies.{BASELINE}.", f"objective.definitions.{LABELS_ONLY}."
    return {
        key: cell
        for key, cell in row.items()
        if key.startswith(own) or (key.startswith(PARAMS) and not key.startswith((*FREE, "seeds")))
    }


def _same(row: Row, other: Row) -> bool:
    """Whether parameters and metrics of two rows agree."""
    told = ("Experiment", "rev", "typ", "Created", "parent", "State", "Executor")
    return all(row[key] == other[key] for key in row if key not in told and "/" not in key)


def _top1(row: Row, setting: Setting) -> float | None:
    value = _value(row.get(".".join(("top1", *setting))))
    return None if value is None else float(value)


def _value(cell: Any) -> Any:
    """A cell as the value that it had: DVC gives numbers, and other values as text; what is missing is `None`."""
    return None if cell in (None, "", "None") else yaml.safe_load(cell) if isinstance(cell, str) else cell


def main() -> None:
    """Print the experiments of the last commits.

    Raises:
        UserError: there is no DVC project here, or DVC cannot read its experiments.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=1, metavar="N", help="of the last N commits (default: 1)")
    commits = parser.parse_args().commits
    if commits < 1:
        raise UserError(f"--commits {commits} must be 1 or more")
    try:
        rows = exp_show(num=commits)
    except DvcException as error:
        raise UserError(f"{' '.join(str(error).split())}; run this in the project's folder, a Git clone") from None
    shown = table(rows)
    if not shown:
        raise UserError("there is no experiment, and no strategy in params.yaml; `dvc exp run` makes one")
    print(text(shown, shutil.get_terminal_size((80, 24)).columns), *NOTES, sep="\n")


if __name__ == "__main__":
    run(main)
