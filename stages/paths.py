"""Where the stages find their parameters, and leave their results."""

from pathlib import Path

PARAMS = Path("params.yaml")

ARTIFACTS = Path("artifacts")
PREPARE = ARTIFACTS / "prepare"
TEACH = ARTIFACTS / "teach"
WEIGHTS = ARTIFACTS / "weights"  # one file per backbone
EXTRACT = ARTIFACTS / "extract"  # one folder per backbone in these five
SVD = ARTIFACTS / "svd"
PCA = ARTIFACTS / "pca"
SEP = ARTIFACTS / "sep"
ROTATION = ARTIFACTS / "rotation"
RANK = ARTIFACTS / "rank"
TRAIN = ARTIFACTS / "train"  # one folder per run
ASIDE = ARTIFACTS / "aside"  # students that params no longer name and DVC does not hold
ENCODE = ARTIFACTS / "encode"
DYNAMICS = ARTIFACTS / "dynamics"
COST = ARTIFACTS / "cost"
HTML = ARTIFACTS / "html"

REPORTS = Path("reports")
MANIFEST = REPORTS / "data.json"
SOURCE = REPORTS / "source.json"
RESULTS = REPORTS / "results"
REFERENCE = REPORTS / "reference"
RELEASED = REFERENCE / "released.json"  # where the authors' released students were evaluated
AUDIT = REPORTS / "audit.json"
FIGURES = REPORTS / "figures"
STUDIES = REPORTS / "studies"  # one folder per recorded study
