"""The feature losses that params may name, found in the source of `stages.core.train.losses`.

Importing that module would import torch, and a check of params has to take a fraction of a second.
"""

import ast
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "train" / "losses.py"
DECORATOR = "feature_loss"
SUFFIX = "_loss"


@cache
def feature_losses() -> dict[str, dict[str, bool]]:
    """Each feature loss's name, which is its function's without `_loss`, with the options of its decorator."""
    found = {}
    functions = [node for node in ast.parse(SOURCE.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    for node in functions:
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == DECORATOR:
                options = {str(word.arg): bool(ast.literal_eval(word.value)) for word in mark.keywords}
                found[node.name.removesuffix(SUFFIX)] = options
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
    return feature_losses()[name].get("any_width", False)
