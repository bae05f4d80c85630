"""The paper's message in one figure: energy of single images and of all, and what the students gain on the plain one.

Drawn from a folder of results alone, so that the current run and every recorded study can have it.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.core.base.files import read_json
from stages.core.base.names import BASELINE, LABELS_ONLY, TEACHER
from stages.core.evidence.differences import PLAIN
from stages.core.evidence.results import read_table
from stages.core.evidence.statistics import NOT_SHOWN
from stages.core.evidence.studies import Study, latest
from stages.core.report import faces
from stages.core.report.figures.comparison import seed_differences
from stages.core.report.style import LIGHT, PER_IMAGE, SHARED, Look, Theme, backbone_name, looks, new_figure

LEVEL = 95  # percent of the energy whose dims are labelled
MOST = 18  # settings that are drawn; beyond, those of the paper alone
PAPER_STRATEGIES = (BASELINE, "lift", "widen")
PAPER_OBJECTIVES = (LABELS_ONLY, "mse", "spectral", "softkd", "softkd_mse", "softkd_spectral")


def source(results: Path, manifest: Path, studies: Sequence[Study]) -> tuple[Path, Path, str]:
    """Whose results the headline shows: the study that was recorded last, or the current run where there is none.

    Args:
        results, manifest: of the current run.
        studies: the recorded ones.

    Returns:
        The folder of results, the manifest of the images, and what the figure calls them.
    """
    last = latest(studies)
    if last is None:
        return results, manifest, "current run"
    return last.results, last.data, f"study {last.name}"


def face(results: Path, manifest: Path, name: str) -> str:
    """What stands on the headline's face; the arguments are what `source` returns."""
    runs, (_, svd, _) = read_table(results / "runs.csv"), _backbone(results)
    return f"{faces.backbone(read_json(manifest), svd)} · {faces.seeds(runs)} · {name}"


def headline(results: Path, theme: Theme = LIGHT, withheld: Collection[tuple[str, str]] = ()) -> tuple[Figure, str]:
    """Energy by dims for single images and for a shared basis, and the students' differences from the plain one.

    Args:
        results: a folder of results, as `summarize` wrote it, of the current run or of a study.
        theme: for a light or a dark page.
        withheld: settings whose feature loss was not applied strongly enough to say anything of it.
    """
    runs, differences = (read_table(results / f"{name}.csv") for name in ("runs", "differences"))
    rows = _from_plain(differences)
    backbone, svd, pca = _backbone(results)
    energy = read_table(results / "energy.csv")
    energy = energy[energy["backbone"] == backbone].sort_values("dims")
    figure = new_figure(9.6, max(4.3, 1.6 + 0.27 * len(rows)), theme)
    panels = figure.subplots(1, 2 if len(rows) else 1, squeeze=False, width_ratios=(1.3, 1)[: 2 if len(rows) else 1])
    for panel in panels.flat:  # ticks are made when they are drawn, perhaps in another figure's theme
        panel.tick_params(color=theme.foreground, labelcolor=theme.foreground, grid_color=theme.grid)
    left_caption = _energy(panels[0, 0], energy, svd, pca, int(runs["width"].min()), theme)
    if rows.empty:
        return figure, f"{left_caption} There is no plain student, to whose top-1 others could be compared."
    return figure, f"{left_caption} {_differences(panels[0, 1], rows, differences, runs, theme, withheld)}"


def _backbone(results: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The teacher, or else the first backbone that was analysed, with its parts of svd.json and pca.json."""
    svd, pca = (read_json(results / f"{name}.json") for name in ("svd", "pca"))
    name = TEACHER if TEACHER in svd else next(iter(svd))
    return name, svd[name], pca[name]


def _from_plain(differences: pd.DataFrame) -> pd.DataFrame:
    """The differences from the plain student, of the paper's settings alone where there are many."""
    rows = _against_plain(differences)
    if len(rows) > MOST:
        rows = rows[rows["strategy"].isin(PAPER_STRATEGIES) & rows["objective"].isin(PAPER_OBJECTIVES)]
    order = {name: place for place, name in enumerate(looks(rows["strategy"]))}
    return rows.sort_values("strategy", key=lambda names: names.map(order), kind="stable")


def _energy(
    panel: Axes, energy: pd.DataFrame, svd: Mapping[str, Any], pca: Mapping[str, Any], width: int, theme: Theme
) -> str:
    """Draw the median image's energy by dims in both bases, with bands down to the first percentile."""
    channels, level = svd["channels"], str(LEVEL if LEVEL in svd["thresholds"] else max(svd["thresholds"]))
    needed = {kind: of["dims_p99"][level] for kind, of in (("per_image", svd), ("shared", pca))}
    panel.set(xlim=(0, channels), ylim=(0, 104))
    panel.axhline(int(level), color=theme.grey, lw=0.9, ls=":")
    panel.axvline(width, color=theme.foreground, lw=1.1, ls=(0, (6, 3)))
    for kind, drawn in (("per_image", PER_IMAGE), ("shared", SHARED)):
        color, (low, middle) = theme.tone(drawn.color), (100 * energy[f"{kind}_p{percent}"] for percent in (1, 50))
        panel.fill_between(energy["dims"], low, middle, color=color, alpha=0.3, lw=0)
        panel.plot(energy["dims"], middle, color=color, ls=drawn.linestyle, lw=2)
    for kind, what, height, drawn in (
        ("per_image", "one image, its own basis", 38, PER_IMAGE),
        ("shared", "one basis for all images", 64, SHARED),
    ):
        text = f"{what}:\n{needed[kind]:g} dimensions hold {level} %"
        place = (min(needed[kind] + 0.1 * channels, 0.42 * channels), height)
        _point_at(panel, text, (needed[kind], int(level)), place, drawn, theme)
    beside = width < 0.6 * channels
    panel.annotate(
        f"the student's\nwidth: {width}",
        (width, 10),
        xytext=(6 if beside else -6, 0),
        textcoords="offset points",
        ha="left" if beside else "right",
        va="center",
        linespacing=1.15,
        color=theme.foreground,
    )
    panel.set(xlabel=f"dimensions, of {channels}", ylabel="share of an image's energy, %")
    name = "the teacher's last block" if svd["backbone"] == TEACHER else f"the last block of {backbone_name(svd)}"
    panel.set_title(f"energy in {name}")
    fits = (
        f"The shared basis fits into the student's width of {width}: here no mismatch of widths can be seen"
        if needed["shared"] <= width
        else f"One image fits into the student's width of {width}, the shared basis does not"
        if needed["per_image"] <= width
        else f"Not even one image fits into the student's width of {width}"
    )
    return (
        f"Left: energy of an image's last-block tokens in its first dimensions, {svd['images']:,} images of "
        f"`{svd['backbone']}`: the line is the median image, the band reaches down to the image at the first "
        f"percentile. For 99 % of the images {needed['per_image']:g} of {channels} dimensions hold {level} % of the "
        f"energy in a basis of their own, and {needed['shared']:g} in one basis for all. {fits}."
    )


def _point_at(
    panel: Axes, text: str, point: tuple[float, float], place: tuple[float, float], drawn: Look, theme: Theme
) -> None:
    """Mark `point`, and write what it is at `place`, with a line between the two."""
    color, start = theme.tone(drawn.color), (0, 0.5) if point[0] < place[0] else (0.6, 1)
    panel.plot(*point, marker=drawn.marker, color=color, mec=theme.background, ms=8, zorder=4)
    panel.annotate(
        text,
        point,
        xytext=place,
        color=color,
        va="center",
        linespacing=1.15,
        bbox={"facecolor": theme.background, "alpha": 0.85, "lw": 0, "pad": 2},
        arrowprops={"arrowstyle": "-", "color": color, "lw": 1, "shrinkA": 0, "shrinkB": 5, "relpos": start},
    )


def _differences(
    panel: Axes,
    rows: pd.DataFrame,
    differences: pd.DataFrame,
    runs: pd.DataFrame,
    theme: Theme,
    withheld: Collection[tuple[str, str]],
) -> str:
    """Draw each setting's difference from the plain student with its interval, and those of its single seeds."""
    drawn = looks(runs["strategy"])
    panel.axvline(0, color=theme.grey, lw=1.1)
    for place, row in enumerate(rows.to_dict("records")):
        look = drawn[row["strategy"]]
        said = (row["strategy"], row["objective"]) not in withheld
        color, shown = theme.tone(look.color), said and row["verdict"] != NOT_SHOWN
        panel.hlines(place, row["low"], row["high"], color=color, lw=2)
        seeds = seed_differences(runs, (row["strategy"], row["objective"]), PLAIN)
        panel.plot(seeds, np.full(len(seeds), place + 0.27), ".", color=color, alpha=0.7, ms=6)
        face = color if shown else theme.background
        panel.plot(row["difference"], place, marker=look.marker, color=color, mfc=face, mew=1.6, ms=8)
    panel.set_yticks(range(len(rows)), [f"{row.strategy}, {row.objective}" for row in rows.itertuples()])
    for tick, strategy in zip(panel.get_yticklabels(), rows["strategy"], strict=True):
        tick.set_color(theme.tone(drawn[strategy].color))
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(visible=False, axis="y")
    panel.set(xlabel="difference in top-1, points")
    panel.set_title("students against the plain one")
    told = [setting not in withheld for setting in zip(rows["strategy"], rows["objective"], strict=True)]
    shown = rows[(rows["verdict"] != NOT_SHOWN) & np.array(told, dtype=bool)]
    weak = " A hollow one says nothing where the feature loss was not applied strongly enough, or not checked."
    found = ", ".join(f"{row.strategy} with {row.objective} {row.difference:+.2f}" for row in shown.itertuples())
    every = len(_against_plain(differences))
    left_out = "" if len(rows) == every else f", {len(rows)} of {every}"
    return (
        f"Right: top-1 of each student minus that of `{PLAIN[0]}` with `{PLAIN[1]}`{left_out}, with intervals that "
        "hold together; dots are seeds. A filled marker, whose interval leaves out zero, is a difference that is "
        f"shown: {found or 'none here'}.{'' if all(told) else weak}"
    )


def _against_plain(differences: pd.DataFrame) -> pd.DataFrame:
    """The differences of all settings from the plain student."""
    strategy, objective = PLAIN
    return differences[(differences["against_strategy"] == strategy) & (differences["against_objective"] == objective)]
