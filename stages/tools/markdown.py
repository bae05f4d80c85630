"""Markdown that the tools write: tables, and blocks of a page between two markers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.core.base.errors import UserError


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, with a line break at its end."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def markers(block: str) -> tuple[str, str]:
    """The lines before and after a block of a page; neither shows where Markdown is rendered."""
    return f"<!-- {block}: python -m stages.tools.readme {block} -->\n", f"<!-- end of {block} -->\n"


def with_block(page: Path, text: str, block: str, content: str) -> str:
    """The text of a page with what stands between a block's markers replaced.

    Args:
        page: where the text is from, for the message.
        text: of the page.
        block: the block's name.
        content: of the block, with a line break at its end.

    Raises:
        UserError: a marker is missing.
    """
    begin, end = markers(block)
    if begin not in text or end not in text:
        raise UserError(f"{page} lacks the marker {begin.strip()} or {end.strip()}; put it back")
    return text[: text.index(begin) + len(begin)] + content + text[text.index(end) :]
