"""Names that several wings share: of strategies, objectives, datasets and runs."""

from typing import NamedTuple

TEACHER = "teacher"  # the teacher's name among the backbones, and in the `run` column of encoding.csv
STUDENTS = "students"  # all trained students, among what the stage `dynamics` measures
BASELINE = "baseline"  # the strategy that leaves the student's architecture unchanged
LABELS_ONLY = "none"  # the objective that uses no teacher
DIGITS = "digits"  # the embedded dataset, on which every student comes near 100 %


def setting_name(strategy: str, objective: str) -> str:
    """The common name of runs that differ only in their seed."""
    return f"{strategy}-{objective}"


class Run(NamedTuple):
    """One student: a strategy, trained with an objective and a seed."""

    strategy: str
    objective: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, of its item of the DVC stage (`key` in dvc.yaml), of its row in every table."""
        return f"{setting_name(self.strategy, self.objective)}-{self.seed}"
