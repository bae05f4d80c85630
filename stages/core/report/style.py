"""One style for every figure: readable by the colour-blind and in grey; equal figures give equal files."""

from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from stages.core.base.files import atomic

PNG_DPI = 150
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too; without yellow, too pale for lines. The
# last two are Tol's wine and olive.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#7F7F7F"),
    *("#882255", "#999933"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "h")
LINES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    ":",
    (0, (5, 1)),
    (0, (3, 1, 1, 1)),
    (0, (1, 1)),
    (0, (6, 2, 1, 2, 1, 2)),
    (0, (8, 3)),
    (0, (2, 2)),
)
GREY = "#595959"
# These strategies look the same in every figure, whichever others are present.
KNOWN = (
    "baseline",
    "lift",
    "widen",
    "uniform",
    "half",
    "copy",
    "lift_two_thirds",
    "lift_five_sixths",
    "widen_linear",
    "widen_three_heads",
)


@dataclass(frozen=True)
class Look:
    """How one series is drawn."""

    color: str
    marker: str
    linestyle: Any


def look(position: int) -> Look:
    """The look of the series at `position`; looks repeat after ten."""
    return Look(*(kinds[position % len(kinds)] for kinds in (PALETTE, MARKERS, LINES)))


def looks(strategies: Iterable[str]) -> dict[str, Look]:
    """Each strategy's look, in the order in which figures and legends name them."""
    present = list(dict.fromkeys(strategies))
    known = [name for name in KNOWN if name in present]
    others = sorted(set(present) - set(KNOWN))
    positions = {name: KNOWN.index(name) for name in known}
    free = [position for position in reversed(range(len(PALETTE))) if position not in positions.values()] or [0]
    positions |= {name: free[index % len(free)] for index, name in enumerate(others)}
    return {name: look(position) for name, position in positions.items()}


def use() -> None:
    """Set the style for every figure made after this call."""
    sns.set_theme(context="notebook", style="ticks", palette=list(PALETTE), font="DejaVu Sans", font_scale=0.85)
    mpl.rcParams.update(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#E3E3E3",
            "grid.linewidth": 0.7,
            "axes.axisbelow": True,
            "axes.titlesize": "medium",
            "figure.titlesize": "large",
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "lines.markersize": 5,
            "svg.hashsalt": "stages",
            "svg.fonttype": "path",
        }
    )


def backbone_name(of: Mapping[Any, Any]) -> str:
    """A backbone's name in titles and captions; random weights are marked.

    Args:
        of: the backbone's part of svd.json, pca.json, sep.json or rotation.json, or a row of backbones.csv.
    """
    return f"{of.get('name', of.get('backbone'))}{' (random weights)' if of['weights'] == 'random' else ''}"


def count(items: Sized, noun: str) -> str:
    """The number of items with their noun, as `1 block` or `24 blocks`."""
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def edges(values: Any, most: int = 40) -> np.ndarray:
    """The edges of a histogram of whole numbers, halfway between them: at most `most` bins, each equally wide."""
    least, largest = int(np.min(values)), int(np.max(values))
    step = max(1, -(-(largest - least + 1) // most))
    return np.arange(least - 0.5, largest + step + 0.5, step)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in this style, `width` × `height` inches, that spaces its axes itself."""
    use()
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `figure` as folder/NAME.svg and folder/NAME.png; equal figures give equal bytes."""
    metadata: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with mpl.rc_context({"svg.hashsalt": "stages"}):
        for kind in ("svg", "png"):
            with atomic(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=PNG_DPI, metadata=metadata[kind])
