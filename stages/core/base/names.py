"""Names that one module gives and others look for."""

TEACHER = "teacher"  # of the teacher's backbone, and of its row in encoding.csv
BASELINE = "baseline"  # the strategy of the student as it is
LABELS_ALONE = "none"  # the objective without a teacher
SMALL = "digits"  # the embedded dataset, on which every student comes near the ceiling


def setting_name(strategy: str, objective: str) -> str:
    """What runs that differ in nothing but their seed are called."""
    return f"{strategy}-{objective}"


def run_name(strategy: str, objective: str, seed: int) -> str:
    """What a run is called: its folder, its DVC stage's item (`key` of dvc.yaml), its row in every table."""
    return f"{setting_name(strategy, objective)}-{seed}"
