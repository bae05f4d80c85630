"""The register of published claims: claims.yaml and the reference data, expanded to one claim per figure or case."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.core.base.errors import UserError
from stages.core.base.files import read_yaml
from stages.core.base.names import setting_name
from stages.core.evidence.analysis_measures import BACKBONES
from stages.core.evidence.claims import FAMILIES, Claim
from stages.core.evidence.measures import MEASURES
from stages.core.evidence.questions import QUESTIONS, read_questions
from stages.core.evidence.requirements import REQUIREMENTS

BOUNDS = {"above": "above {:g}", "at_least": "at least {:g}", "below": "below {:g}", "at_most": "at most {:g}"}
LOGS = "training_logs"  # the key of training_logs.yaml beside those of paper.yaml


def read_register(folder: Path) -> list[Claim]:
    """The claims that the files of reports/reference describe."""
    return expand(read_yaml(folder / "claims.yaml"), read_published(folder))


def read_published(folder: Path) -> dict[str, Any]:
    """All reference data: paper.yaml, training_logs.yaml as `training_logs`, and the register of questions."""
    logs, questions = read_yaml(folder / f"{LOGS}.yaml"), read_questions(folder)
    return {**read_yaml(folder / "paper.yaml"), LOGS: logs, QUESTIONS: questions}


def expand(register: list[Mapping[str, Any]], paper: Mapping[str, Any]) -> list[Claim]:
    """The claims of every entry: one per published figure that its pattern reaches, or one per case of its words.

    Raises:
        UserError: a pattern reaches no figure, `other` more than one, or an entry names an unknown measure,
            requirement, bound or family.
    """
    claims: list[Claim] = []
    for one in register:
        _check(one)
        common = {
            "source": one["source"],
            "measure": one["measure"],
            **{key: _required(one, key) for key in ("requires", "elsewhere")},
            "by_weights": one.get("by_weights", {}),
            "tolerance": one.get("tolerance", {}),
            "bounds": one.get("bounds", {}),
            "paper": paper,
        }
        if "figures" not in one:
            for case, options in one.get("cases", {"": {}}).items():
                known = dict(options or {})
                if known.get("backbones") == "published":
                    known["backbones"] = paper[BACKBONES]
                name = "/".join(filter(None, [one["id"], case]))
                claims.append(
                    Claim(
                        id=name,
                        family=one["family"],
                        statement=one["statement"].format(case),
                        figure=None,
                        options=known,
                        **common,
                    )
                )
            continue
        known = {"setting": one["setting"]} if "setting" in one else {}
        if "other" in one:
            others = _figures(one, paper, one["other"])
            if len(others) > 1:
                raise UserError(f"claims.yaml: {one['id']}: {one['other']} reaches {len(others)} figures, not one")
            known |= {"other": one["other"], "value": others[0][2]}
        for entry, keys, figure in _figures(one, paper, one["figures"]):
            path = keys[1:]
            claims.append(
                Claim(
                    id="/".join([one["id"], *_identity(entry, path)]),
                    family=one["family"] if isinstance(one["family"], str) else one["family"][entry["strategy"]],
                    statement=one["statement"].format(*path, **{str(key): value for key, value in entry.items()}),
                    figure=figure,
                    entry=entry,
                    backbone=paper.get(BACKBONES, {}).get(path[0], {}),
                    path=path,
                    options=known,
                    **common,
                )
            )
    return claims


def _required(one: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = one.get(key, [])
    return (names,) if isinstance(names, str) else tuple(names)


def _check(one: Mapping[str, Any]) -> None:
    """Refuse names that are not defined, and claims that nothing can judge or that are judged as another family's."""
    family = one.get("family", "")
    families = list(family.values()) if isinstance(family, Mapping) else [family]
    required = {key: _required(one, key) for key in ("requires", "elsewhere")}
    for kind, used, known in (
        ("measure", [one["measure"]], MEASURES),
        ("requirement", [name for names in required.values() for name in names], REQUIREMENTS),
        ("bound", one.get("bounds", {}), BOUNDS),
        ("family", families, FAMILIES),
    ):
        unknown = [name for name in used if name not in known]
        if unknown:
            raise UserError(f"claims.yaml: {one['id']}: unknown {kind} {unknown[0]}; must be one of {', '.join(known)}")
    if not any(required.values()):
        raise UserError(f"claims.yaml: {one['id']}: nothing can judge it; give requires, elsewhere or both")


def _figures(one: Mapping[str, Any], paper: Mapping[str, Any], pattern: str) -> list[tuple[Any, Any, float]]:
    found = list(_reach(paper, pattern.split(".")))
    if not found:
        raise UserError(f"claims.yaml: {one['id']}: {pattern} reaches nothing in paper.yaml or {LOGS}.yaml")
    return found


def _reach(
    node: Any, pattern: list[str], keys: tuple[str, ...] = (), entry: Any = None
) -> Iterator[tuple[Any, tuple[str, ...], float]]:
    """Entry, keys and value of every figure that a pattern reaches."""
    if not pattern:
        yield entry, keys, node
        return
    # The rows of a table are known by strategy and objective, whatever their order.
    items = {setting_name(row["strategy"], row["objective"]): row for row in node} if isinstance(node, list) else node
    wildcards = {"*": list(items), "%": [key for key in items if isinstance(key, int)]}
    for key in wildcards.get(pattern[0], [key for key in items if str(key) == pattern[0]]):
        child = items[key]
        # The entry of a figure is the nearest mapping above it that holds more than numbers.
        nearest = (
            child if isinstance(child, dict) and any(isinstance(value, str) for value in child.values()) else entry
        )
        yield from _reach(child, pattern[1:], (*keys, str(key)), nearest or node)


def _identity(entry: Mapping[Any, Any], path: tuple[str, ...]) -> list[str]:
    return [entry["strategy"], entry["objective"]] if "objective" in entry else list(path)
