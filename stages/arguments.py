"""The command-line arguments that several stages share."""

import argparse
from collections.abc import Collection


def backbone(description: str | None, known: Collection[str]) -> str:
    """The backbone that the command line names, one of analysis.backbones in params.yaml."""
    return _named("--backbone", description, known, "analysis.backbones")


def model(description: str | None, known: Collection[str]) -> str:
    """The model that the command line names, one of those that params.yaml plans for the stage."""
    return _named("--model", description, known, "the stage's in plan")


def _named(option: str, description: str | None, known: Collection[str], place: str) -> str:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(option, dest="name", required=True, choices=known, help=f"one of {place} in params.yaml")
    name: str = parser.parse_args().name
    return name
