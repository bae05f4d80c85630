"""Collect the metrics of all stages in small files tracked by git: reports/results and reports/metrics.json."""

import io

import numpy as np
import pandas as pd

from stages import messages
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, prune, read_json, write_json, write_text
from stages.core.base.names import TEACHER
from stages.core.config import params
from stages.core.data.splits import index_file, labels, read_index
from stages.core.evidence import analysis_tables
from stages.core.evidence.comparison import (
    check_settings,
    comparison_table,
    correct_predictions,
    nested_means,
    runs_table,
)
from stages.core.evidence.controls import controls_table
from stages.core.evidence.differences import differences_table
from stages.paths import (
    COST,
    DYNAMICS,
    ENCODE,
    EXTRACT,
    MANIFEST,
    PARAMS,
    PCA,
    PREPARE,
    RANK,
    REPORTS,
    RESULTS,
    ROTATION,
    SEP,
    SVD,
    TEACH,
    run_folder,
)


def main() -> None:
    """Write the results that audit and report read, of the runs and backbones in params."""
    project = params.load(PARAMS)
    grid = project.grid.listed()
    backbones = list(project.analysis.backbones)
    for folder in (EXTRACT, SVD, PCA, SEP, ROTATION):
        prune(folder, backbones)

    made_of = f"{messages.counted(len(grid), 'student')} and {messages.counted(len(backbones), 'backbone')}"
    messages.begin("summarize", f"tables of {made_of}")
    teacher = read_json(TEACH / "metrics.json")
    folders = {"svd": SVD, "pca": PCA, "sep": SEP, "rotation": ROTATION}
    analyses = {name: analysis_tables.by_backbone(folder, backbones) for name, folder in folders.items()}
    students = {one.name: run_folder(one) for one in grid}
    runs = runs_table([{"run": name, **read_json(folder / "metrics.json")} for name, folder in students.items()])
    check_settings(runs)
    try:
        curves = pd.concat(
            [pd.read_csv(students[one.name] / "curves.csv").assign(run=one.name, **one._asdict()) for one in grid]
        )
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run `dvc repro train` to make it") from None
    truth = np.array(labels(read_index(index_file(PREPARE, "val")), read_json(MANIFEST)["class_names"]))
    head = ["run", "strategy", "objective", "seed"]
    encoding = pd.DataFrame(read_json(ENCODE / "metrics.json")["runs"]).astype({"seed": "Int64"})
    differences = differences_table(runs, correct_predictions(runs, students, truth))
    tables = {
        "runs": runs,
        "comparison": comparison_table(runs, encoding),
        "differences": differences,
        "controls": controls_table(differences),
        "curves": curves[head + [column for column in curves if column not in head]],
        "backbones": analysis_tables.backbones_table(analyses),
        "dims": analysis_tables.dims_table(SVD, PCA, backbones),
        "ranks": analysis_tables.ranks_table(SVD, backbones),
        "stage_dims": analysis_tables.stage_dims_table(SVD, backbones),
        "energy": analysis_tables.energy_table(SVD, PCA, backbones),
        "floor": analysis_tables.floor_table(SVD, PCA, ENCODE, backbones),
        "rank": pd.read_csv(RANK / "curve.csv"),
        "blocks": pd.read_csv(DYNAMICS / "blocks.csv").astype({"seed": "Int64"}),
        "cka": analysis_tables.cka_table(ENCODE, runs),
        "encoding": encoding[head + [column for column in encoding if column not in head]],
        "sep_curves": analysis_tables.sep_table(SEP, backbones),
        "participation": analysis_tables.participation_table(PCA, backbones),
        "angles": analysis_tables.angles_table(ROTATION, backbones),
        "overlap": analysis_tables.overlap_table(ROTATION, backbones),
    }
    kept = DYNAMICS / "kept_blocks.csv"
    if kept.is_file():  # of runs that kept models during training
        tables["kept_blocks"] = pd.read_csv(kept)
    with atomic_folder(RESULTS) as folder:
        for name, value in {
            **analyses,
            "teacher": teacher,
            "cost": read_json(COST / "metrics.json"),
            "rank": read_json(RANK / "metrics.json"),
        }.items():
            write_json(folder / f"{name}.json", value)
        for name, table in tables.items():
            text = io.StringIO()
            table.to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
            write_text(folder / f"{name}.csv", text.getvalue())

    shown = TEACHER if TEACHER in backbones else backbones[0]
    headline = {
        "weights": {"teacher": teacher["weights"], shown: analyses["svd"][shown]["weights"]},
        "top1": {"teacher": round(teacher["top1"], 2), **nested_means(runs, "top1", 2)},
        "probe_error": nested_means(encoding[encoding["run"] != TEACHER], "probe_error", 3),
        "dims_p99": {name: {shown: analyses[name][shown]["dims_p99"].get("95")} for name in ("svd", "pca")},
    }
    write_json(REPORTS / "metrics.json", headline)
    ordered = runs.sort_values("top1", kind="stable")
    low, high = (f"{top1:.1f} % ({name})" for top1, name in ordered[["top1", "run"]].values[[0, -1]])
    messages.end("summarize", f"top-1 from {low} to {high}, of the teacher {teacher['top1']:.1f} %", RESULTS)


if __name__ == "__main__":
    run(main)
