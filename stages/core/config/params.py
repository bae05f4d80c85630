"""params.yaml, read and checked whole, before any work.

Unknown keys, wrong types and impossible values end in one line that names the key. Importing this module takes about
0.1 s: it must not import torch.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from stages.core.base.errors import UserError
from stages.core.base.files import read_yaml
from stages.core.config.models import ISOTROPIC, ModelArgs, Student, Teacher
from stages.core.config.schema import Analysis, Dataset, Name, Objectives, Recipe, Section, Seed, Selection


class Params(Section):
    """All of params.yaml."""

    profile: Name
    dataset: Dataset
    teacher: Teacher
    student: Student
    strategy: Selection
    objective: Objectives
    seeds: Annotated[list[Seed], Field(min_length=1)]
    recipe: Recipe
    analysis: Analysis

    @model_validator(mode="after")
    def _names(self) -> Self:
        known: dict[str, tuple[list[str], Mapping[str, Any], str]] = {
            "strategy.names": (self.strategy.names, self.student.strategies, "student.strategies"),
            "objective.names": (self.objective.names, self.objective.definitions, "objective.definitions"),
            "student.ablations": (self.student.ablations, self.student.strategies, "student.strategies"),
        }
        for key, (names, entries, place) in known.items():
            for name in names:
                if name not in entries:
                    raise ValueError(f"{key}: '{name}' is none of {place}: {', '.join(entries)}")
        repeatable: dict[str, Sequence[Any]] = {key: names for key, (names, _, _) in known.items()} | {
            "seeds": self.seeds,
            "analysis.backbones": self.analysis.backbones,
            "analysis.layerwise": self.analysis.layerwise,
            "analysis.svd.thresholds": self.analysis.svd.thresholds,
            "analysis.pca.thresholds": self.analysis.pca.thresholds,
            "analysis.sep.thresholds": self.analysis.sep.thresholds,
        }
        for key, values in repeatable.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{key}: {values} names one value twice")
        for strategy in self.student.strategies:
            try:
                ModelArgs(**self.student.model(strategy)[1])
            except ValidationError as error:
                raise ValueError(f"student.strategies.{strategy}: {_reason(error.errors()[0])}") from None
        return self

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        """Teacher and students take the dataset's images, and a feature loss can compare their maps.

        What params leave to the architecture is checked before a training, by `stages.core.train.task`.
        """
        pixels, teacher = self.dataset.image_size, self.teacher.model_args
        students = {strategy: ModelArgs(**self.student.model(strategy)[1]) for strategy in self.strategy.names}
        sizes = {"teacher.model_args.img_size": teacher.img_size} | {
            self.student.key(strategy, "img_size"): student.img_size for strategy, student in students.items()
        }
        for key, size in sizes.items():
            if size not in (None, pixels):
                raise ValueError(f"{key}: {size} is not dataset.image_size, {pixels}; make them equal")
        compared = [name for name in self.objective.names if self.objective.definitions[name].feature is not None]
        # One that refuses wider students is checked, if there is one: it refuses all that the others do.
        compared.sort(key=lambda name: not self.objective.definitions[name].refuses_wider)
        if compared:
            for strategy, student in students.items():
                self._check_maps(strategy, student, compared[0])
        return self

    def _check_maps(self, strategy: str, student: ModelArgs, objective: str) -> None:
        (architecture, arguments), teacher = self.student.model(strategy), self.teacher.model_args
        width, least = student.last_width(architecture), teacher.last_width(self.teacher.architecture)
        if width and least and width > least and self.objective.definitions[objective].refuses_wider:
            widths = ("lift_width", "widen_width", "widen_widths", "embed_dim")
            argument = next(name for name in widths if name in arguments)
            raise ValueError(
                f"{self.student.key(strategy, argument)}: {width} channels are more than the teacher's {least}, and "
                f"objective.names: {objective} compares the two; lower it, leave {strategy} or {objective} out, or "
                f"set objective.definitions.{objective}.wider to pool"
            )
        patches = [
            args.patch_size if re.match(ISOTROPIC, name) else None
            for name, args in ((architecture, student), (self.teacher.architecture, teacher))
        ]
        if None not in patches and patches[0] != patches[1]:
            raise ValueError(
                f"{self.student.key(strategy, 'patch_size')}: patches of {patches[0]} make another grid than "
                f"teacher.model_args.patch_size, {patches[1]}, and objective.names: {objective} compares the two"
            )


def _reason(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "is no key of params.yaml; mend its spelling or remove it"
    return error["msg"].removeprefix("Value error, ")


def load(path: Path) -> Params:
    """Read and check a parameter file.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown or missing, a type is wrong, a
            value is impossible; the text names every such key.
    """
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no parameters; compose it with `python -m stages.tools.compose`")
    try:
        return Params.model_validate(raw)
    except ValidationError as invalid:
        faults = []
        for error in invalid.errors(include_url=False):
            key = ".".join(str(part) for part in error["loc"])
            value = error.get("input")
            shown = f" (got {value!r})" if key and isinstance(value, str | int | float | bool | None) else ""
            if error["type"] in ("missing", "extra_forbidden"):
                shown = ""
            faults.append(f"{key + ': ' if key else ''}{_reason(error)}{shown}")
        raise UserError(f"{path}: " + "; ".join(faults)) from None
