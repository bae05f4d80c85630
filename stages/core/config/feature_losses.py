"""The feature losses that params may name: the files of `stages.core.losses` that define a function `loss`.

They are read as text: importing one would import torch, and a check of params has to take a fraction of a second.
"""

import ast
from functools import cache
from pathlib import Path

LOSSES = Path(__file__).resolve().parents[1] / "losses"


@cache
def feature_losses() -> dict[str, frozenset[str]]:
    """Each feature loss's name, that of its file, with the flags that the file sets to True."""
    found = {}
    for file in sorted(LOSSES.glob("[a-z]*.py")):
        body = ast.parse(file.read_text("utf-8")).body
        if any(isinstance(node, ast.FunctionDef) and node.name == "loss" for node in body):
            set_true = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.value) == "True"]
            found[file.stem] = frozenset(ast.unparse(node.targets[0]) for node in set_true)
    return found


def known_feature_loss(name: str) -> str:
    """The name, if there is a feature loss of it.

    Raises:
        ValueError: there is none; the text names those there are.
    """
    if name not in feature_losses():
        raise ValueError(f"must be one of {', '.join(feature_losses())}")
    return name


def takes_any_width(name: str) -> bool:
    """Whether a feature loss compares maps of any two widths; the others compare channel by channel."""
    return "ANY_WIDTH" in feature_losses()[name]
