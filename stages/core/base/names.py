"""Names that several wings share, of strategies, objectives, datasets and runs, and how many there are in words."""

from typing import NamedTuple, Self

TEACHER = "teacher"  # the teacher's name among the backbones, and in the `run` column of encoding.csv
STUDENTS = "students"  # all trained students, among what the stage `dynamics` measures
BASELINE = "baseline"  # the strategy that leaves the student's architecture unchanged
LABELS_ONLY = "none"  # the objective that uses no teacher
DIGITS = "digits"  # the embedded dataset, on which every student comes near 100 %


def setting_name(strategy: str, objective: str) -> str:
    """The common name of runs that differ only in their seed."""
    return f"{strategy}-{objective}"


def plural(count: int, noun: str) -> str:
    """A count of things: 1 backbone, 2 backbones."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


class Run(NamedTuple):
    """One student: a strategy, trained with an objective and a seed."""

    strategy: str
    objective: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, in `grid.runs`, of its row in every table."""
        return f"{self.setting}-{self.seed}"

    @property
    def setting(self) -> str:
        """What it has in common with the runs that differ only in their seed."""
        return setting_name(self.strategy, self.objective)

    @classmethod
    def named(cls, name: str) -> Self:
        """The run of a name: no strategy or objective has a hyphen in its own."""
        strategy, objective, seed = name.split("-")
        return cls(strategy, objective, int(seed))
