"""Pairs of settings that separate the explanations of why a narrow student gains little from a teacher's features.

The paper's runs leave out a projector that is trained with the student. Each control answers one question: is it the
width, the missing projector, the basis, the norm of tokens, or the parameters that a remedy adds?
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stages.core.base.names import BASELINE, LABELS_ONLY, setting_name
from stages.core.evidence.statistics import HIGHER, LOWER

Setting = tuple[str, str]  # strategy, objective

NOT_RUN = "not run"
CONTROL_COLUMNS = ("question", "first", "second", "difference", "low", "high", "verdict", "reading")


@dataclass(frozen=True)
class Control:
    """A pair of settings and what their difference in top-1 says.

    Attributes:
        question: what it answers.
        first, second: strategy and objective; the difference is first minus second.
        higher, lower: what is shown where the first reaches more, or less.
    """

    question: str
    first: Setting
    second: Setting
    higher: str
    lower: str


def _of_relations(objective: str) -> tuple[Control, Control]:
    """`gram` and `relation` compare tokens with tokens: neither a width nor a basis enters."""
    return (
        Control(
            "Is it the basis, or the width?",
            (BASELINE, objective),
            (BASELINE, "mse"),
            f"a narrow student gains more from {objective}, which needs no common basis, than from pooled channels",
            f"without a common basis ({objective}) a narrow student gains less than from pooled channels",
        ),
        Control(
            "Is it the basis, or the width?",
            (BASELINE, objective),
            (BASELINE, "projector"),
            f"{objective}, which needs no basis, gives more than a basis that is learned",
            f"a learned basis gives more than {objective}, which needs none",
        ),
    )


CONTROLS = (
    Control(
        "Is it the width, or the missing projector?",
        (BASELINE, "projector"),
        (BASELINE, "mse"),
        "a projector trained with the student gains over pooled channels: the missing projector is part of the reason",
        "a projector trained with the student is worse than pooled channels: its absence was not the reason",
    ),
    Control(
        "What did the published control measure?",
        (BASELINE, "frozen_projector"),
        (BASELINE, "projector"),
        "a random projector that is never trained gives more than a trained one",
        "a random projector that is never trained gives less than a trained one, and cannot stand for it",
    ),
    *_of_relations("gram"),
    *_of_relations("relation"),
    Control(
        "Is it the norm of tokens?",
        ("lift", "normalized_mse"),
        ("lift", "mse"),
        "targets whose tokens have one norm suit Lift's LayerNorm better",
        "the teacher's norms of tokens are worth copying, in spite of Lift's LayerNorm",
    ),
    Control(
        "Does matching features help where widths are equal?",
        ("half", "mse"),
        ("half", LABELS_ONLY),
        "matching features helps a student of the teacher's own width",
        "matching features harms a student of the teacher's own width too: width is not the whole reason",
    ),
    *(
        Control(
            "Does matching features help behind the remedy?",
            (remedy, "mse"),
            (remedy, LABELS_ONLY),
            f"matching features helps a student with {remedy}",
            f"matching features harms a student with {remedy}: its gain over the plain one is not from matching",
        )
        for remedy in ("lift", "widen")
    ),
    Control(
        "Is it the width of the last block, or the parameters?",
        ("uniform", LABELS_ONLY),
        ("widen", LABELS_ONLY),
        "as many parameters in blocks of one width give more than a wide last block",
        "a wide last block gives more than as many parameters in blocks of one width",
    ),
)


def controls_table(differences: pd.DataFrame) -> pd.DataFrame:
    """Each control with its difference in top-1, its simultaneous interval, the verdict and its reading in words.

    Args:
        differences: as `differences_table` makes it, or differences.csv.
    """
    rows = {
        (row["strategy"], row["objective"], row["against_strategy"], row["against_objective"]): row
        for row in differences.to_dict("records")
    }
    table = [_row(control, rows.get((*control.first, *control.second))) for control in CONTROLS]
    return pd.DataFrame(table, columns=list(CONTROL_COLUMNS)).astype({"difference": float, "low": float, "high": float})


def _row(control: Control, row: Mapping[Any, Any] | None) -> dict[str, Any]:
    names = {"first": setting_name(*control.first), "second": setting_name(*control.second)}
    if row is None:
        missing = {"difference": None, "low": None, "high": None, "verdict": NOT_RUN}
        return {"question": control.question, **names, **missing, "reading": f"{NOT_RUN}, and nothing is shown"}
    measured = {key: row[key] for key in ("difference", "low", "high", "verdict")}
    return {"question": control.question, **names, **measured, "reading": _reading(control, row)}


def _reading(control: Control, row: Mapping[Any, Any]) -> str:
    if row["verdict"] in (HIGHER, LOWER):
        return f"shown: {control.higher if row['verdict'] == HIGHER else control.lower}"
    if pd.isna(row["low"]):
        return "nothing is shown: there is no interval"
    return (
        f"nothing is shown: the first may be up to {max(0, -row['low']):.2f} points worse or "
        f"{max(0, row['high']):.2f} better"
    )
