"""How trained students encode images beside their teacher.

Every number in a caption is read from the data that the figure draws.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.core.base.names import TEACHER
from stages.core.report.figures.distillation import by_objective
from stages.core.report.style import GREY, looks, new_figure
from stages.core.report.tables.encoding import threshold


def encoding(rows: pd.DataFrame) -> tuple[Figure, str]:
    """How the trained students encode images beside the teacher: a panel for each measure.

    Args:
        rows: encoding.csv.
    """
    teacher, runs = split(rows)
    per_image, shared, sep = (
        threshold(rows.columns, kind) for kind in ("per_image_mean", "shared_global", "bandwidth_folded")
    )
    panels = {
        "cka": ("Linear CKA with the teacher", "CKA"),
        "probe_error": ("Error of the best linear projector", "relative error"),
        f"per_image_mean_{per_image}": (f"SVD: dims of one image, {per_image} %", "dims, mean over images"),
        f"shared_global_{shared}": (f"PCA: dims of all images, {shared} %", "dims"),
        "participation_shared": ("PCA: participation ratio", "dims"),
        f"bandwidth_folded_{sep}": (f"SEP: bandwidth at {sep} %, folded", "share of the bins"),
    }
    figure = new_figure(max(10.5, 2.4 * runs["objective"].nunique()), 6.2)
    for place, (panel, (key, (title, label))) in enumerate(
        zip(figure.subplots(2, 3).flat, panels.items(), strict=True)
    ):
        by_objective(panel, runs, key, label)
        panel.set_xlabel("objective" if place > 2 else None)
        panel.set_title(title)
        if key not in ("cka", "probe_error"):
            panel.axhline(teacher[key], color=GREY, ls=":")
        if key == f"bandwidth_folded_{sep}":
            panel.axhline(runs[f"permuted_{key}"].mean(), color=GREY, lw=0.8, ls="--")
        panel.set_ylim(bottom=0, top=1.05 if key == "cka" or key.startswith("bandwidth") else None)
        if runs["objective"].nunique() > 3:
            panel.tick_params(axis="x", labelrotation=30)
    handles = [
        Line2D([], [], color=s.color, marker=s.marker, ls="none", label=name)
        for name, s in looks(runs["strategy"]).items()
    ]
    handles.append(Line2D([], [], color=GREY, ls=":", label="teacher"))
    handles.append(Line2D([], [], color=GREY, ls="--", lw=0.8, label="channels permuted (SEP)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    figure.suptitle("The students' encoding after training")
    images = int(teacher["images"])
    text = (
        f"The last block of every trained student on the {images:,} images of the analysis sample; points are seeds, "
        "bars their means, the dotted line is the teacher: what moves an encoding towards the teacher's raises "
        "CKA, lowers the error, and brings the points to the dotted line. The best projector's error is measured on "
        f"images that it was not fitted on (each half in turn). {_towards(runs)} The teacher needs "
        f"{teacher[f'per_image_mean_{per_image}']:.3g} dims for {per_image} % of one image's energy and "
        f"{teacher[f'shared_global_{shared}']:.3g} for {shared} % of all images'. Dims are counts, bounded by the "
        "width. SEP depends on the order of the channels, which is arbitrary: under random orders the bandwidth is "
        f"{runs[f'permuted_bandwidth_folded_{sep}'].mean():.3f} on average (dashed), and one bin is worth "
        f"{1 / (runs['width'].max() // 2 + 1):.3f} or more."
    )
    return figure, text


def _towards(runs: pd.DataFrame) -> str:
    """CKA of each strategy, without and with each other objective."""
    means = runs.groupby(["strategy", "objective"], sort=False)["cka"].mean().unstack("objective", sort=False)
    parts = []
    for strategy, row in means.iterrows():
        others = "; ".join(
            f"{value:.2f} with {name}" for name, value in row.items() if name != "none" and not pd.isna(value)
        )
        alone = f"{row['none']:.2f} on labels alone" if "none" in row and not pd.isna(row["none"]) else ""
        parts.append(f"{strategy} " + ", ".join(filter(None, (alone, others))))
    return f"Mean CKA with the teacher: {'; '.join(parts)}."


def split(rows: pd.DataFrame) -> tuple[pd.Series, pd.DataFrame]:
    """The teacher's row of encoding.csv, and the runs with its width."""
    teacher = rows[rows["run"] == TEACHER].iloc[0]
    return teacher, rows[rows["run"] != TEACHER].assign(teacher_width=teacher["width"])
