"""What measuring a claim takes: the command, and how long that runs, measured or priced from what was measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.base.errors import UserError
from stages.core.base.files import read_json, read_yaml
from stages.core.base.names import BASELINE, LABELS_ONLY
from stages.core.evidence.claims import Claim

FILE = "commands.yaml"  # of reports/reference
MEASURED, PRICED, UNKNOWN = "measured", "priced", "not measured"
IMAGES, EPOCHS, STUDENT = 1_281_167, 300, "widen"  # of the paper's run; the student whose training was timed
SAMPLE = 1000  # images of the analyses
# The paper's fourteen backbones have so many times the operations of ViT-Tiny, which was timed.
FOURTEEN = 444
Setting = tuple[str, str]  # strategy, objective
# The paper's table of students.
PAPER: tuple[Setting, ...] = (
    *((BASELINE, objective) for objective in (LABELS_ONLY, "spectral")),
    *(
        (strategy, objective)
        for strategy in ("lift", "widen")
        for objective in (LABELS_ONLY, "mse", "softkd", "softkd_mse", "softkd_spectral")
    ),
)


@dataclass(frozen=True)
class Rates:
    """What was measured of the time that runs take; a record is None where it was not.

    Attributes:
        whole: of the default from nothing, whole_run-cpu.json.
        training: of students at the paper's scale, training-imagenet-cuda.json.
        extraction: of features of ViT-Tiny, extraction-cpu.json.
        flops: operations of a forward pass of the paper's students, by strategy.
    """

    whole: Mapping[str, Any] | None
    training: Mapping[str, Any] | None
    extraction: Mapping[str, Any] | None
    flops: Mapping[str, int]


@dataclass(frozen=True)
class Effort:
    """The run that measures a claim.

    Attributes:
        kind: of run, as commands.yaml names it.
        command: that runs it.
        hours: that it takes; None where nothing says so.
        how: whether the hours were measured, or are priced.
        machine: on which.
    """

    kind: str
    command: str
    hours: float | None
    how: str
    machine: str

    @property
    def text(self) -> str:
        """The time in words."""
        return self.how if self.hours is None else f"{duration(self.hours)} on {self.machine}, {self.how}"


def duration(hours: float) -> str:
    """Hours, or minutes of less than two hours."""
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours > 10 else f"{hours:.1f} h"


def read_rates(performance: Path, results: Path) -> Rates:
    """The records of the benchmarks that were run, and the operations of the paper's students.

    Args:
        performance: reports/performance.
        results: the folder of cost.json.
    """
    names = ("whole_run-cpu", "training-imagenet-cuda", "extraction-cpu")
    whole, training, extraction = (
        read_json(path) if (path := performance / f"{name}.json").is_file() else None for name in names
    )
    flops = {name: row["flops"] for name, row in read_json(results / "cost.json").items()}
    return Rates(whole, training, extraction, flops)


def read_commands(folder: Path) -> list[dict[str, str]]:
    """The kinds of run, from the folder of the reference data.

    Raises:
        UserError: an entry lacks a key, or names a price that is not defined.
    """
    path, keys = folder / FILE, {"name", "requires", "command", "price"}
    commands: list[dict[str, str]] = read_yaml(path)
    for one in commands:
        if set(one) != keys or one["price"] not in PRICES:
            raise UserError(f"{path}: an entry has {', '.join(sorted(keys))}; price is one of {', '.join(PRICES)}")
    return commands


def effort(claim: Claim, commands: Sequence[Mapping[str, str]], rates: Rates) -> Effort:
    """The run that measures a claim at the paper's own setting.

    Raises:
        UserError: no kind of run does.
    """
    for one in commands:
        if one["requires"] in claim.requires:
            asked = settings(claim)
            columns = (dict.fromkeys(names) for names in zip(*asked, strict=True))
            strategies, objectives = (f"[{','.join(names)}]" for names in columns)
            command = one["command"].format(strategies=strategies, objectives=objectives)
            return Effort(one["name"], command, *PRICES[one["price"]](rates, asked))
    raise UserError(f"{FILE}: no run measures {claim.id}; add one that requires {' or '.join(claim.requires)}")


def settings(claim: Claim) -> tuple[Setting, ...]:
    """The settings of students that a claim speaks of; those of the paper's whole table where it names none."""
    if {"first", "second"} <= claim.options.keys():
        return tuple(tuple(claim.options[place]) for place in ("first", "second"))
    if isinstance(claim.entry.get("objective"), str):
        return ((claim.entry["strategy"], claim.entry["objective"]),)
    return PAPER


def of_student(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of `STUDENT` in the record of a training benchmark."""
    (row,) = (result for result in record["results"] if result["student"] == STUDENT)
    return row


def training(rates: Rates, asked: Sequence[Setting], *, together: bool = True) -> tuple[float | None, str, str]:
    """GPU hours of 300 epochs of some students: their operations at the rate that was measured for one of them.

    Args:
        rates: what was measured.
        asked: the students; those that the counts do not name have WideLast's operations, the most.
        together: one pass of the teacher for all of them.
    """
    if rates.training is None:
        return None, UNKNOWN, ""
    row = of_student(rates.training)
    teacher = row["flops_per_image"] - 3 * rates.flops[STUDENT]
    per_s = row["ours"]["images_per_s"]["median"] * row["flops_per_image"]
    flops = [(rates.flops.get(name, rates.flops[STUDENT]), objective != LABELS_ONLY) for name, objective in asked]
    total = operations(flops, teacher)[together]
    return total * EPOCHS * IMAGES / per_s / 3600, PRICED, f"one {rates.training['hardware']['gpus'][0]['name']}"


def operations(students: Sequence[tuple[int, bool]], teacher: int) -> tuple[int, int]:
    """Operations for each image: with a teacher pass for each run that asks one, and with one for all of them.

    Args:
        students: operations of the forward pass of each, and whether its objective asks a teacher; a backward pass
            takes twice as many.
        teacher: operations of the teacher's forward pass.
    """
    own, asking = sum(3 * flops for flops, _ in students), sum(taught for _, taught in students)
    return own + asking * teacher, own + bool(asking) * teacher


def analysis(rates: Rates, asked: Sequence[Setting] = ()) -> tuple[float | None, str, str]:
    """Hours of extraction of the paper's fourteen backbones, by operations, from the rate of the smallest."""
    if rates.extraction is None:
        return None, UNKNOWN, ""
    seconds = SAMPLE / rates.extraction["images_per_s"]["ours"]["median"]
    return FOURTEEN * seconds / 3600, PRICED, f"{rates.extraction['hardware']['cores']} cores"


def default(rates: Rates, asked: Sequence[Setting] = ()) -> tuple[float | None, str, str]:
    """Hours of the default run from nothing."""
    if rates.whole is None or "repro_s" not in rates.whole:
        return None, UNKNOWN, ""
    return rates.whole["repro_s"] / 3600, MEASURED, f"{rates.whole['hardware']['cores']} cores"


PRICES: dict[str, Callable[[Rates, Sequence[Setting]], tuple[float | None, str, str]]] = {
    "default": default,
    "analysis": analysis,
    "training": training,
}
