"""The least error of a student, width by width, and the errors of the trained ones.

Every number in a caption is read from the data that the figure draws.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.core.base.names import TEACHER
from stages.core.report.figures.encoding import split
from stages.core.report.style import GREY, PER_IMAGE, SHARED, looks, new_figure

LOWEST = 1e-8  # float32 features do not resolve smaller errors


def width_floor(floors: pd.DataFrame, encoding: pd.DataFrame) -> tuple[Figure, str]:
    """The least relative error for each rank, and the errors of the trained students.

    Args:
        floors: floor.csv.
        encoding: encoding.csv.
    """
    teacher, (_, runs) = floors[floors["backbone"] == TEACHER], split(encoding)
    figure = new_figure(9.4, 4.8)
    panel = figure.subplots()
    for column, drawn_as, name in (
        ("shared", SHARED, "floor of one\nshared projector"),
        ("per_image", PER_IMAGE, "floor of one projector\nper image"),
    ):
        shown = teacher[teacher[column] > 0]
        panel.plot(shown["dims"], shown[column], color=drawn_as.color, ls=drawn_as.linestyle, label=name)
    drawn = looks(runs["strategy"])
    for strategy, style in drawn.items():
        rows = runs[runs["strategy"] == strategy]
        look: dict[str, Any] = {"color": style.color, "marker": style.marker, "ls": "none", "alpha": 0.8}
        panel.plot(rows["rank"], rows["probe_error"], mfc="none", **look)
        whole = _same_width(rows)
        panel.plot(whole["rank"], whole["relative_feature_error"], mec="white", mew=0.5, ms=6.5, **look)
    panel.set_yscale("log")
    panel.set_ylim(bottom=max(LOWEST, panel.get_ylim()[0]))
    panel.set_title("What a student can reach at best, and what the trained ones reached")
    panel.set(xlabel="rank d of the student's map, read by a linear projector", ylabel="relative error ‖S − T‖² / ‖T‖²")
    handles, _ = panel.get_legend_handles_labels()
    handles += [Line2D([], [], color=s.color, marker=s.marker, ls="none", label=name) for name, s in drawn.items()]
    handles += [
        Line2D([], [], color=GREY, marker="o", ls="none", label="its own map"),
        Line2D([], [], color=GREY, marker="o", mfc="none", ls="none", label="best projector on its map"),
    ]
    panel.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure, _caption(teacher, runs)


def _caption(teacher: pd.DataFrame, runs: pd.DataFrame) -> str:
    shared = teacher.set_index("dims")["shared"]
    rows = runs.assign(floor=runs["rank"].map(shared))
    images = int(runs["images"].iloc[0])
    narrow = rows[rows["rank"] == rows["rank"].min()]
    rank, best = narrow["rank"].iloc[0], narrow["probe_error"].min()
    reached = dict(rows.groupby("strategy", sort=False)["probe_error"].min())
    own = rows.loc[_same_width(rows).index]
    text = (
        "A student on the dashed line could not be nearer to its teacher at its rank; what separates it from that "
        f"line is no want of width. All is measured on the {images:,} images of the analysis sample. Lines: the energy "
        "of the teacher's tokens beyond d principal directions, which is the least error of any map of rank d that one "
        "fixed linear projector reads (Eckart–Young; energies are summed over images), and the same where each image "
        "has directions of its own. Open markers: the error of the best fixed linear projector from a trained "
        "student's tokens to the teacher's, fitted by least squares on every second image and measured on the others, "
        f"and the other way round; it compares all strategies: at best {_list(reached)}. {_null(runs)}"
        "The floor is that of a fit on all images, whose error is never above this one, and so bounds it too. "
    )
    if not own.empty:
        errors = dict(own.groupby("strategy", sort=False)["relative_feature_error"].min())
        text += (
            "Filled markers: the error of the map itself, for students as wide as the teacher (a narrower one has a "
            f"pooled target, to which the floor does not apply): at best {_list(errors)}. "
        )
    text += (
        f"At the narrowest map, rank {rank}, the floor is {narrow['floor'].iloc[0]:.2g} and the best projector "
        f"leaves {best:.2g}"
    )
    text += (
        ", far above it: these students' width is not what separates them from the teacher's features. "
        if best > 10 * narrow["floor"].iloc[0]
        else ". "
    )
    return text + (
        "A lifted map has at most the rank of the narrow map before its projector, plus one for the shift of its "
        f"LayerNorm. Floors below {LOWEST:g} are not drawn."
    )


def _null(runs: pd.DataFrame) -> str:
    """The error that students would have whose tokens are independent of the teacher's, from narrowest to widest."""
    half = runs["images"].iloc[0] // 2 * runs["rows"].iloc[0] * runs["columns"].iloc[0]  # tokens of a fit
    widths = sorted({int(runs["width"].min()), int(runs["width"].max())})
    expected = [f"{1 + width / (half - width - 1):.2f} at width {width}" for width in widths if half > width + 1]
    if not expected:
        return ""
    return f"A student that knows nothing of the teacher would have an error of about {' and '.join(expected)}. "


def _same_width(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose target is the teacher's whole map."""
    return runs[runs["width"] == runs["teacher_width"]]


def _list(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2g}" for name, value in values.items())
