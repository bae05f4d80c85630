"""The command-line arguments that several stages share."""

import argparse
from collections.abc import Collection


def backbone(description: str | None, known: Collection[str]) -> str:
    """The backbone that the command line names, one of analysis.backbones in params.yaml."""
    name: str = of_backbone(description, known).parse_args().name
    return name


def model(description: str | None, known: Collection[str]) -> str:
    """The model that the command line names, one of those that params.yaml plans for the stage."""
    name: str = _parser("--model", description, known, "the stage's in plan").parse_args().name
    return name


def of_backbone(description: str | None, known: Collection[str]) -> argparse.ArgumentParser:
    """A parser of `--backbone`, whose value is called `name`."""
    return _parser("--backbone", description, known, "analysis.backbones")


def _parser(option: str, description: str | None, known: Collection[str], place: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(option, dest="name", required=True, choices=known, help=f"one of {place} in params.yaml")
    return parser
