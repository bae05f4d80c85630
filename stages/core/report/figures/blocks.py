"""What happens block by block: measures of Distillation Dynamics, and CKA of students' blocks with the teacher's."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from stages.core.base.names import TEACHER
from stages.core.report.style import looks, new_figure

PANELS = {
    "frequency_intensity": ("Frequency intensity", "mean |DFT over channels| / C"),
    "token_entropy": ("Token entropy", "bits"),
    "activation": ("Activations", "mean absolute value"),
    "gradient": ("Gradients", "mean |d true class's logit|"),
}
COLUMNS = 3  # of the heat maps
LABELLED = 64  # cells of a heat map, up to which each shows its value


def dynamics(blocks: pd.DataFrame) -> tuple[Figure, str]:
    """The four measures by depth: the teacher in black, each strategy the mean of its runs, by objective.

    Args:
        blocks: blocks.csv.
    """
    teacher, runs = blocks[blocks["strategy"] == TEACHER], blocks[blocks["strategy"] != TEACHER]
    objectives = list(dict.fromkeys(runs["objective"]))
    figure = new_figure(10.4, 2.7 * len(objectives) + 0.9)
    grid = figure.subplots(len(objectives), len(PANELS), squeeze=False, sharey="col")
    handles = {}
    for row, objective in enumerate(objectives):
        chosen = runs[runs["objective"] == objective]
        for panel, (measure, (title, label)) in zip(grid[row], PANELS.items(), strict=True):
            (handles[TEACHER],) = panel.plot(_depth(teacher), teacher[measure], color="black", lw=2.2, label=TEACHER)
            for strategy, drawn in looks(runs["strategy"]).items():
                means = chosen[chosen["strategy"] == strategy].groupby("block", as_index=False)[measure].mean()
                (handles[strategy],) = panel.plot(
                    _depth(means), means[measure], color=drawn.color, marker=drawn.marker, ms=4, ls=drawn.linestyle
                )
            _scale(panel, measure)
            panel.set_title(title if row == 0 else "")
            panel.set_ylabel(f"{objective}: {label}" if panel is grid[row][0] else label, fontsize="small")
            if row == len(objectives) - 1:
                panel.set_xlabel("depth, share of the blocks")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(6, len(handles)))
    figure.suptitle("Block by block, on the analysis sample")
    seeds = runs["seed"].nunique()
    last = teacher.iloc[-1]
    caption = (
        f"Every block's tokens (class tokens included) of the teacher ({len(teacher)} blocks) and of the students, "
        f"means over {seeds} {'seed' if seeds == 1 else 'seeds'}; a row for each objective. Depth is the block's "
        "number over the number of blocks. Entropy counts a token's channels in 100 bins between the least and the "
        "greatest value of all of the model's blocks. Gradients, on a logarithmic axis, are of the true class's logit "
        f"by the block's output. At the teacher's last block: intensity {last['frequency_intensity']:.3g}, entropy "
        f"{last['token_entropy']:.3g} bits, activation {last['activation']:.3g}, gradient {last['gradient']:.3g}."
    )
    return figure, caption


def kept_epochs(kept: pd.DataFrame, blocks: pd.DataFrame, objective: str) -> tuple[Figure, str]:
    """The four measures by depth through the training with one objective: a row for each strategy, means over seeds.

    Args:
        kept: kept_blocks.csv.
        blocks: blocks.csv, of the teacher and of the trained students.
        objective: which of the objectives is drawn.
    """
    teacher = blocks[blocks["strategy"] == TEACHER]
    kept, trained = (rows[rows["objective"] == objective] for rows in (kept, blocks))
    strategies, epochs = list(looks(kept["strategy"])), sorted(kept["epoch"].unique())
    shades = mpl.colormaps["cividis_r"](np.linspace(0.1, 0.9, len(epochs)))
    figure = new_figure(10.4, 2.5 * len(strategies) + 0.9)
    grid = figure.subplots(len(strategies), len(PANELS), squeeze=False, sharey="col")
    handles: dict[str, Any] = {}
    changes = []
    for row, strategy in enumerate(strategies):
        during, end = (
            rows[rows["strategy"] == strategy].groupby(by)[list(PANELS)].mean().reset_index()
            for rows, by in ((kept, ["epoch", "block"]), (trained, ["block"]))
        )
        for panel, (measure, (title, label)) in zip(grid[row], PANELS.items(), strict=True):
            (handles[TEACHER],) = panel.plot(_depth(teacher), teacher[measure], color="black", lw=2.2)
            for epoch, shade in zip(epochs, shades, strict=True):
                means = during[during["epoch"] == epoch]
                (handles[f"epoch {epoch}"],) = panel.plot(_depth(means), means[measure], color=shade, marker="o", ms=3)
            (handles["end of training"],) = panel.plot(_depth(end), end[measure], color="#D55E00", ls="--")
            _scale(panel, measure)
            panel.set_title(title if row == 0 else "")
            panel.set_ylabel(f"{strategy}: {label}" if panel is grid[row][0] else label, fontsize="small")
            if row == len(strategies) - 1:
                panel.set_xlabel("depth, share of the blocks")
        first, last = (rows["token_entropy"].iloc[-1] for rows in (during[during["epoch"] == epochs[0]], end))
        changes.append(f"{strategy} {first:.2f}, then {last:.2f}")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(6, len(handles)))
    figure.suptitle(f"Block by block through training, {objective}")
    seeds = kept["seed"].nunique()
    caption = (
        f"As figure `dynamics`, of the students trained with {objective} after {_list(epochs)} "
        f"{'epoch' if epochs == [1] else 'epochs'} and at the end (dashed), means over {seeds} "
        f"{'seed' if seeds == 1 else 'seeds'}, beside the trained teacher (black). Entropy at the last block, in bits, "
        f"at the first of these epochs and at the end: {'; '.join(changes)}."
    )
    return figure, caption


def cka(table: pd.DataFrame) -> tuple[Figure, str]:
    """Heat maps of CKA, student's blocks against teacher's, one for each setting.

    Args:
        table: cka.csv.
    """
    means = table.groupby(["strategy", "objective", "block", "teacher_block"], sort=False)["cka"].mean().reset_index()
    settings = list(dict.fromkeys(zip(means["strategy"], means["objective"], strict=True)))
    columns = min(COLUMNS, len(settings))
    rows = -(-len(settings) // columns)
    figure = new_figure(3.1 * columns + 1.0, 2.9 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False)
    highest = []
    for panel, (strategy, objective) in zip(panels.flat, settings, strict=False):
        chosen = means[(means["strategy"] == strategy) & (means["objective"] == objective)]
        shown = chosen.pivot(index="block", columns="teacher_block", values="cka")
        image = panel.imshow(shown, origin="lower", vmin=0, vmax=1, cmap="cividis", aspect="auto")
        panel.grid(visible=False)
        if shown.size <= LABELLED:
            for (row, column), value in np.ndenumerate(shown.to_numpy()):
                color = "black" if value > 0.6 else "white"
                panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="x-small", color=color)
        panel.set_title(f"{strategy}, {objective}", fontsize="small")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.yaxis.get_major_locator().set_params(integer=True)
        panel.set(xlabel="teacher's block", ylabel="student's block")
        last = shown.iloc[-1]
        highest.append(f"{strategy} with {objective} {last.iloc[-1]:.2f}")
    for panel in panels.flat[len(settings) :]:
        panel.remove()
    figure.colorbar(image, ax=list(panels.flat[: len(settings)]), label="CKA", shrink=0.8)
    figure.suptitle("CKA of the students' blocks with the teacher's")
    seeds = table["seed"].nunique()
    caption = (
        "Linear CKA (unbiased over minibatches of the analysis sample) of every block of a student with every block of "
        f"the teacher, mean over {seeds} {'seed' if seeds == 1 else 'seeds'}. A bright diagonal means that depth "
        f"corresponds to depth. Last block with last block: {'; '.join(highest)}."
    )
    return figure, caption


def _scale(panel: Axes, measure: str) -> None:
    """Gradients differ by factors between blocks and models: their axis is logarithmic."""
    if measure == "gradient":
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _list(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values[:-1]) + (" and " if values[1:] else "") + str(values[-1])


def _depth(rows: pd.DataFrame) -> pd.Series:
    return (rows["block"] + 1) / (rows["block"].max() + 1)
