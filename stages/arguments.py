"""The command-line argument that several stages share."""

import argparse
from collections.abc import Sequence


def backbone(description: str | None, known: Sequence[str]) -> str:
    """The backbone that the command line names, one of analysis.backbones in params.yaml."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--backbone", required=True, choices=known, help="one of analysis.backbones in params.yaml")
    return parser.parse_args().backbone
