"""The register of published claims: claims.yaml and paper.yaml, expanded to one claim per figure or case."""

from collections.abc import Iterator, Mapping
from typing import Any

from stages.core.base.errors import UserError
from stages.core.base.names import setting_name
from stages.core.evidence.claims import Claim
from stages.core.evidence.measures import BACKBONES, MEASURES
from stages.core.evidence.requirements import NEEDS

BOUNDS = {"above": "above {:g}", "at_least": "at least {:g}", "below": "below {:g}", "at_most": "at most {:g}"}


def expand(families: list[Mapping[str, Any]], paper: Mapping[str, Any]) -> list[Claim]:
    """The claims of every family: one per published figure that its pattern reaches, or one per case of its words.

    Raises:
        UserError: a pattern reaches no figure, `other` more than one, or a family names an unknown measure, need or
            bound.
    """
    claims: list[Claim] = []
    for family in families:
        needs = [family["needs"]] if isinstance(family["needs"], str) else family["needs"]
        _check(family, needs)
        common = {
            "source": family["source"],
            "measure": family["measure"],
            "needs": tuple(needs),
            "tolerance": family.get("tolerance", {}),
            "bounds": family.get("bounds", {}),
            "paper": paper,
        }
        if "figures" not in family:
            for case, of in family.get("cases", {"": {}}).items():
                known = dict(of or {})
                if known.get("backbones") == "published":
                    known["backbones"] = paper[BACKBONES]
                name = "/".join(filter(None, [family["id"], case]))
                claims.append(
                    Claim(id=name, statement=family["statement"].format(case), figure=None, of=known, **common)
                )
            continue
        known = {}
        if "other" in family:
            others = _figures(family, paper, family["other"])
            if len(others) > 1:
                raise UserError(
                    f"claims.yaml: {family['id']}: {family['other']} reaches {len(others)} figures, not one"
                )
            known = {"other": family["other"], "value": others[0][2]}
        for entry, keys, figure in _figures(family, paper, family["figures"]):
            path = keys[1:]
            claims.append(
                Claim(
                    id="/".join([family["id"], *_identity(entry, path)]),
                    statement=family["statement"].format(*path, **{str(key): value for key, value in entry.items()}),
                    figure=figure,
                    entry=entry,
                    backbone=paper.get(BACKBONES, {}).get(path[0], {}),
                    path=path,
                    of=known,
                    **common,
                )
            )
    return claims


def _check(family: Mapping[str, Any], needs: list[str]) -> None:
    for kind, given, there in (
        ("measure", [family["measure"]], MEASURES),
        ("need", needs, NEEDS),
        ("bound", family.get("bounds", {}), BOUNDS),
    ):
        unknown = [name for name in given if name not in there]
        if unknown:
            raise UserError(f"claims.yaml: {family['id']}: no {kind} {unknown[0]}; there are {', '.join(there)}")


def _figures(family: Mapping[str, Any], paper: Mapping[str, Any], pattern: str) -> list[tuple[Any, Any, float]]:
    found = list(_reach(paper, pattern.split(".")))
    if not found:
        raise UserError(f"claims.yaml: {family['id']}: {pattern} reaches nothing in paper.yaml")
    return found


def _reach(
    node: Any, pattern: list[str], keys: tuple[str, ...] = (), entry: Any = None
) -> Iterator[tuple[Any, tuple[str, ...], float]]:
    if not pattern:
        yield entry, keys, node
        return
    # The rows of a table are known by strategy and objective, wherever they stand.
    items = {setting_name(row["strategy"], row["objective"]): row for row in node} if isinstance(node, list) else node
    keys_there = {"*": list(items), "%": [key for key in items if isinstance(key, int)]}
    for key in keys_there.get(pattern[0], [key for key in items if str(key) == pattern[0]]):
        child = items[key]
        # The entry of a figure is the nearest mapping above it that says more than numbers.
        nearest = (
            child if isinstance(child, dict) and any(isinstance(value, str) for value in child.values()) else entry
        )
        yield from _reach(child, pattern[1:], (*keys, str(key)), nearest or node)


def _identity(entry: Mapping[Any, Any], path: tuple[str, ...]) -> list[str]:
    return [entry["strategy"], entry["objective"]] if "objective" in entry else list(path)
