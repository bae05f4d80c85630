"""Collect the metrics of all stages in small files tracked by git: reports/results and reports/metrics.json.

What was not run has no file: without a teacher there is no teacher.json, without students no runs.csv.
"""

import io
from typing import Any

import numpy as np
import pandas as pd

from stages import messages, missing
from stages.core.analysis import registry
from stages.core.base.arrays import read_npy
from stages.core.base.errors import UserError, run
from stages.core.base.files import atomic_folder, prune, read_json, write_json, write_text
from stages.core.base.names import STUDENTS, TEACHER, Run, plural
from stages.core.config import params
from stages.core.data.splits import index_file, labels, read_index
from stages.core.evidence import analysis_tables
from stages.core.evidence.applied import MATCHING_COLUMNS, with_applied
from stages.core.evidence.comparison import (
    check_settings,
    comparison_table,
    correct_predictions,
    nested_means,
    runs_table,
)
from stages.core.evidence.differences import differences_table
from stages.core.evidence.questions import questions_table, read_questions
from stages.paths import (
    ARTIFACTS,
    COST,
    DYNAMICS,
    ENCODE,
    EXTRACT,
    MANIFEST,
    PARAMS,
    PREPARE,
    REFERENCE,
    REPORTS,
    RESULTS,
    TEACH,
    WEIGHTS,
    run_folder,
)

HEAD = ["run", "strategy", "objective", "seed"]
ANALYSES = {name: ARTIFACTS / name for name in registry.NAMES}
Files = dict[str, Any]  # of results: tables, and what JSON holds


def main() -> None:
    """Write the results that audit and report read, of the runs and backbones in params."""
    project = params.load(PARAMS)
    plan, grid = project.plan, project.grid.listed()
    of_models = (*registry.OF_MODELS, "dynamics")
    for folder in (EXTRACT, *ANALYSES.values()):
        prune(folder, list(plan["extract"]))
    for stage in of_models:
        prune(ARTIFACTS / stage, list(plan[stage]))

    weights = analysis_tables.by_name(WEIGHTS, [name for name in plan["extract"] if name != TEACHER])
    absent = {name for name, of in weights.items() if missing.KEY in of}
    backbones = [name for name in plan["extract"] if name not in absent]
    made_of = f"{plural(len(grid), 'student')} and {plural(len(backbones), 'backbone')}"
    messages.begin("summarize", f"tables of {made_of}")
    models = {stage: [name for name in plan[stage] if name not in absent] for stage in of_models}
    files = of_backbones(backbones, has_students=bool(grid)) | of_blocks(models["dynamics"])
    for name in registry.OF_MODELS:
        if models[name]:
            files |= analysis_tables.of_analyses({name: ARTIFACTS / name}, models[name])
            files[f"{name}.json"] = analysis_tables.by_backbone(ARTIFACTS / name, models[name])
    if weights:
        files["weights.json"] = weights
    if plan["teach"]:
        files["teacher.json"] = read_json(TEACH / "metrics.json")
    if grid:
        files |= of_students(grid, files["floor"])
    with atomic_folder(RESULTS) as folder:
        for name, value in files.items():
            if name.endswith(".json"):
                write_json(folder / name, value)
            else:
                text = io.StringIO()
                value.to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
                write_text(folder / f"{name}.csv", text.getvalue())
    write_json(REPORTS / "metrics.json", headline(files))
    messages.end("summarize", _found(files), RESULTS)


def of_backbones(backbones: list[str], *, has_students: bool) -> Files:
    """The results of the analyses of backbones, and the costs that are counted whatever is run."""
    analyses = {name: analysis_tables.by_backbone(folder, backbones) for name, folder in ANALYSES.items()}
    tables = analysis_tables.of_analyses(ANALYSES, backbones)
    if has_students:
        tables["floor"] = analysis_tables.with_teachers_floor(tables["floor"], read_npy(ENCODE / "floors.npy"))
    return {
        **{f"{name}.json": metrics for name, metrics in analyses.items()},
        "cost.json": read_json(COST / "metrics.json"),
        "backbones": analysis_tables.backbones_table(analyses),
        **tables,
    }


def of_blocks(models: list[str]) -> Files:
    """The measures of every block, of models and of students; none where no model was measured."""
    if not models:
        return {}
    tables = [pd.read_csv(DYNAMICS / name / "blocks.csv").astype({"seed": "Int64"}) for name in models]
    kept = DYNAMICS / STUDENTS / "kept_blocks.csv"
    of_kept = {"kept_blocks": pd.read_csv(kept)} if kept.is_file() else {}  # of runs that kept models during training
    return {"blocks": pd.concat(tables), **of_kept}


def of_students(grid: list[Run], floors: pd.DataFrame) -> Files:
    """What the students reached, and how they differ from each other and from their teacher."""
    students = {one.name: run_folder(one) for one in grid}
    trained = runs_table([{"run": name, **read_json(folder / "metrics.json")} for name, folder in students.items()])
    check_settings(trained)
    try:
        curves = pd.concat(
            [pd.read_csv(students[one.name] / "curves.csv").assign(run=one.name, **one._asdict()) for one in grid]
        )
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; run `dvc repro train` to make it") from None
    truth = np.array(labels(read_index(index_file(PREPARE, "val")), read_json(MANIFEST)["class_names"]))
    encoded = read_json(ENCODE / "metrics.json")
    encoding = pd.DataFrame(encoded["runs"]).astype({"seed": "Int64"})
    matching = pd.DataFrame(encoded["matching"], columns=list(MATCHING_COLUMNS))
    runs = with_applied(trained, encoding, floors, matching)
    register = read_questions(REFERENCE)
    read_from = runs.assign(reads_matched_tokens=runs["run"].map(encoding.set_index("run")["reads_matched_tokens"]))
    asked = [one.pairs[0] for one in register.questions if len(one.pairs) == 1]
    differences = differences_table(runs, correct_predictions(runs, students, truth), asked)
    return {
        "runs": runs,
        "comparison": comparison_table(runs, encoding),
        "differences": differences,
        "questions": questions_table(read_from, register),
        "curves": curves[HEAD + [column for column in curves if column not in HEAD]],
        "cka": analysis_tables.cka_table(ENCODE, runs),
        "encoding": encoding[HEAD + [column for column in encoding if column not in HEAD]],
    }


def headline(files: Files) -> dict[str, Any]:
    """The few numbers that `dvc exp show` prints."""
    svd, teacher = files["svd.json"], files.get("teacher.json")
    shown = TEACHER if TEACHER in svd else next(iter(svd))
    weights = {} if teacher is None else {TEACHER: teacher["weights"]}
    top1 = {} if teacher is None else {TEACHER: round(teacher["top1"], 2)}
    if TEACHER not in top1:  # of the models that name the classes, with all dims
        truncation = files.get("truncation.json", {})
        top1 = {name: round(of["top1"], 2) for name, of in truncation.items() if "top1" in of}
    found = {"weights": weights | {shown: svd[shown]["weights"]}}
    if "runs" in files:
        top1 |= nested_means(files["runs"], "top1", 2)
        encoding = files["encoding"]
        found["probe_error"] = nested_means(encoding[encoding["run"] != TEACHER], "probe_error", 3)
    if top1:
        found["top1"] = top1
    bases = {"per_image": svd, "shared": files["pca.json"]}
    dims = {basis: {shown: found_dims[shown]["dims_p99"].get("95")} for basis, found_dims in bases.items()}
    return {key: found[key] for key in ("weights", "top1", "probe_error") if key in found} | {"dims_p99": dims}


def _found(files: Files) -> str:
    """The line that the stage ends with."""
    if "runs" in files:
        ordered = files["runs"].sort_values("top1", kind="stable")
        low, high = (f"{top1:.1f} % ({name})" for top1, name in ordered[["top1", "run"]].values[[0, -1]])
        return f"top-1 from {low} to {high}, of the teacher {files['teacher.json']['top1']:.1f} %"
    return f"{len(files)} tables of {plural(len(files['backbones']), 'backbone')}"


if __name__ == "__main__":
    run(main)
