"""HTML from the templates in assets/: tables, figures, and Markdown with the headings that it holds."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import mistune
import pandas as pd
from markupsafe import Markup, escape

ASSETS = Path(__file__).parent / "assets"
DARK = "_dark"  # ends the name of a figure's form for dark pages
MISSING = "–"
PIXELS_PER_INCH = 96  # of CSS
_VALUE = r"[+−-]?\d[\d,.]*(?:e[+-]?\d+)?"
NUMBER = re.compile(rf"{_VALUE}(?: ?(?:%|±|to|–|[()]|{_VALUE}))*")


@dataclass(frozen=True)
class Link:
    """A table cell that is a link: its text and its target."""

    text: str
    target: str


@dataclass(frozen=True)
class Badge:
    """A table cell that stands out by colour and sign: one of a few known words, as a verdict."""

    text: str


@dataclass(frozen=True)
class Lines:
    """A table cell of two lines, the second less prominent; the first may be a link."""

    first: str | Link
    second: str


@dataclass(frozen=True)
class Facet:
    """What the rows of a table can be filtered by.

    Attributes:
        name: of the filter.
        values: for each row, those that it has.
        chosen: which of them the page opens with; without any, all rows are shown.
        order: in which they are offered; without it that of the rows.
    """

    name: str
    values: Sequence[Sequence[str]]
    chosen: Sequence[str] = ()
    order: Sequence[str] = ()

    def all_values(self) -> list[str]:
        """Every value that a row has."""
        found = dict.fromkeys(value for values in self.values for value in values)
        return [value for value in self.order if value in found] or list(found)


@dataclass(frozen=True)
class Heading:
    """An entry of a page's table of contents: level 2 or 3, HTML of the text, anchor."""

    level: int
    text: str
    anchor: str


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = lambda name: Markup((ASSETS / name).read_text(encoding="utf-8"))
    return environment


def fill(template: str, **values: Any) -> Markup:
    """Fill a template of assets/; a value that is not `Markup` is escaped."""
    return Markup(_environment().get_template(template).render(values))


def table(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    facets: Sequence[Facet] = (),
    cards: bool = False,
    anchors: Sequence[str] = (),
) -> Markup:
    """A table that sorts by a click on a heading; columns of numbers are flush right.

    Args:
        rows: the cells: text, a number, a `Link`, `Badge` or `Lines`, or a list of them; numbers have at most four
            decimals, a missing value is a dash.
        facets: filters that the page's script offers.
        cards: on a phone, show each row as a block of its own; for rows of much text.
        anchors: the address of each row, an empty text for none.
    """
    data = pd.DataFrame(rows).astype(object)
    cells = [[_html(value) for value in row] for row in data.itertuples(index=False, name=None)]
    columns = [
        {"name": name, "number": _are_numbers([Markup(row[place]).striptags() for row in cells])}
        for place, name in enumerate(data.columns)
    ]
    return fill(
        "table.html",
        columns=columns,
        rows=[
            {
                "cells": row,
                "facets": ["|".join(facet.values[place]) for facet in facets],
                "anchor": anchors[place] if anchors else "",
            }
            for place, row in enumerate(cells)
        ],
        facets=[{"name": one.name, "values": one.all_values(), "chosen": list(one.chosen)} for one in facets],
        cards=cards,
    )


def _are_numbers(texts: Sequence[str]) -> bool:
    given = [text for text in texts if text != MISSING]
    return bool(given) and all(NUMBER.fullmatch(text) for text in given)


def _html(value: Any) -> Markup:
    if isinstance(value, Link):
        text = re.sub(r"([._/])(?=\w)", r"\1<wbr>", str(escape(value.text)))  # a long path may be broken there
        return Markup('<a href="{}">{}</a>').format(value.target, Markup(text))
    if isinstance(value, Badge):
        return Markup('<span class="badge {}">{}</span>').format(value.text.replace(" ", "-"), value.text)
    if isinstance(value, Lines):
        return Markup('{} <span class="sub">{}</span>').format(_html(value.first), value.second)
    if isinstance(value, list) and any(isinstance(one, (Link, Badge, Lines)) for one in value):
        return Markup("<br>").join(map(_html, value))
    return escape(cell(value))


def cell(value: Any) -> str:
    """A value as text for a table."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {cell(one)}" for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell, value))
    if value is None or value != value:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.4f}".rstrip("0") if abs(value) >= 1e-4 else f"{value:.2e}"


def picture(name: str, folder: Path, alt: str) -> Markup:
    """A figure of a folder within the page itself, as SVG; on dark pages its dark form, where it has one.

    Args:
        name: the figure's, without suffix.
        folder: that holds NAME.svg, and NAME_dark.svg if there is one.
        alt: what it shows, for those who do not see it.
    """
    light, dark = folder / f"{name}.svg", folder / f"{name}{DARK}.svg"
    return fill(
        "picture.html",
        light=_data(light),
        dark=_data(dark) if dark.is_file() else None,
        alt=alt,
        size=_size(light),
    )


def _data(svg: Path) -> str:
    return "data:image/svg+xml;base64," + b64encode(svg.read_bytes()).decode()


def _size(svg: Path) -> tuple[int, int]:
    """Width and height in pixels of CSS, so that a page need not move once it is drawn."""
    tag = re.search(r"<svg\b[^>]*>", svg.read_text(encoding="utf-8"))
    inches = {
        side: float(points) / 72 for side, points in re.findall(r'\b(width|height)="([\d.]+)pt"', tag[0] if tag else "")
    }
    return round(inches["width"] * PIXELS_PER_INCH), round(inches["height"] * PIXELS_PER_INCH)


class Prose:
    """Markdown as HTML; every heading of level 2 or 3 has an anchor and is kept for the table of contents."""

    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._markdown = mistune.create_markdown(renderer=_Renderer(self), plugins=["table", "strikethrough"])

    def html(self, markdown: str) -> Markup:
        """A text as HTML."""
        return Markup(self._markdown(markdown))

    def inline(self, markdown: str) -> Markup:
        """A text of one paragraph as HTML, without the paragraph's tags."""
        return Markup(self.html(markdown).removeprefix("<p>").removesuffix("</p>\n"))

    def heading(self, level: int, text: str | Markup) -> Markup:
        """A heading; its anchor is its text in lower case, words joined by hyphens, numbered if it is not the first."""
        html = escape(text)
        anchor = re.sub(r"[^\w\- ]", "", html.striptags().lower()).replace(" ", "-")
        same = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", one.anchor) is not None for one in self.headings)
        anchor += f"-{same}" if same else ""
        if level in (2, 3):
            self.headings.append(Heading(level, html, anchor))
        return Markup('<h{0} id="{1}">{2}</h{0}>\n').format(level, anchor, html)


class _Renderer(mistune.HTMLRenderer):
    def __init__(self, prose: Prose) -> None:
        super().__init__(escape=True)
        self._prose = prose

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        return str(self._prose.heading(level, Markup(text)))
