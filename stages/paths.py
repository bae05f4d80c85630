"""Where the stages find their parameters, and leave their results."""

from pathlib import Path

from stages.core.base.names import Run

PARAMS = Path("params.yaml")

ARTIFACTS = Path("artifacts")
CHECK = ARTIFACTS / "check"  # one file per seed
PREPARE = ARTIFACTS / "prepare"
TEACH = ARTIFACTS / "teach"
WEIGHTS = ARTIFACTS / "weights"  # one file per timm model
EXTRACT = ARTIFACTS / "extract"  # one folder per backbone, as in ARTIFACTS / NAME of each analysis of features
TRUNCATION = ARTIFACTS / "truncation"  # of those that classify
DYNAMICS = ARTIFACTS / "dynamics"  # of those that classify, and of the students
TRAIN = ARTIFACTS / "train"  # one folder per seed, in it one per run: `run_folder`
ENCODE = ARTIFACTS / "encode"
COST = ARTIFACTS / "cost"
HTML = ARTIFACTS / "html"

REPORTS = Path("reports")
CHECKED = REPORTS / "params.ok"  # what `check` writes; it never changes
MANIFEST = REPORTS / "data.json"
SOURCE = REPORTS / "source.json"
RESULTS = REPORTS / "results"
REFERENCE = REPORTS / "reference"
RELEASED = REFERENCE / "released.json"  # where the authors' released students were evaluated
AUDIT = REPORTS / "audit.json"
FIGURES = REPORTS / "figures"
PERFORMANCE = REPORTS / "performance"  # what the benchmarks measured
STUDIES = REPORTS / "studies"  # one folder per recorded study


def run_folder(run: Run) -> Path:
    """Where a run's student is."""
    return TRAIN / str(run.seed) / run.name
