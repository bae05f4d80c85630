"""The real pipeline at its smallest, in a temporary copy: without a network, killed, changed, with bad parameters.

All tests share the copy, and the results of one uninterrupted `dvc repro` in it.
"""

import copy
import json
import re
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faults.kill import Harness
from faults.project import Project

from stages.core.base.files import sha256

pytestmark = pytest.mark.pipeline

SHORT = ("epochs=1", "epoch_steps=4", "warmup_epochs=0")
SMALL = tuple(f"{recipe}.{option}" for recipe in ("teacher.recipe", "recipe") for option in SHORT)
SMALL = (*SMALL, "strategy.names=[baseline,widen]", "seeds=[0]")
BLOCKS = (
    "{strategies: [baseline], objectives: [none], seeds: [0]}",
    "{strategies: [widen], objectives: [mse], seeds: [0]}",
)
SMALL = (*SMALL, f"grid.blocks=[{', '.join(BLOCKS)}]")  # no product of strategies and objectives
SMALL = (*SMALL, "analysis.images_per_class=2", "analysis.sep.permutations=50", "analysis.sep.resamples=50")
SMALL = (*SMALL, "analysis.truncation.points=4", "dataset.val_images=100")
TRAIN = "train@0"

NORMS = '''
"""How long tokens are."""

import numpy as np

from stages.core.analysis.registry import Measured
from stages.core.base.arrays import read_npy
from stages.core.config.schema import Percent, Section
from stages.core.features.store import last_block

PURPOSE = "the length of tokens, percentile {percent} of each image"


class Params(Section):
    percent: Percent


def measure(source, settings):
    norms = np.percentile(np.linalg.norm(last_block(source.features), axis=2), settings.percent, axis=1)
    return Measured({"norm": float(norms.mean())}, {"norms": norms}, f"{norms.mean():.2f}")


def columns(metrics):
    return {"norm": metrics["norm"]}


def tables(folder):
    norms = read_npy(folder / "norms.npy")
    yield "norms", {"image": np.arange(len(norms)), "norm": norms}
'''
OF_NORMS = """
  norms:
    foreach: ${plan.extract}
    do:
      cmd: python -m stages.analyse norms --backbone ${key}
      deps: ['artifacts/extract/${key}', stages/analyse.py, stages/core/analysis]
      params: [analysis.norms]
      outs: ['artifacts/norms/${key}']
"""

NO_NETWORK = """
import socket
def refuse(method):
    def guarded(self, address, *arguments):
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        if not local:
            raise OSError(f"no network here: {address}")
        return method(self, address, *arguments)
    return guarded
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse(getattr(socket.socket, name)))
def lookup(host, *arguments, found=socket.getaddrinfo, **options):
    if host not in (None, "", "127.0.0.1", "::1", "localhost"):
        raise socket.gaierror(f"no network here: {host}")
    return found(host, *arguments, **options)
socket.getaddrinfo = lookup
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which every stage has run once, and every Python process is cut off from all but its own machine."""
    guard = tmp_path_factory.mktemp("guard")
    (guard / "sitecustomize.py").write_text(NO_NETWORK)
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    made = Project(folder, SMALL, PYTHONPATH=f"{folder}:{guard}", WORKERS="0")
    made.copy()
    made.refer()
    return made


def read(project: Project, name: str) -> dict:
    return json.loads((project.folder / name).read_text())


def test_every_stage_runs_without_a_network(project: Project) -> None:
    reach = project.start("python", "-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)")
    assert reach.finish() == 1 and "no network here" in reach.output
    metrics, audit = read(project, "reports/metrics.json"), read(project, "reports/audit.json")
    assert set(metrics["top1"]) == {"teacher", "baseline", "widen"}
    assert set(metrics["probe_error"]["widen"]) == {"mse"}
    contradicted = [claim["id"] for claim in audit["claims"] if claim["verdict"] == "contradicted"]
    assert contradicted == [
        "cost_params/widen/params",
        "consistent_parameters/widen/params",
        "consistent_distilled_baseline/top1/baseline",
    ]
    shown = json.loads(project.run("dvc", "metrics", "show", "--json", "reports/audit.json").lines[0][1])
    assert shown[""]["data"]["reports/audit.json"]["data"] == {"counts": audit["counts"]}
    for page in ("index", "representation", "distillation", "audit"):
        html = (project.folder / f"artifacts/html/{page}.html").read_text()
        addresses = re.findall(r'(?:src|href)="(https?://[^/"]+)', html)
        assert set(addresses) <= {f"https://{host}" for host in ("arxiv.org", "github.com", "sotaverified.org")}
        assert 'src="http' not in html


def test_every_stage_says_what_it_found_and_where(project: Project) -> None:
    ended = [line for line in project.said if " -> " in line]
    stages = {name.partition("@")[0] for name in project.records} - {"train", "report"}
    assert stages <= {line.split()[0].rstrip(":") for line in ended}
    assert any(line.startswith("widen-mse-0: top-1 ") for line in ended)
    for line in ended:
        assert (project.folder / line.rpartition(" -> ")[2]).exists(), line


def test_a_second_clone_pulls_what_was_pushed_and_runs_nothing(project: Project, tmp_path: Path) -> None:
    """As reports/README.md says it, with a folder as remote."""
    for words in (
        ("dvc", "remote", "add", "-d", "results", str(tmp_path / "remote")),
        ("dvc", "push"),
        ("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qam", "results"),
        ("git", "clone", "-q", ".", str(tmp_path / "clone")),
    ):
        project.run(*words)
    clone, guard = copy.copy(project), project.variables["PYTHONPATH"].partition(":")[2]
    clone.folder = tmp_path / "clone"
    clone.variables = {**project.variables, "PYTHONPATH": f"{clone.folder}:{guard}"}
    (clone.folder / "reports/studies").mkdir()  # which is empty in the copy, and so not in git
    clone.run("dvc", "pull")
    outputs = {name: digest for name, digest in project.reference.items() if name.startswith("artifacts/")}
    assert any(name.endswith("model.safetensors") for name in outputs) and any("/layer_" in name for name in outputs)
    assert {name: sha256(clone.folder / name) for name in outputs} == outputs
    assert clone.rerun() == set()
    assert clone.run("git", "status", "--porcelain").lines == []


def test_a_change_reruns_what_it_touches_alone(project: Project) -> None:
    project.compose()
    assert project.due() == set()
    project.compose("student.strategies.widen.model_args.widen_width=64")
    assert project.rerun("check") == {"check"} and project.due() == {TRAIN, "encode@students"}
    project.compose("objective.definitions.gram.feature_weight=0.5", "student.strategies.lift.model_args.lift_width=64")
    assert project.rerun("check") == {"check"} and project.due() == set()  # no student that is trained has them
    project.compose("analysis.rotation.pairs=100")
    assert project.due() == {"check", "rotation@teacher"}
    project.compose("analysis.sep.permutations=20", "strategy.names=[widen]")
    (project.folder / "artifacts/train/7/lift-mse-7").mkdir(parents=True)  # of a seed that params no longer name
    before = project.contents(TRAIN)
    assert project.rerun("audit") == {
        *(
            "check",
            TRAIN,
            "sep@teacher",
            "encode@students",
            "dynamics@teacher",
            "dynamics@students",
            "summarize",
            "audit",
        )
    }
    left = {name: digest for name, digest in before.items() if "/widen-mse-0/" in name}
    assert left and project.contents(TRAIN) == left  # taken from its checkpoint, and the other one is gone
    assert [path.name for path in (project.folder / "artifacts/train").iterdir()] == ["0"]


def test_nothing_is_lost_by_a_full_disk_kills_and_a_second_command(project: Project) -> None:
    """The short form of tests.faults.kill."""
    project.compose()
    project.rerun(TRAIN)  # another test has trained other students
    project.remember()
    harness = Harness(project, 0, TRAIN)
    project.forget(TRAIN)
    harness.kill(TRAIN, signal.SIGINT, at=0.2)
    error = harness.fill_the_disk(TRAIN)
    assert error.startswith("error: no space left on the disk for ") and error.endswith("give the command again")
    harness.kill(TRAIN, signal.SIGKILL, at=0.0, saving=True)
    harness.kill(TRAIN, signal.SIGTERM, at=0.0, saving=True)
    assert (harness.total, harness.saving) == (3, 2) and harness.stopped in (1, 2)  # SIGINT may come before training
    assert harness.two_repros(TRAIN).endswith("is busy, it is being blocked by:")
    assert harness.compared == 1 and not harness.needed


def test_wrong_parameters_end_in_one_line(project: Project) -> None:
    project.compose()
    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 1", "epochs: one", 1))
    command = project.start("dvc", "repro")
    assert command.finish() != 0
    assert "recipe.epochs" in command.output and "Traceback" not in command.output


def test_a_new_analysis_is_told_in_four_files_and_retrains_nothing(project: Project) -> None:
    """Its module, its name in the registry, its stage, its parameters; the last test, as the copy keeps it."""
    project.compose()
    project.rerun("summarize")
    for name, before, after in (
        ("stages/core/analysis/norms.py", None, NORMS),
        ("stages/core/analysis/registry.py", '"rotation")  #', '"rotation", "norms")  #'),
        ("stages/conf/analysis/default.yaml", "rotation: #", "norms:\n  percent: 50\nrotation: #"),
        ("dvc.yaml", "\n  truncation:", f"{OF_NORMS}\n  truncation:"),
        ("dvc.yaml", "artifacts/rotation, artifacts/cost", "artifacts/rotation, artifacts/norms, artifacts/cost"),
    ):
        file = project.folder / name
        text = file.read_text() if before else ""
        assert before is None or text.count(before) == 1
        file.write_text(text.replace(before, after) if before else after)
    project.run("python", "-m", "stages.tools.compose", *project.parameters)
    assert project.rerun("check") == {"check"}
    project.run("dvc", "repro", "-s", "norms@teacher")
    due = project.due()
    assert "summarize" in due and not due & {"prepare", "teach@teacher", "extract@teacher", TRAIN}
    project.run("dvc", "repro", "-s", "summarize")
    features = np.load(project.folder / "artifacts/extract/teacher/layer_05.npy")
    expected = np.median(np.linalg.norm(features, axis=2), axis=1)
    results = project.folder / "reports/results"
    np.testing.assert_allclose(pd.read_csv(results / "norms.csv")["norm"], expected, rtol=1e-5)
    assert pd.read_csv(results / "backbones.csv")["norm"].item() == pytest.approx(expected.mean(), rel=1e-5)
    assert json.loads((results / "norms.json").read_text())["teacher"]["images"] == len(features)
    refused = project.start("python", "-m", "stages.tools.compose", *project.parameters, "analysis.norms.percent=100")
    assert refused.finish() == 1 and "analysis.norms.percent: must be less than or equal to 99" in refused.output
