"""What the registered questions found: sentences and tables, made from tables of results alone.

A sentence says what was applied, how far it moved the features and how top-1 changed; it names no cause.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stages.core.base.names import setting_name
from stages.core.evidence.applied import FAILED, check, means
from stages.core.evidence.applied import UNCHECKED as UNKNOWN
from stages.core.evidence.questions import CONTRARY, NOT_RUN, NOT_SHOWN, SHOWN, UNCHECKED, WEAK, Questions
from stages.core.report.markup import Badge, Lines

ASKED_HERE = "Asked here, not by the paper"  # questions of this project
PROJECT = "project"


def weak_teacher(top1: float | None, register: Questions) -> str:
    """What every sentence says of a teacher below the register's top-1; nothing of another, or of one not measured."""
    return ", by a weak teacher" if top1 is not None and top1 < register.teacher_top1 else ""


def interval(low: float, high: float) -> str:
    """An interval in points; a dash where there is none."""
    return "–" if pd.isna(low) else f"{low:+.2f} to {high:+.2f}"


def looks(study: str, seeds: int, register: Questions) -> str:
    """How often results were looked at, and with how many seeds of those planned, in a sentence.

    Args:
        study: whose results; a name that the register does not have was looked at once.
        seeds: of most of its questions.
        register: the questions.
    """
    of = list(register.looks.get(study, [seeds]))
    counted = ", then ".join(map(str, of))
    text = f"Looked at with {counted} {'seed' if of[-1] == 1 else 'seeds'}, {register.seeds} planned"
    return f"{text}: intervals hold less than they say." if len(of) > 1 else f"{text}."


def registered(table: pd.DataFrame, date: str) -> str:
    """How many questions were not registered before the day on which the runs were recorded; or nothing.

    Args:
        table: questions.csv, or `questions_table`.
        date: when the study was recorded, as ISO 8601 writes it.
    """
    late = int((table[table["verdict"] != NOT_RUN]["registered"].astype(str) >= date).sum())
    return f"{late} questions are younger than these runs." if late else ""


def sentence(row: Mapping[Any, Any], register: Questions, teacher: str = "") -> str:
    """One question in a sentence: what was applied, how far it moved the features, and how top-1 changed.

    Args:
        row: of questions.csv.
        register: the questions.
        teacher: what `weak_teacher` says.
    """
    head = f"{row['asks'][0].upper()}{row['asks'][1:]} (`{row['contrast']}`{teacher}): "
    moved = "" if pd.isna(row["moved"]) or not row["moved"] else f"{row['moved']}; "
    if row["verdict"] == WEAK:
        return f"{head}{moved}{WEAK} ({register.passes_at:g} % are asked)."
    if row["verdict"] not in (SHOWN, CONTRARY, NOT_SHOWN):
        return f"{head}{row['verdict']}: {row['reason']}."
    alone = f"; paired t alone {interval(row['paired_low'], row['paired_high'])}"
    unread = "" if pd.isna(row["unread"]) or not row["unread"] else _unread(str(row["unread"]).split(", "))
    return (
        f"{head}{moved}top-1 changed by {row['difference']:+.2f} ({interval(row['low'], row['high'])}{alone}): "
        f"{row['verdict']}.{unread}"
    )


def _unread(strategies: Sequence[str]) -> str:
    return f" The head of {' and of '.join(f'`{one}`' for one in strategies)} does not read the matched tokens."


def rows(table: pd.DataFrame, register: Questions, teacher: str = "") -> list[dict[str, Any]]:
    """The table of all questions that were run: contrast, intervals, manipulation check and verdict.

    Args:
        table: questions.csv, or `questions_table`.
        register: the questions.
        teacher: what `weak_teacher` says.
    """
    return [
        {
            "question": Lines(row["asks"], f"{row['about']}, asked by {row['asked_by']}; expected {row['expected']}"),
            "contrast": row["contrast"],
            "points": "–" if pd.isna(row["difference"]) else f"{row['difference']:+.2f}",
            "interval": interval(row["low"], row["high"]),
            "paired t alone": interval(row["paired_low"], row["paired_high"]),
            "features": row["moved"] or "–",
            "verdict": Badge(row["verdict"]),
            "seeds": f"{row['seeds']} of {row['planned_seeds']}",
        }
        for row in table[table["verdict"] != NOT_RUN].to_dict("records")
    ]


def grouped(table: pd.DataFrame, teacher: str = "", *, alone: bool = True) -> list[str]:
    """What this project asked beside the paper, a sentence for each verdict that says something.

    Args:
        table: questions.csv, or `questions_table`.
        teacher: what `weak_teacher` says.
        alone: with the paired t's interval beside the other.
    """
    asked = table[table["asked_by"] == PROJECT]
    found = []
    for verdict in (SHOWN, CONTRARY, NOT_SHOWN):
        of = asked[asked["verdict"] == verdict].to_dict("records")
        listed = "; ".join(
            f"{row['asks']}, {row['difference']:+.2f} ({interval(row['low'], row['high'])}"
            f"{'; paired t alone ' + interval(row['paired_low'], row['paired_high']) if alone else ''})"
            for row in of
        )
        found += [f"**{ASKED_HERE}: {verdict}{teacher}**: {listed}."] if of else []
    return found


def unsaid(table: pd.DataFrame) -> str:
    """What the questions are about of whose losses nothing can be said, as a list; or nothing.

    Args:
        table: questions.csv, or `questions_table`.
    """
    weak = table[(table["asked_by"] == PROJECT) & table["verdict"].isin([WEAK, UNCHECKED])]
    return ", ".join(dict.fromkeys(weak["about"]))


def moved_sentence(runs: pd.DataFrame, register: Questions, *, brief: bool = False) -> str:
    """How far each feature loss moved the features, in one sentence; nothing where there is none.

    Args:
        runs: runs.csv with `applied.APPLIED_COLUMNS`.
        register: the questions.
        brief: without the names of what was not recorded.
    """
    known = means(runs)
    with_loss = runs[runs["feature"].notna()]
    settings = list(dict.fromkeys(zip(with_loss["strategy"], with_loss["objective"], strict=True)))
    if not settings:
        return ""
    told = {setting_name(*one): float(np.asarray(known.at[one, "own_moved"])) for one in settings}
    parts = [f"`{name}` {way:.0f} %" for name, way in told.items() if not pd.isna(way)]
    unknown = [f"`{name}`" for name, way in told.items() if pd.isna(way)]
    text = f"**How far losses moved features** ({register.passes_at:g} % of the way are asked): "
    text += ", ".join(parts)
    if brief:
        return f"{text}."
    if known["own_equal_moved"].isna().all():
        unknown.append("anything with every direction counted alike")
    return text + (f"; not recorded: {', '.join(unknown)}." if unknown else ".")


def withheld(runs: pd.DataFrame, register: Questions) -> list[tuple[str, str]]:
    """The settings whose feature loss was not applied strongly enough to say anything of it, or was not checked.

    Args:
        runs: runs.csv with `applied.APPLIED_COLUMNS`.
        register: the questions.
    """
    settings = dict.fromkeys(zip(runs["strategy"], runs["objective"], strict=True))
    return [one for one in settings if check(runs, [one], register.checks, register.passes_at)[0] in (FAILED, UNKNOWN)]


def applied_rows(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The manipulation check of every setting with a feature loss, as means over seeds.

    Args:
        runs: runs.csv with `applied.APPLIED_COLUMNS`.
    """
    weights = runs[runs["feature"].notna()].groupby(["strategy", "objective"], sort=False)["feature_weight"].first()
    known = means(runs).join(weights, how="inner").reset_index()
    found = []
    for of in known.to_dict("records"):
        found.append(
            {
                "setting": setting_name(of["strategy"], of["objective"]),
                "w": f"{of['feature_weight']:g}",
                **{
                    head: _way(of, kind)
                    for head, kind in (
                        ("its own loss: without → reached (least)", "own"),
                        ("best projector's error: without → reached (least)", "probe"),
                    )
                },
                **{
                    head: "–" if pd.isna(of[f"{kind}_moved"]) else f"{of[f'{kind}_moved']:.0f} %"
                    for head, kind in (
                        ("of the way", "own"),
                        ("directions alike", "own_equal"),
                        ("projector: of the way", "probe"),
                        ("projector, directions alike", "probe_equal"),
                    )
                },
                "share of the loss": "–" if pd.isna(of["loss_share"]) else f"{100 * of['loss_share']:.2g} %",
                "gradient / cross-entropy's": "–" if pd.isna(of["gradient_ratio"]) else f"{of['gradient_ratio']:.2g}",
            }
        )
    return found


def _way(of: Mapping[Any, Any], kind: str) -> str:
    without, reached, floor = (
        "–" if pd.isna(of[f"{kind}_{part}"]) else f"{of[f'{kind}_{part}']:.3g}"
        for part in ("without", "reached", "floor")
    )
    return "–" if reached == "–" else f"{without} → {reached} ({floor})"


def two_by_two(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Width × reading: what matching changed in each cell, and the differences of these; empty where a cell is not run.

    Args:
        table: questions.csv, or `questions_table`.
    """
    known = {row["question"]: row for row in table.to_dict("records")}
    names = {
        ("narrow", "class token"): "baseline_mse",
        ("narrow", "matched tokens"): "pooled_mse",
        ("narrow", "difference"): "reading_by_loss",
        ("wide", "class token"): "widen_mse",
        ("wide", "matched tokens"): "widen_pooled_mse",
        ("wide", "difference"): "reading_by_loss_wide",
        ("difference", "class token"): "width_by_loss_widen",
        ("difference", "matched tokens"): "width_by_loss_where_read",
    }
    if any(known[name]["verdict"] == NOT_RUN for name in names.values()):
        return []
    cells: dict[str, dict[str, Any]] = {}
    for (width, reading), name in names.items():
        row = known[name]
        shown = row["verdict"] in (SHOWN, CONTRARY, NOT_SHOWN)
        text = f"{row['difference']:+.2f} ({interval(row['low'], row['high'])})"
        cells.setdefault(width, {"last block": width})[f"head reads: {reading}"] = (
            text if shown else Lines(text, row["verdict"])
        )
    cells["difference"]["head reads: difference"] = None  # no question is a difference of three
    return list(cells.values())
