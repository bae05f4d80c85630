"""Reading and checking params.yaml as a whole, before any work.

Unknown keys, wrong types and impossible values end in one line that names the key. This module must not import torch,
so that a check takes a fraction of a second.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, create_model, model_validator

from stages.core.base.errors import UserError
from stages.core.base.files import read_yaml
from stages.core.base.names import TEACHER, Run
from stages.core.config.models import ISOTROPIC, USUAL, ModelArgs, Student, Teacher
from stages.core.config.schema import (
    Analysis,
    Dataset,
    Grid,
    Name,
    Objective,
    Objectives,
    Recipe,
    Section,
    Seed,
    Selection,
)

COMPOSE = "choose what to train by `dvc exp run -S` or `python -m stages.tools.compose`, which list the runs"


class Params(Section):
    """The whole of params.yaml."""

    profile: Name
    dataset: Dataset
    teacher: Teacher
    student: Student
    strategy: Selection
    objective: Objectives
    seeds: Annotated[list[Seed], Field(min_length=1)]
    grid: Grid
    recipe: Recipe
    analysis: Analysis
    plan: dict[str, list[str] | dict[str, Any]]  # composed; see `stages.plan`

    def objective_of(self, run: Run) -> Objective:
        """The objective of a run, with the weight that its strategy gives the feature loss."""
        defined = self.objective.definitions[run.objective]
        weight = self.student.strategies[run.strategy].feature_weights.get(run.objective, defined.feature_weight)
        return defined.model_copy(update={"feature_weight": weight})

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is made: to be analysed, or for students."""
        return TEACHER in self.analysis.backbones or bool(self.grid.runs)

    def decided(self, run: Run) -> dict[str, Any]:
        """What decides a student beside recipe, seed, images and teacher: its model and its objective."""
        return {
            "student": list(self.student.model(run.strategy, self.teacher)),
            "copies_teacher": self.student.strategies[run.strategy].copies_teacher,
            "objective": self.objective_of(run).model_dump(),
        }

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
                    raise ValueError(f"{key}: '{name}' must be one of {place}: {', '.join(entries)}")
        repeatable: dict[str, Sequence[Any]] = {key: names for key, (names, _, _) in known.items()} | {
            "seeds": self.seeds,
            "analysis.backbones": self.analysis.backbones,
            "analysis.layerwise": self.analysis.layerwise,
            "analysis.classifiers": self.analysis.classifiers,
        }
        for key, values in repeatable.items():
            if len(set(values)) != len(values):
                raise ValueError(f"{key}: {values} has the same value twice")
        if TEACHER in self.student.strategies:
            raise ValueError(f"student.strategies.{TEACHER}: metrics name the teacher so; choose another name")
        for entries, place in {place: (entries, place) for _, entries, place in known.values()}.values():
            spelled: dict[str, str] = {}
            for name in entries:
                if (other := spelled.setdefault(name.lower(), name)) != name:
                    raise ValueError(f"{place}: {other} and {name} differ by case alone, as files cannot everywhere")
        for strategy, entry in self.student.strategies.items():
            for name in entry.feature_weights:
                defined = self.objective.definitions.get(name)
                if defined is None or defined.feature is None:
                    reason = "is none of objective.definitions" if defined is None else "has no feature loss"
                    raise ValueError(f"student.strategies.{strategy}.feature_weights: {name} {reason}; remove it")
            if entry.of_teacher and strategy not in self.strategy.names:
                continue  # the teacher's depth need not suit a student that is not trained
            try:
                ModelArgs(**self.student.model(strategy, self.teacher)[1])
            except ValidationError as error:
                raise ValueError(f"student.strategies.{strategy}: {_reason(error.errors()[0])}") from None
        return self

    @model_validator(mode="after")
    def _grid(self) -> Self:
        """Require that `grid.runs`, which DVC reads, are the runs that the other keys choose."""
        blocks = self.grid.blocks
        if not blocks and not self.grid.runs:
            return self
        for key, names, known in (
            ("strategy.names", self.strategy.names, [name for block in blocks for name in block.strategies]),
            ("objective.names", self.objective.names, [name for block in blocks for name in block.objectives]),
            ("seeds", self.seeds, [seed for block in blocks for seed in block.seeds]),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"{key}: {name} is in none of grid.blocks; {COMPOSE}")
        chosen = {
            cell
            for block in blocks
            for cell in product(block.strategies, block.objectives, block.seeds)
            if cell[0] in self.strategy.names and cell[1] in self.objective.names
        }
        listed = self.grid.listed()
        of_seeds = [run for seed in self.grid.runs for run in self.grid.of_seed(int(seed)) if run.seed == int(seed)]
        if len(set(of_seeds)) < len(listed) or set(of_seeds) != chosen:
            raise ValueError(f"grid.runs: these are not the runs of grid.blocks; {COMPOSE}")
        return self

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        """Require that teacher and students take the dataset's images, and that feature losses can compare their maps.

        Sizes that params leave to the architecture are checked before training, by `stages.core.distillation.task`.
        """
        fitted = self.has_teacher and self.teacher.fitted
        if self.dataset.train_split is None and (self.grid.runs or fitted):
            reason = "grid.runs trains students" if self.grid.runs else f"teacher.weights is {self.teacher.weights}"
            raise ValueError(f"dataset.train_split: null names no images to train on, but {reason}; set it")
        if not self.has_teacher:
            return self
        pixels, teacher = self.dataset.image_size, self.teacher.model_args
        trained = self.strategy.names if self.grid.runs else []
        students = {name: ModelArgs(**self.student.model(name, self.teacher)[1]) for name in trained}
        sizes = {"teacher.model_args.img_size": teacher.img_size} | {
            self.student.key(strategy, "img_size"): student.img_size for strategy, student in students.items()
        }
        for key, size in sizes.items():
            if size not in (None, pixels):
                raise ValueError(f"{key}: {size} is not dataset.image_size, {pixels}; make them equal")
        for strategy, student in students.items():
            compared = {run.objective for run in self.grid.listed() if run.strategy == strategy}
            compared = {name for name in compared if self.objective.definitions[name].feature is not None}
            # One that refuses wider students is checked, if there is one: it refuses all that the others do.
            for name in sorted(compared, key=lambda name: not self.objective.definitions[name].refuses_wider)[:1]:
                self._check_maps(strategy, student, name)
        return self

    @property
    def unusual(self) -> bool:
        """Whether the teacher or a student is of an architecture that no profile has, and has to be looked at."""
        chosen = {self.student.model(name, self.teacher)[0] for name in self.strategy.names}
        return not {self.teacher.architecture, *chosen} <= USUAL

    def _check_maps(self, strategy: str, student: ModelArgs, objective: str) -> None:
        (architecture, arguments), teacher = self.student.model(strategy, self.teacher), self.teacher.model_args
        width, least = student.last_width(architecture), teacher.last_width(self.teacher.architecture)
        if width and least and width > least and self.objective.definitions[objective].refuses_wider:
            widths = ("lift_width", "widen_width", "widen_widths", "embed_dim")
            argument = next(name for name in widths if name in arguments)
            orthogonal = self.objective.definitions[objective].projector == "orthogonal"
            reason = "projects orthogonally from one to the other" if orthogonal else "compares the two"
            change = "projector to linear" if orthogonal else "wider to pool"
            raise ValueError(
                f"{self.student.key(strategy, argument)}: {width} channels are more than the teacher's {least}, and "
                f"objective.names: {objective} {reason}; lower it, leave {strategy} or {objective} out, or "
                f"set objective.definitions.{objective}.{change}"
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


def load(path: Path, analyses: Mapping[str, Any] | None = None) -> Params:
    """Read and check a parameter file.

    Raises:
        UserError: the file is missing or not YAML, or as `check` says.
    """
    return check(read_yaml(path), path, analyses)


def check(content: Any, path: Path, analyses: Mapping[str, Any] | None = None) -> Params:
    """Check the content of a parameter file.

    Args:
        content: as read from YAML.
        path: the file, for messages.
        analyses: the types of all sections of analyses, by name. Without it they may be anything, for who does not read
            them: this wing does not know them.

    Raises:
        UserError: a key is unknown or missing, a type is wrong, a value is impossible; the text names every such key.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no parameters; compose it with `python -m stages.tools.compose`")
    schema = Params if analyses is None else _with_sections(tuple(analyses.items()))
    try:
        return schema.model_validate(content)
    except ValidationError as invalid:
        faults: dict[str, str] = {}  # by what is said once: of a name, which many places repeat, its first place
        for error in invalid.errors(include_url=False):
            key = ".".join(str(part) for part in error["loc"] if part != "[key]")
            reason = f"{_reason(error)}{_shown(error) if key else ''}"
            fault = f"{key + ': ' if key else ''}{reason}"
            faults.setdefault(reason if reason.startswith("the name ") else fault, fault)
        raise UserError(f"{path}: " + "; ".join(faults.values())) from None


@cache
def _with_sections(analyses: tuple[tuple[str, Any], ...]) -> type[Params]:
    """The schema with the sections of all analyses, and no others."""
    fields: dict[str, Any] = {name: (section, ...) for name, section in analyses}
    closed = create_model("Analysis", __base__=Analysis, __cls_kwargs__={"extra": "forbid"}, **fields)
    return create_model("Params", __base__=Params, analysis=(closed, ...))


def _reason(error: Any) -> str:
    """Pydantic's message of one fault in plain words."""
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        return "is not a key of params.yaml; correct its spelling or remove it"
    if error["type"] == "list_type" and isinstance(error["input"], str | int | float):
        return f"must be a list, as [{error['input']}]"
    return re.sub(r"^(Input|[A-Z][a-z]+) should ", "must ", error["msg"].removeprefix("Value error, "))


def _shown(error: Any) -> str:
    value = error.get("input")
    if error["type"] in ("missing", "extra_forbidden", "list_type") or not isinstance(value, str | int | float | None):
        return ""
    return f" (got {value!r})"
