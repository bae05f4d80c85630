"""What the command lines of several stages have in common."""

import argparse
from collections.abc import Sequence

from stages.core.base.errors import UserError


def choice(parser: argparse.ArgumentParser, option: str, known: Sequence[str], place: str) -> None:
    """Add a required option whose value must be in `known`; another ends in one line that says where it belongs."""

    def member(value: str) -> str:
        if value not in known:
            raise UserError(f"--{option} {value}: none of {place} in params.yaml ({', '.join(known)})")
        return value

    parser.add_argument(f"--{option}", required=True, type=member, metavar="NAME", help=f"one of {place}")


def backbone(description: str | None, known: Sequence[str]) -> str:
    """The backbone that the command line names, one of analysis.backbones.

    Raises:
        UserError: it is none of them.
    """
    parser = argparse.ArgumentParser(description=description)
    choice(parser, "backbone", known, "analysis.backbones")
    return parser.parse_args().backbone
