"""What the report's notebooks have in common: reading results, and showing a figure or a table with its caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, Image, Markdown, display
from matplotlib.figure import Figure

from stages.core.base.errors import UserError
from stages.core.report.style import save, sign

PIXELS_PER_INCH = 96  # of CSS


@dataclass(frozen=True)
class Link:
    """A table cell that is a link: its text and its target."""

    text: str
    target: str


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file of results.

    Raises:
        UserError: the file is missing or is not a table.
    """
    try:
        # "none" is an objective and stays text; only an empty cell is a missing value
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run `dvc repro` to make it") from None
    except ValueError as error:
        raise UserError(f"{path} is not a table ({error}); delete it and run `dvc repro`") from None


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


def show_table(rows: pd.DataFrame | Sequence[Mapping[str, Any]], caption: str, *, folded: bool = False) -> None:
    """Display a table under its caption; numbers have at most four decimals, a missing value is a dash.

    Args:
        rows: the table; a cell may be a `Link`, or a list of them.
        caption: shown above it.
        folded: show only the caption until it is clicked.
    """
    table = pd.DataFrame(rows).rename(columns=lambda name: escape(str(name))).astype(object).map(_html)
    text = table.to_html(index=False, escape=False, border=0, justify="left")
    if folded:
        text = f"<details>\n<summary>{escape(caption)}</summary>\n{text}\n</details>"
    else:
        display(Markdown(f"**Table.** {caption}"))
    display(HTML(text))


def _html(value: Any) -> str:
    if isinstance(value, Link):
        return f'<a href="{escape(value.target)}">{escape(value.text)}</a>'
    if isinstance(value, list) and any(isinstance(one, Link) for one in value):
        return "<br>".join(map(_html, value))
    return escape(cell(value))


def cell(value: Any) -> str:
    """A value as text for a table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {cell(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    if value is None or value != value:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.4f}".rstrip("0") if abs(value) >= 1e-4 else f"{value:.2e}"
