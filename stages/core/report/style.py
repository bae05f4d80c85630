"""One style for every figure: readable by the colour-blind and in grey; equal figures give equal files."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from stages.core.base.files import atomic
from stages.core.base.names import BASELINE

PNG_DPI = 150
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too; without yellow, too pale for lines, and
# without black, which is the teacher's. Then Tol's wine and olive, grey and brown.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#882255", "#999933"),
    *("#7F7F7F", "#6B4C3B"),
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
FACE = "face"  # the gid of the line that says what a figure is of
FACE_HEIGHT = 0.24  # inches of each of its lines
CHARACTER = 0.085  # inches that a character of small text takes, or less
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
    "pooled",
    "widen_pooled",
)


@dataclass(frozen=True)
class Look:
    """How one series is drawn."""

    color: str
    marker: str
    linestyle: Any


@dataclass(frozen=True)
class Theme:
    """Colours of a figure's ground and text, and how much white is mixed into its series' colours."""

    foreground: str
    background: str
    grid: str
    grey: str
    white: float

    def tone(self, color: str) -> tuple[float, ...]:
        """A series' colour on this ground: the same hue, lighter where the ground is dark."""
        return tuple((1 - self.white) * part + self.white for part in to_rgb(color))


LIGHT = Theme("#262626", "#FFFFFF", "#E3E3E3", GREY, 0.0)
DARK = Theme("#E6EDF3", "#0D1117", "#2A313A", "#9DA7B3", 0.45)
# The two bases of an energy curve, in colours that no strategy has.
PER_IMAGE = Look("#332288", "o", "-")
SHARED = Look("#CC6677", "s", "--")


def look(position: int) -> Look:
    """The look of the series at `position`; a colour that comes again, after ten, has another line."""
    line = LINES[(position + position // len(PALETTE)) % len(LINES)]
    return Look(PALETTE[position % len(PALETTE)], MARKERS[position % len(MARKERS)], line)


def looks(strategies: Iterable[str]) -> dict[str, Look]:
    """Each strategy's look, in the order in which figures and legends name them: as given, the baseline first."""
    present = sorted(dict.fromkeys(strategies), key=lambda name: name != BASELINE)
    positions = {name: KNOWN.index(name) for name in present if name in KNOWN}
    free = [position for position in reversed(range(len(PALETTE))) if position not in positions.values()] or [0]
    others = [name for name in present if name not in KNOWN]
    positions |= {name: free[index % len(free)] for index, name in enumerate(others)}
    return {name: look(positions[name]) for name in present}


def levels(number: int) -> list[Look]:
    """Looks of `number` ordered series, such as shares of the energy: from light to dark, in no strategy's colours."""
    shades = mpl.colormaps["cividis_r"](np.linspace(0.15, 0.95, number))
    return [Look(to_hex(shade), look(place).marker, look(place).linestyle) for place, shade in enumerate(shades)]


def use(theme: Theme = LIGHT) -> None:
    """Set the style for every figure made after this call."""
    sns.set_theme(context="notebook", style="ticks", palette=list(PALETTE), font="DejaVu Sans", font_scale=0.95)
    mpl.rcParams.update(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": theme.grid,
            "grid.linewidth": 0.7,
            **dict.fromkeys(("figure.facecolor", "axes.facecolor"), theme.background),
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), theme.foreground),
            **dict.fromkeys(("xtick.color", "ytick.color"), theme.foreground),
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


def edges(values: Any, most: int = 40) -> np.ndarray:
    """The edges of a histogram of whole numbers, halfway between them: at most `most` bins, each equally wide."""
    least, largest = int(np.min(values)), int(np.max(values))
    step = max(1, -(-(largest - least + 1) // most))
    return np.arange(least - 0.5, largest + step + 0.5, step)


def new_figure(width: float, height: float, theme: Theme = LIGHT) -> Figure:
    """An empty figure in this style, `width` × `height` inches, that spaces its axes itself."""
    use(theme)
    return Figure(figsize=(width, height), layout="constrained")


def figure_of_panels(
    number: int, width: float, height: float, more: float, *, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of some panels, two beside each other where there are two.

    Args:
        number: of the panels.
        width, height: inches of each.
        more: inches of height for what stands above and below all of them.
        sharex: whether they have one horizontal axis.
    """
    columns = min(2, number)
    rows = -(-number // columns)
    figure = new_figure(width * columns, height * rows + more)
    panels = list(figure.subplots(rows, columns, sharex=sharex, squeeze=False).flat)
    for panel in panels[number:]:
        panel.remove()
    return figure, panels[:number]


def whole_numbers(panel: Axes) -> None:
    """Label both axes at whole numbers alone."""
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # as MaxNLocator has


def label_ends(panel: Axes, ends: Sequence[tuple[float, float, str, Any]], *, left: bool = False) -> None:
    """Write the names of lines or points beside them, moved apart where they would overlap.

    Args:
        panel: whose axes have their limits already.
        ends: x and y of each line's end in data coordinates, its name and its colour.
        left: write them on the left instead of on the right.
    """
    aside = -6 if left else 6
    place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
    place |= {"xytext": (aside, 0), "ha": "right" if left else "left", "fontsize": "small"}
    texts = [panel.annotate(name, (x, y), color=color, **place) for x, y, name, color in ends]
    figure = panel.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # heights are known, and what stands beside an axis leaves its height alone
    texts.sort(key=lambda text: panel.transData.transform(text.xy)[1])
    boxes = [text.get_window_extent() for text in texts]
    for text, move in zip(texts, _apart([(box.y0 + box.y1) / 2 for box in boxes], boxes), strict=True):
        text.set_position((aside, move * 72 / figure.dpi))


def legend_below(figure: Figure, panel: Axes, most: int = 6) -> None:
    """A legend of what `panel` draws below all axes, in as many columns as the names leave room for, or `most`."""
    handles, labels = panel.get_legend_handles_labels()
    column = 0.6 + CHARACTER * max(map(len, labels))  # inches
    columns = max(1, min(most, len(labels), int((figure.get_figwidth() - 0.2) / column)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small")


def _apart(centres: Sequence[float], boxes: Sequence[Bbox]) -> list[float]:
    """How far each box of a rising sequence moves, in pixels, so that none overlaps the next."""
    moved = list(centres)
    for _ in range(200):  # pairs that are too near part by equal steps, until none is
        still = True
        for lower in range(len(moved) - 1):
            need = (boxes[lower].height + boxes[lower + 1].height) / 2 - (moved[lower + 1] - moved[lower])
            if need > 0.5:
                moved[lower] -= need / 2
                moved[lower + 1] += need / 2
                still = False
        if still:
            break
    return [new - old for new, old in zip(moved, centres, strict=True)]


def sign(figure: Figure, face: str) -> None:
    """Write on a strip below the figure, which `save` adds, what it is of: dataset, model, images or seeds.

    What is too long for one line takes more.
    """
    lines = textwrap.wrap(face, int(figure.get_figwidth() / CHARACTER), break_on_hyphens=False)
    below = -FACE_HEIGHT * len(lines) / 2 / figure.get_figheight()
    dark = to_hex(figure.get_facecolor()) == DARK.background.lower()
    style: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": "small", "gid": FACE}
    text = figure.text(0.99, below, "\n".join(lines), color=(DARK if dark else LIGHT).grey, **style)
    text.set_in_layout(False)


def face_of(figure: Figure) -> str | None:
    """What `sign` wrote."""
    lines = _face_lines(figure)
    return " ".join(lines) if lines else None


def _face_lines(figure: Figure) -> list[str]:
    return next((text.get_text().split("\n") for text in figure.texts if text.get_gid() == FACE), [])


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `figure` as folder/NAME.svg and folder/NAME.png; equal figures give equal bytes."""
    metadata: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    strip = FACE_HEIGHT * len(_face_lines(figure))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what is laid out stays, legends too, when the strip is added below
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, 0, 1, 1), transform=figure.transFigure)
    whole = Bbox([[0, -strip], [figure.get_figwidth(), figure.get_figheight()]])  # inches
    with mpl.rc_context({"svg.hashsalt": "stages"}):
        for kind in ("svg", "png"):
            with atomic(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=PNG_DPI, metadata=metadata[kind], bbox_inches=whole)
                if kind == "png":
                    _fewer_colors(temporary)


def _fewer_colors(png: Path) -> None:
    """Draw with 256 colours, spread over all that occur: looks the same, at a third of the size in git."""
    with Image.open(png) as image:
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(png, format="PNG", optimize=True, dpi=(PNG_DPI, PNG_DPI))
