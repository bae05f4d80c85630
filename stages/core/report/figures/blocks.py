"""What happens block by block: measures of Distillation Dynamics, and CKA of students' blocks with the teacher's."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from stages.core.base.names import TEACHER, plural
from stages.core.report.style import look, looks, new_figure, whole_numbers

PANELS = {
    "frequency_intensity": ("Frequency intensity", "mean |DFT over channels| / C"),
    "token_entropy": ("Token entropy", "bits"),
    "activation": ("Activations", "mean absolute value"),
    "gradient": ("Gradients", "mean |d true class's logit|"),
}
READING = (
    "Depth is the block's number over the number of blocks. Entropy counts a token's channels in 100 bins between the "
    "least and the greatest value of all of the model's blocks. Gradients, on a logarithmic axis, are of the true "
    "class's logit by the block's output."
)
COLUMNS, MOST_COLUMNS = 3, 4  # of the heat maps
LABELLED = 64  # cells of a heat map, up to which each shows its value


def dynamics(blocks: pd.DataFrame) -> tuple[Figure, str]:
    """The four measures by depth: the teacher in black, each strategy the mean of its runs, by objective.

    Args:
        blocks: blocks.csv.
    """
    teacher, runs = blocks[blocks["strategy"] == TEACHER], blocks[blocks["objective"].notna()]
    objectives = list(dict.fromkeys(runs["objective"]))
    figure = new_figure(11, 2.8 * len(objectives) + 1)
    grid = figure.subplots(len(objectives), len(PANELS), squeeze=False, sharey="col")
    handles = {}
    for row, objective in enumerate(objectives):
        chosen = runs[runs["objective"] == objective]
        for panel, measure in zip(grid[row], PANELS, strict=True):
            (handles[TEACHER],) = panel.plot(_depth(teacher), teacher[measure], color="black", lw=2.2, label=TEACHER)
            for strategy, drawn in looks(runs["strategy"]).items():
                for _, one in chosen[chosen["strategy"] == strategy].groupby("seed"):
                    panel.plot(_depth(one), one[measure], color=drawn.color, lw=0.7, alpha=0.35)
                means = chosen[chosen["strategy"] == strategy].groupby("block", as_index=False)[measure].mean()
                (handles[strategy],) = panel.plot(
                    _depth(means), means[measure], color=drawn.color, marker=drawn.marker, ms=4, ls=drawn.linestyle
                )
        _label(grid, row, f"objective {objective}")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(6, len(handles)))
    figure.suptitle("Block by block, on the analysis sample")
    seeds = runs["seed"].nunique()
    last = teacher.iloc[-1]
    caption = (
        f"Every block's tokens (class tokens included) of the teacher ({len(teacher)} blocks) and of the students, "
        f"means over {plural(seeds, 'seed')} (faint: each seed); a row for each objective. A "
        f"student that encodes from block to block as its teacher does has a line of the black one's shape. {READING} "
        f"At the teacher's last block: intensity {last['frequency_intensity']:.3g}, entropy "
        f"{last['token_entropy']:.3g} bits, activation {last['activation']:.3g}, gradient {last['gradient']:.3g}."
    )
    return figure, caption


def of_backbones(blocks: pd.DataFrame) -> tuple[Figure, str]:
    """The four measures by depth of the models that were not trained here, or of the teacher.

    Args:
        blocks: blocks.csv.
    """
    models = blocks[blocks["objective"].isna()]
    figure = new_figure(11, 4 + 0.25 * (models["run"].nunique() // 3))
    grid = figure.subplots(1, len(PANELS), squeeze=False)
    handles, ends = {}, []
    for position, (name, rows) in enumerate(models.groupby("run", sort=False)):
        drawn = look(position)
        for panel, measure in zip(grid[0], PANELS, strict=True):
            (handles[name],) = panel.plot(
                _depth(rows), rows[measure], color=drawn.color, marker=drawn.marker, ms=4, ls=drawn.linestyle
            )
        last = rows.iloc[-1]
        ends.append(
            f"`{name}` intensity {last['frequency_intensity']:.3g}, entropy {last['token_entropy']:.3g} bits, "
            f"activation {last['activation']:.3g}, gradient {last['gradient']:.3g}"
        )
    _label(grid, 0, "")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(3, len(handles)))
    figure.suptitle("Block by block, on the analysis sample")
    caption = (
        f"Every block's tokens (class tokens included) of {plural(len(ends), 'model')}. {READING} At the last block: "
        f"{'; '.join(ends)}."
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
    figure = new_figure(11, 2.7 * len(strategies) + 1)
    grid = figure.subplots(len(strategies), len(PANELS), squeeze=False, sharey="col")
    handles: dict[str, Any] = {}
    changes = []
    for row, strategy in enumerate(strategies):
        during, end = (
            rows[rows["strategy"] == strategy].groupby(by)[list(PANELS)].mean().reset_index()
            for rows, by in ((kept, ["epoch", "block"]), (trained, ["block"]))
        )
        for panel, measure in zip(grid[row], PANELS, strict=True):
            (handles[TEACHER],) = panel.plot(_depth(teacher), teacher[measure], color="black", lw=2.2)
            for epoch, shade in zip(epochs, shades, strict=True):
                means = during[during["epoch"] == epoch]
                (handles[f"epoch {epoch}"],) = panel.plot(_depth(means), means[measure], color=shade, marker="o", ms=3)
            (handles["end of training"],) = panel.plot(_depth(end), end[measure], color="#D55E00", ls="--")
        _label(grid, row, strategy)
        first, last = (rows["token_entropy"].iloc[-1] for rows in (during[during["epoch"] == epochs[0]], end))
        changes.append(f"{strategy} {first:.2f}, then {last:.2f}")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(6, len(handles)))
    figure.suptitle(f"Block by block through training, {objective}")
    seeds = kept["seed"].nunique()
    caption = (
        f"As figure `dynamics`, of the students trained with {objective} after {_list(epochs)} "
        f"{'epoch' if epochs == [1] else 'epochs'} and at the end (dashed), means over "
        f"{plural(seeds, 'seed')}, beside the trained teacher (black). Entropy at the last block, in bits, "
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
    objectives = means["objective"].nunique()
    # A row for each strategy where the objectives fit beside one another.
    columns = objectives if 1 < objectives <= MOST_COLUMNS else min(COLUMNS, len(settings))
    rows = -(-len(settings) // columns)
    figure = new_figure(3.4 * columns + 1.0, 2.9 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False)
    highest = []
    for place, (panel, (strategy, objective)) in enumerate(zip(panels.flat, settings, strict=False)):
        chosen = means[(means["strategy"] == strategy) & (means["objective"] == objective)]
        shown = chosen.pivot(index="block", columns="teacher_block", values="cka")
        image = panel.imshow(shown, origin="lower", vmin=0, vmax=1, cmap="cividis", aspect="auto")
        panel.grid(visible=False)
        if shown.size <= LABELLED:
            for (row, column), value in np.ndenumerate(shown.to_numpy()):
                color = "black" if value > 0.6 else "white"
                panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small", color=color)
        panel.set_title(f"{strategy}, {objective}")
        whole_numbers(panel)
        if place + columns >= len(settings):
            panel.set_xlabel("teacher's block (0 is the first)")
        if place % columns == 0:
            panel.set_ylabel("student's block")
        last = shown.iloc[-1]
        highest.append(f"{strategy} with {objective} {last.iloc[-1]:.2f}")
    for panel in panels.flat[len(settings) :]:
        panel.remove()
    figure.colorbar(image, ax=list(panels.flat[: len(settings)]), label="CKA", shrink=0.8)
    figure.suptitle("CKA of the students' blocks with the teacher's")
    seeds = table["seed"].nunique()
    caption = (
        "Linear CKA (unbiased over minibatches of the analysis sample) of every block of a student with every block of "
        f"the teacher, mean over {plural(seeds, 'seed')}. A bright diagonal means that depth "
        "corresponds to depth; a row of one colour means that the student's block is like all of the teacher's alike. "
        f" Last block with last block: {'; '.join(highest)}."
    )
    return figure, caption


def _label(grid: np.ndarray, row: int, name: str) -> None:
    """Scale and name the axes of a row of panels, one for each of `PANELS`.

    Gradients differ by factors between blocks and models: their axis is logarithmic.

    Args:
        grid: all rows of panels.
        row: which.
        name: what the row is of; nothing where it is the only one.
    """
    for place, (panel, (measure, (title, label))) in enumerate(zip(grid[row], PANELS.items(), strict=True)):
        if measure == "gradient":
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_title(title if row == 0 else "")
        panel.set_ylabel(f"{name}\n{label}" if name and place == 0 else label, fontsize="small")
        if row == len(grid) - 1:
            panel.set_xlabel("depth, share of the blocks", fontsize="small")


def _list(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values[:-1]) + (" and " if values[1:] else "") + str(values[-1])


def _depth(rows: pd.DataFrame) -> pd.Series:
    return (rows["block"] + 1) / (rows["block"].max() + 1)
