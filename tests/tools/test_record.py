"""Recording a finished reproduction, in a small git and DVC project, and auditing claims by it."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from stages import audit
from stages.core.base.errors import UserError
from stages.core.config.params import Params
from stages.core.evidence import predictions, studies
from stages.core.evidence.claims import Claim
from stages.core.evidence.results import Results, cell
from stages.core.evidence.scales import counts
from stages.core.evidence.verdicts import judge_all
from stages.core.report import rendering
from stages.core.report.tables import audit as tables_audit
from stages.core.report.tables import studies as tables
from stages.paths import AUDIT, REFERENCE, RESULTS
from stages.tools import provenance, record, study_models, verdicts
from stages.tools.compose import composed

PAPER = Params.model_validate(yaml.safe_load(composed("profile=imagenet")))
PIPELINE = {
    "prepare": {
        "cmd": "true",
        "deps": ["params.yaml"],
        "outs": [{"reports/data.json": {"cache": False, "persist": True}}],
        "always_changed": True,
    },
    "summarize": {
        "cmd": "cp source.json reports/metrics.json",
        "deps": ["source.json"],
        "outs": [{"reports/metrics.json": {"cache": False}}],
    },
}


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def git(folder: Path, *command: str) -> str:
    return run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", *command, cwd=folder)


def make_students(project: Path) -> None:
    """The folders of the runs in runs.csv: predictions with its top-1, and weights that nobody trained."""
    manifest = json.loads((project / "reports/data.json").read_text())
    classes, images = manifest["class_names"], manifest["val"]["images"]
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(classes), images)
    prepared = project / "artifacts/prepare"
    prepared.mkdir(parents=True)
    lines = [f"{classes[label]}/{index:04d}.png" for index, label in enumerate(truth)]
    (prepared / "val.txt").write_text("\n".join(lines) + "\n")
    for row in pd.read_csv(project / "reports/results/runs.csv", keep_default_na=False).to_dict("records"):
        folder = project / "artifacts/train" / str(row["seed"]) / row["run"]
        folder.mkdir(parents=True)
        wrong = rng.permutation(images)[: images - round(float(row["top1"]) * images / 100)]
        predicted = truth.copy()
        predicted[wrong] = (truth[wrong] + 1) % len(classes)
        np.save(folder / "predictions.npy", predicted)
        save_file({"weight": torch.rand(3, 5), "steps": torch.tensor([7])}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        (folder / "metrics.json").write_text(json.dumps({"run": row["run"]}))
        (folder / "README.md").write_text(f"# {row['run']}\n")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, committed: Path) -> Path:
    """A repository with the project's reports and a pipeline of two quick stages, up to date and committed."""
    folder = tmp_path_factory.mktemp("record") / "project"
    shutil.copytree(committed / "reports", folder / "reports", ignore=shutil.ignore_patterns("studies"))
    (folder / "reports/studies").mkdir()
    shutil.copy(committed / "reports/studies/README.md", folder / "reports/studies")
    shutil.copy(committed / "params.yaml", folder)
    shutil.copy(committed / "reports" / "metrics.json", folder / "source.json")
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": PIPELINE}))
    make_students(folder)
    git(folder, "init", "-q")
    run(sys.executable, "-m", "dvc", "init", "-q", cwd=folder)
    run(sys.executable, "-m", "dvc", "repro", "-q", cwd=folder)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "done")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project, and the working directory."""
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    return folder


def record_as(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["record", *arguments])
    record.main()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_reproduction_is_frozen_whole(project, monkeypatch):
    record_as(monkeypatch, "digits.2")
    frozen = contents(project / "reports/studies/digits.2")
    said = json.loads(frozen.pop("record.json"))
    reports = contents(project / "reports")
    expected = {name: reports[name] for name in ("metrics.json", "audit.json", "data.json")}
    expected |= {name: value for name, value in reports.items() if name.startswith(("results/", "figures/"))}
    assert "figures/headline.svg" in expected
    expected = {
        name: value
        for name, value in expected.items()
        if not name.startswith(("figures/headline", "figures/matching-"))
    }
    expected |= {name: (project / name).read_bytes() for name in ("params.yaml", "dvc.lock")}
    page, evidence = frozen.pop("README.md").decode(), frozen.keys() - expected.keys()
    assert {name: frozen[name] for name in expected} == expected
    runs = pd.read_csv(project / "reports/results/runs.csv", keep_default_na=False)
    settings = {f"{row['strategy']}-{row['objective']}" for row in runs.to_dict("records")}
    files = ("README.md", "config.json", "metrics.json", "model.safetensors")
    assert evidence == {"predictions.npz", *(f"models/{name}/{file}" for name in settings for file in files)}
    assert set(said) == {"date", "commit", "versions", "hardware", "files"}
    assert said["files"] == {name: hashlib.sha256(content).hexdigest() for name, content in frozen.items()}
    assert said["commit"][:10] in page and "record verify digits.2" in page and "was not recorded" in page
    assert said["commit"] == git(project, "rev-parse", "HEAD").strip()
    assert said["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert said["versions"].get("cuda") == torch.version.cuda
    assert {"python", "timm", "numpy", "dvc"} <= set(said["versions"])
    assert set(said["hardware"]) == {"system", "cpu", "cores", "memory_gib", "gpus"}
    assert not any(part in json.dumps(said) for part in (str(Path.home()), str(project), os.sep + "tmp"))

    assert [line[3:] for line in git(project, "status", "--porcelain").splitlines()] == ["reports/studies/digits.2/"]
    with pytest.raises(UserError, match=r"uncommitted changes \(reports/studies/digits\.2/.*, …\); commit them"):
        record_as(monkeypatch, "again")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "recorded")
    with pytest.raises(UserError, match=r"digits\.2 is recorded already; .* --replace"):
        record_as(monkeypatch, "digits.2")
    (project / "reports/studies/digits.2/results/extra.json").write_text("{}")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "an extra file")
    record_as(monkeypatch, "digits.2", "--replace")
    assert set(contents(project / "reports/studies/digits.2")) == {*frozen, "record.json", "README.md"}


@pytest.fixture(scope="module")
def recorded(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one recorded study, `whole`."""
    folder = tmp_path_factory.mktemp("recorded") / "project"
    shutil.copytree(finished, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_NO_ANALYTICS", "1")
        record_as(patch, "whole", "--hours", "1.5")
    return folder


@pytest.fixture
def whole(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a recorded study, whose project is the working directory."""
    folder = tmp_path / "project"
    shutil.copytree(recorded, folder)
    monkeypatch.chdir(folder)
    return folder / "reports/studies/whole"


def seal(study: Path) -> None:
    """Make the digests of a study those of its files, as one who alters both would."""
    said = json.loads((study / "record.json").read_text())
    (study / "record.json").write_text(json.dumps(said | {"files": studies.digests(study)}))


def test_the_evidence_is_what_the_runs_left(whole):
    runs = pd.read_csv(whole / "results/runs.csv", keep_default_na=False)
    answers = predictions.read(whole / "predictions.npz", whole / "data.json")
    assert (whole / "predictions.npz").stat().st_size < answers.labels.size * len(runs)
    assert answers.labels.dtype == np.uint8  # of ten classes
    for row in runs.to_dict("records"):
        folder = Path("artifacts/train", str(row["seed"]), row["run"])
        np.testing.assert_array_equal(answers.classes[row["run"]], np.load(folder / "predictions.npy"))
        assert answers.top1[row["run"]] == pytest.approx(float(row["top1"]), abs=1e-3)
    of_first = load_file(whole / "models/widen-mse/model.safetensors")
    trained = load_file(Path("artifacts/train/0/widen-mse-0/model.safetensors"))
    assert of_first["weight"].dtype == torch.bfloat16 and of_first["steps"].dtype == torch.int64
    torch.testing.assert_close(of_first["weight"].float(), trained["weight"], rtol=2**-8, atol=0)
    assert "1.5 hours" in (whole / "README.md").read_text()


def test_a_recorded_study_is_verified(whole, monkeypatch, capsys):
    for arguments in (("whole",), ("--all",)):
        record_as(monkeypatch, "verify", *arguments)
        said = capsys.readouterr().out
        for name in ("comparison.csv", "differences.csv", "questions.csv", "backbones.csv", "runs from predictions"):
            assert name in said
        assert "not recomputed: models (the embedded images are not written out" in said
    for arguments, message in (((), "name a study, or give --all"), (("other",), "other is no recorded study")):
        with pytest.raises(UserError, match=f"{message}; there is whole"):
            record_as(monkeypatch, "verify", *arguments)


def change_prediction(study: Path) -> None:
    answers = predictions.read(study / "predictions.npz", study / "data.json")
    changed = dict(answers.classes)
    changed["lift-mse-1"] = changed["lift-mse-1"].copy()
    right = np.flatnonzero(answers.correct["lift-mse-1"])[0]
    changed["lift-mse-1"][right] = (answers.labels[right] + 1) % 10
    predictions.write(study / "predictions.npz", predictions.Predictions(answers.labels, changed), study / "data.json")


def change_cell(file: str, column: str, row: int = 2):
    def change(study: Path) -> None:
        table = pd.read_csv(study / "results" / file, keep_default_na=False, dtype=str)
        table.loc[row, column] = f"{float(table.loc[row, column] or 0) + 0.01:.6g}"
        table.to_csv(study / "results" / file, index=False)

    return change


def change_weight(study: Path) -> None:
    file = study / "models/widen-mse/model.safetensors"
    weights = load_file(file)
    weights["weight"][1, 2] += 0.5
    save_file(weights, file)


def change_text(file: str, before: str, after: str):
    def change(study: Path) -> None:
        text = (study / file).read_text()
        assert before in text
        (study / file).write_text(text.replace(before, after, 1))

    return change


def truncate(file: str):
    def change(study: Path) -> None:
        content = (study / file).read_bytes()
        (study / file).write_bytes(content[: len(content) // 2])

    return change


ALTERED = {  # what is changed, the file that is named where digests notice it, what is said where they were changed too
    "a prediction": (change_prediction, "predictions.npz", "top1 of lift-mse-1 is .*, and its predictions give"),
    "a run": (change_cell("runs.csv", "top1"), "results/runs.csv", "top1 of .* is .*, and its predictions give"),
    "a mean": (change_cell("comparison.csv", "top1_mean"), "results/comparison.csv", "top1_mean of .*-.* is"),
    "a difference": (change_cell("differences.csv", "difference"), "results/differences.csv", "difference of .* is"),
    "an interval": (
        change_cell("differences.csv", "low"),
        "results/differences.csv",
        "low of .* is .*, and recomputed",
    ),
    "a question": (change_cell("questions.csv", "high"), "results/questions.csv", "high of .* is .*, and recomputed"),
    "a backbone": (change_cell("backbones.csv", "sep_50", 0), "results/backbones.csv", "sep_50 of teacher is"),
    "a headline": (change_text("metrics.json", '"mse": 97', '"mse": 96'), "metrics.json", "top-1 of .*-mse is not 97"),
    "a verdict": (
        change_text("audit.json", '"verdict": "confirmed"', '"verdict": "contradicted"'),
        "audit.json",
        "counts are not those of its claims",
    ),
    "a weight": (change_weight, "models/widen-mse/model.safetensors", None),
    "a truncated model": (truncate("models/lift-none/model.safetensors"), "models/lift-none/model.safetensors", None),
    "truncated predictions": (truncate("predictions.npz"), "predictions.npz", "cannot be read as predictions"),
    "other images": (change_text("data.json", '"bytes": 1', '"bytes": 2'), "data.json", "predictions of other images"),
    "a figure": (change_text("figures/accuracy.svg", "<svg", "<svg "), "figures/accuracy.svg", None),
    "a further file": (lambda study: (study / "results/new.csv").touch(), "results/new.csv", None),
    "a missing file": (lambda study: (study / "results/cka.csv").unlink(), "results/cka.csv", None),
}


@pytest.mark.parametrize("what", ALTERED)
def test_what_was_altered_is_noticed(what, whole, monkeypatch):
    change, file, said = ALTERED[what]
    change(whole)
    with pytest.raises(
        UserError, match=rf"{re.escape(file)} (is not as it was recorded|is missing|was not there)"
    ) as caught:
        record_as(monkeypatch, "verify", "whole")
    assert "\n" not in str(caught.value)
    if said is not None:
        seal(whole)
        with pytest.raises(UserError, match=said) as caught:
            record_as(monkeypatch, "verify", "whole")
        assert "\n" not in str(caught.value)


def test_a_study_of_an_earlier_version_is_verified_with_what_it_lacks_named(whole, monkeypatch, capsys):
    """No digests, no predictions, no models; columns and a table of today are not there."""
    said = json.loads((whole / "record.json").read_text())
    del said["files"]
    (whole / "record.json").write_text(json.dumps(said))
    (whole / "predictions.npz").unlink()
    shutil.rmtree(whole / "models")
    (whole / "results/questions.csv").unlink()
    table = pd.read_csv(whole / "results/comparison.csv", keep_default_na=False, dtype=str)
    table.rename(columns={"probe_error_std": "rank_std"}).to_csv(whole / "results/comparison.csv", index=False)
    record_as(monkeypatch, "verify", "whole")
    said = capsys.readouterr().out
    for lacking in ("digests", "top-1 from predictions", "questions.csv", "rank_std of comparison.csv", "models"):
        assert f"not recomputed: {lacking}" in said
    assert "differences.csv" in said.splitlines()[0]
    change_cell("runs.csv", "top1")(whole)
    with pytest.raises(UserError, match=r"top1 of .* is .*, and no count of 900 images is it"):
        record_as(monkeypatch, "verify", "whole")


def test_the_recorded_studies_are_as_recorded(committed, monkeypatch, capsys):
    monkeypatch.chdir(committed)
    record_as(monkeypatch, "verify", "--all")
    said = capsys.readouterr().out
    assert all(f"{name}: as recorded: " in said for name in ("cifar100_small", "imagenet_sample_vit_tiny"))
    assert said.count("files by SHA-256") == 2


def test_a_large_study_keeps_its_models_in_the_cache(project, monkeypatch, capsys):
    monkeypatch.setattr(study_models, "LIMIT_BYTES", 1000)
    record_as(monkeypatch, "large")
    assert "they stay in the cache" in capsys.readouterr().out
    assert not Path("reports/studies/large/models").exists()
    assert "a-cache-to-pull-from" in Path("reports/studies/large/README.md").read_text()
    record_as(monkeypatch, "verify", "large")


def test_a_study_names_the_other_machine_that_trained_its_students(project, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["provenance"])
    provenance.main()
    printed = json.loads(capsys.readouterr().out)
    printed["hardware"] |= {"cpu": "Another CPU", "gpus": [{"name": "G100", "memory_gib": 80.0}]}
    printed["versions"]["torch"] = "2.11.0"
    file = tmp_path / "machine.json"
    file.write_text(json.dumps(printed))
    record_as(monkeypatch, "digits.3", "--trained-on", str(file))
    assert json.loads((project / "reports/studies/digits.3/record.json").read_text())["trained_on"] == printed
    (row,) = tables.provenance(studies.read(project / "reports/studies"), "studies")
    assert re.fullmatch(r"students trained on: Another CPU, .*; 1 × G100, 80.0 GiB; all else: .*", row["hardware"])
    assert "; students trained with: " in row["versions"] and row["versions"].count("torch 2.11.0") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), ("[]", "it does not describe"), ('{"versions": {}}', "it does not describe")],
)
def test_what_is_no_description_of_a_machine_is_refused(content, reason, project, monkeypatch, tmp_path):
    file = tmp_path / "machine.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=rf"--trained-on .*machine\.json: {reason}.*; give what `python -m stages"):
        record_as(monkeypatch, "digits.3", "--trained-on", str(file))
    assert not (project / "reports/studies/digits.3").exists()


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        (lambda folder: (folder / "source.json").write_text("{}"), "summarize"),  # a dependency
        (lambda folder: (folder / "reports/metrics.json").write_text("{}"), "summarize"),  # an output
        (lambda folder: (folder / "params.yaml").write_text("{}"), "prepare"),  # of the stage that always runs
        (
            lambda folder: (folder / "dvc.yaml").write_text(
                yaml.safe_dump({"stages": PIPELINE | {"new": {"cmd": "true", "deps": ["source.json"]}}})
            ),
            "new",
        ),
    ],
)
def test_a_stale_pipeline_is_refused(change, stage, project, monkeypatch):
    change(project)
    with pytest.raises(UserError, match="uncommitted changes"):
        record_as(monkeypatch, "stale")
    git(project, "commit", "-qam", "changed")
    with pytest.raises(UserError, match=rf"not up to date \({stage}\); run `dvc repro`"):
        record_as(monkeypatch, "stale")
    assert not (project / "reports/studies/stale").exists()


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("dvc.yaml", True),  # as the test's pipeline has it, with a comment
        ("reports/results/new.json", True),
        ("torch/__init__.py", True),  # which stages would import in the place of the installed one
        ("random.py", True),
        ("README.md", False),
        ("reports/studies/README.md", False),
        ("reports/studies/to_come/README.md", False),  # in a folder that git does not know yet
        ("notes.txt", False),
        ("weights/vit.safetensors", False),
        ("timm/timm/models/vit.py", False),  # a checkout beside; the installed package goes first
    ],
)
def test_what_cannot_change_a_result_need_not_be_committed(file, counts, project, monkeypatch):
    (project / file).parent.mkdir(parents=True, exist_ok=True)
    with (project / file).open("a") as opened:
        opened.write("# changed\n")
    assert git(project, "status", "--porcelain")
    if counts:
        with pytest.raises(
            UserError, match=rf"^there are uncommitted changes \({re.escape(file)}\); commit them first$"
        ):
            record_as(monkeypatch, "beside")
    else:
        record_as(monkeypatch, "beside")
    assert (project / "reports/studies/beside").exists() != counts


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "ü", "a\n", "current", "README.md"])
def test_names_that_no_study_can_have_are_refused(name, project, monkeypatch):
    before = contents(project)
    with pytest.raises(UserError, match=r"cannot be a study's name|cannot be called|study"):
        record_as(monkeypatch, name, "--replace")
    assert contents(project) == before


def test_a_recording_that_fails_leaves_nothing(project):
    sources = dict.fromkeys(studies.CONTENT, project / "reports/results")
    folder = project / "reports/studies/broken"
    with pytest.raises(ValueError, match="Out of range"):
        studies.freeze(sources, {"memory_gib": float("nan")}, folder)
    with pytest.raises(UserError, match="figures is missing"):
        studies.freeze(sources | {"figures": project / "figures"}, {}, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["README.md"]


def test_hardware_is_this_machines(monkeypatch):
    gpu = SimpleNamespace(name="NVIDIA H200", total_memory=140 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    found = provenance.hardware()
    assert found["memory_gib"] == pytest.approx(psutil.virtual_memory().total / 2**30, rel=0.01)
    assert 1 <= found["cores"] <= psutil.cpu_count()
    assert found["gpus"] == [{"name": "NVIDIA H200", "memory_gib": 140.0}] * 2
    assert "no-such-package" not in provenance.versions(["no-such-package"])


def study(root: Path, name: str, *, top1: float, dataset: str = "imagenet", parameters: int | None = None) -> None:
    """A recorded study of one run, widen with softkd_mse."""
    folder = root / "studies" / name
    shutil.copytree(root / "results", folder / "results")
    for file in ("audit.json", "metrics.json"):
        shutil.copy(root / file, folder)
    for file in ("params.yaml", "dvc.lock"):
        (folder / file).write_text("")
    (folder / "figures").mkdir()
    (folder / "results/teacher.json").write_text(
        json.dumps({"architecture": "cait_s24_224", "weights": "pretrained", "top1": 83.456})
    )
    images = {"classes": 1000, "train": {"images": 1_281_167}, "val": {"images": 50_000}}
    (folder / "data.json").write_text(json.dumps({"dataset": dataset, **images}))
    machine = {"system": "Linux x86_64", "cpu": "A CPU", "cores": 16, "memory_gib": 128.0}
    gpus = [{"name": "NVIDIA H200", "memory_gib": 139.8}] * 2
    said = {"date": "2026-01-02", "commit": "0" * 40, "versions": {}, "hardware": machine | {"gpus": gpus}}
    (folder / "record.json").write_text(json.dumps(said))
    run = {"strategy": "widen", "objective": "softkd_mse", "seed": 0, "top1": top1, "width": 384, "teacher_width": 384}
    run |= {"architecture": "deit_tiny_widelast_patch16_224", "model_args": "{}", "teacher_weights": "pretrained"}
    run |= {"alpha": 0.9, "tau": 1.0, "feature": "mse", "feature_weight": 0.2}
    run |= {"projector": "", "target": "features", "blocks": cell(["last"])}
    settings = {**PAPER.recipe.settings(), **PAPER.dataset.evaluation()}
    run |= {key: "" if value is None else cell(value) for key, value in settings.items()}
    with (folder / "results/runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, run)
        writer.writeheader()
        writer.writerow(run)
    differences = folder / "results/differences.csv"  # one setting has none
    differences.write_text(differences.read_text().partition("\n")[0] + "\n")
    if parameters:
        cost = json.loads((folder / "results/cost.json").read_text())
        cost["baseline"]["parameters"] = parameters
        (folder / "results/cost.json").write_text(json.dumps(cost))


def audited(monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setattr(sys, "argv", ["audit"])
    audit.main()
    return json.loads(Path("reports/audit.json").read_text())


def test_claims_are_judged_by_every_study(project, monkeypatch):
    before = audited(monkeypatch)
    unmeasured = [claim for claim in before["claims"] if claim["verdict"] == "not measured"]
    assert all(claim["run"] is None and claim["others"] == [] for claim in unmeasured)
    assert {claim["run"] for claim in before["claims"]} == {None, "current"}

    study(project / "reports", "good", top1=78.3, parameters=1)
    after = audited(monkeypatch)
    claims = {claim["id"]: claim for claim in after["claims"]}
    top1 = claims["top1/widen/softkd_mse"]
    assert (top1["verdict"], top1["run"], top1["measured"], top1["others"]) == ("confirmed", "good", 78.3, [])
    # the study contradicts what the current run confirms: the contradiction shows, the confirmation beside it
    cost = claims["cost_params/baseline/params"]
    assert (cost["verdict"], cost["run"], cost["measured"]) == ("contradicted", "good", 1)
    assert [(one["run"], one["verdict"]) for one in cost["others"]] == [("current", "confirmed")]
    # what both runs find alike, and any run would, is said once
    flops = claims["cost_flops/baseline/flops"]
    assert (flops["verdict"], flops["run"], flops["others"]) == ("confirmed", "current", [])
    lift = claims["top1/lift/softkd_mse"]
    assert lift["verdict"] == "not measured"
    assert (
        lift["reason"]
        == "current: this run uses digits, the claim is about ImageNet-1K; good: no run of lift with softkd_mse"
    )
    assert len(after["claims"]) == len(before["claims"])
    assert after["counts"] == counts(after["claims"])
    assert after["counts"]["the paper's setting"]["confirmed"] == sum(
        claim["verdict"] == "confirmed" for claim in after["claims"]
    )

    study(project / "reports", "bad", top1=70.0)
    top1 = {claim["id"]: claim for claim in audited(monkeypatch)["claims"]}["top1/widen/softkd_mse"]
    assert (top1["verdict"], top1["run"], top1["measured"]) == ("contradicted", "bad", 70.0)
    assert [(one["run"], one["measured"], one["verdict"]) for one in top1["others"]] == [("good", 78.3, "confirmed")]
    monkeypatch.setattr(sys, "argv", ["verdicts"])
    with pytest.raises(UserError, match=r"^contradicted: .*top1/widen/softkd_mse"):
        verdicts.main()


def test_what_is_said_of_a_study_may_come_first_and_stays(project, monkeypatch):
    about = project / "reports/studies/digits.4/README.md"
    about.parent.mkdir()
    about.write_text("What it is of.")
    assert studies.read(about.parents[1]) == []
    for arguments in (["digits.4"], ["digits.4", "--replace"]):
        git(project, "add", "-A")
        git(project, "commit", "-qm", "described")
        record_as(monkeypatch, *arguments)
        assert about.read_text() == "What it is of."
        assert [study.name for study in studies.read(about.parents[1])] == ["digits.4"]


def test_a_study_of_backbones_alone_is_listed_and_judged(project, monkeypatch):
    """Without students its results lack tables, and the headline is of the study before."""
    reports = project / "reports"
    study(reports, "trained", top1=78.3)
    study(reports, "untrained", top1=70.0)
    results = reports / "studies/untrained/results"
    for name in ("runs.csv", "comparison.csv", "differences.csv", "questions.csv", "curves.csv", "teacher.json"):
        (results / name).unlink()
    manifest = {"dataset": "imagenet", "classes": 1000, "val": {"images": 50_000}}
    (reports / "studies/untrained/data.json").write_text(json.dumps(manifest))
    recorded = studies.read(reports / "studies")
    assert [one.has_students for one in recorded] == [True, False]
    assert studies.latest(recorded).name == "trained"
    _, row = tables.provenance(recorded, "studies")
    assert row["teacher"] == "none; teacher" and "studies/untrained/results/backbones.csv" in str(row["files"])
    claims = {claim["id"]: claim for claim in audited(monkeypatch)["claims"]}
    assert claims["top1/widen/softkd_mse"]["run"] == "trained"
    assert any("untrained: no student was trained" in claim["reason"] for claim in claims.values())


def test_a_contradiction_is_never_outvoted():
    claim = Claim(
        id="cost_params/lift/params",
        family="cost",
        statement="",
        source="",
        figure=10,
        measure="student_parameters",
        requires=("nothing",),
        path=("lift",),
        tolerance={"absolute": 1},
    )
    runs = {
        name: Results({"dataset": "digits"}, {}, [], {"lift": {"parameters": parameters}}, {})
        for name, parameters in (("current", 10), ("a", 11), ("b", 13), ("c", 9), ("d", 7), ("e", 11))
    }
    verdict = judge_all(claim, runs)
    assert (verdict["verdict"], verdict["run"], verdict["measured"]) == ("contradicted", "b", 13)
    assert [one["run"] for one in verdict["others"]] == ["current", "a", "c", "d"]
    assert [one["verdict"] for one in verdict["others"]] == ["confirmed", "confirmed", "confirmed", "contradicted"]
    rows = tables_audit.register([verdict])
    assert [(row["run"], row["measured"]) for row in rows] == [
        ("b", 13),
        ("current", 10),
        ("a", 11),
        ("c", 9),
        ("d", 7),
    ]  # e found what a found, and any run would
    del runs["b"], runs["d"]
    assert judge_all(claim, runs)["verdict"] == "confirmed"


def test_studies_are_read_in_order_and_damaged_ones_named(project):
    assert studies.read(project / "nowhere") == studies.read(project / "reports/studies") == []
    for name in ("b", "a"):
        study(project / "reports", name, top1=78.0)
    (project / "reports/studies/.c.1.tmp").mkdir()
    found = studies.read(project / "reports/studies")
    assert [(one.name, one.record["date"]) for one in found] == [("a", "2026-01-02"), ("b", "2026-01-02")]
    (row, _) = tables.studies(found)
    assert row == {
        "study": "a",
        "dataset": "imagenet",
        "teacher": "cait_s24_224, 83.46 %",
        "hardware": "A CPU, 16 cores, 128.0 GiB; 2 × NVIDIA H200, 139.8 GiB",
        "date": "2026-01-02",
    }
    (project / "reports/studies/b/data.json").unlink()
    with pytest.raises(UserError, match=r"studies/b is an incomplete study: data\.json is missing"):
        studies.read(project / "reports/studies")


def page(root: Path, name: str, given: dict[str, Path]) -> str:
    """A report's page, rendered in the working directory."""
    parameters = {key: path.as_posix() for key, path in given.items()}
    html = Path("page.html")
    rendering.render(root / f"notebooks/{name}.ipynb", Path("out.ipynb"), html, Path("figures"), parameters)
    return re.sub(r"\s*\n\s*", "", html.read_text())  # as a browser reads cells


@pytest.mark.processes
def test_the_audits_report_shows_the_studies(project, root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))
    study(project / "reports", "imagenet_1", top1=78.3)
    audited(monkeypatch)
    claims = page(root, "audit", {"results": RESULTS, "audit": AUDIT, "reference": REFERENCE})
    assert re.search(r"top-1 accuracy of widen with softkd_mse, .*?>78.3</td>.*?>imagenet_1</td>", claims)
    assert 'href="../../reports/studies/imagenet_1/figures/accuracy.svg"' in claims


def test_top1_of_studies_stands_by_strategy_and_objective():
    columns = ["strategy", "objective", "top1_mean", "top1_std"]
    first = pd.DataFrame([["baseline", "none", 97.0, 0.5], ["baseline", "mse", 98.0, None]], columns=columns)
    second = pd.DataFrame([["lift", "mse", 77.5, 0.25]], columns=columns)
    table = tables.studies_top1({"a": first, "b": second})
    assert table.fillna("").to_dict("records") == [
        {"study": "a", "strategy": "baseline", "none": "97.00 ± 0.50", "mse": "98.00"},
        {"study": "b", "strategy": "lift", "none": "", "mse": "77.50 ± 0.25"},
    ]
