"""What the report's notebooks have in common: reading results, and showing a figure or a table with its caption."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, Image, Markdown, display
from markupsafe import Markup
from matplotlib.figure import Figure

from stages.core.evidence.results import read_table as read_table  # for the templates
from stages.core.report.markup import PIXELS_PER_INCH, Facet, table
from stages.core.report.style import save, sign


def show(drawn: tuple[Figure, str], folder: Path, name: str, of: str, dark: Figure | None = None) -> None:
    """Save a figure as folder/NAME.svg and .png, and display it with its caption below.

    Args:
        drawn: the figure and its caption.
        folder: of all figures.
        name: its name.
        of: what it is of, which is written on its face (`faces`).
        dark: the same for a dark page, saved as NAME_dark.
    """
    figure, caption = drawn
    sign(figure, of)
    if dark is not None:
        sign(dark, of)
        save(dark, folder, f"{name}_dark")
    save(figure, folder, name)
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    image = (folder / f"{name}.png").read_bytes()
    alt = caption.replace("`", "")
    display(Image(image, format="png", width=width, alt=alt, metadata={"figure": name}))
    display(Markdown(f"**Figure `{name}`.** {caption}"))


def show_table(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]],
    caption: str,
    *,
    folded: bool = False,
    facets: Sequence[Facet] = (),
    cards: bool = False,
    anchors: Sequence[str] = (),
) -> None:
    """Display a table under its caption.

    Args:
        rows: see `stages.core.report.markup.table`.
        caption: shown above it.
        folded: show only the caption until it is clicked.
        facets: filters that the report's page offers.
        cards: on a phone, the page shows each row as a block of its own.
        anchors: the address of each row on the page, an empty text for none.
    """
    text = table(rows, facets=facets, cards=cards, anchors=anchors)
    if folded:
        text = Markup('<details class="fold">\n<summary>{}</summary>\n{}\n</details>').format(caption, text)
    else:
        display(Markdown(f"**Table.** {caption}"))
    display(HTML(str(text)))
