"""The command on a repository: what it prints, its exit status, and what it records."""

import json
import subprocess
import sys

import pytest


@pytest.fixture
def call(tmp_path, root, monkeypatch):
    """A repository with tracked results; runs the command after a change of top-1."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    results = tmp_path / "reports/results"
    results.mkdir(parents=True)
    file = results / "teacher.json"
    file.write_text(json.dumps({"top1": 96.0}))
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "results"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)

    def run(top1, *options):
        file.write_text(json.dumps({"top1": top1}))
        command = [sys.executable, "-m", "stages.tools.deviations", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return run


def test_differences_are_judged_by_what_is_recorded(call, tmp_path):
    assert call(96.0).stdout == "0 quantities differ from HEAD, none by more than rounding explains\n"
    ended = call(96.2)
    assert (ended.returncode, ended.stdout) == (1, "teacher/top1: 0.2 (other kernels: 0)\n")
    assert ended.stderr == "error: 1 of 1 differences from HEAD are larger than rounding's\n"
    assert call(95.9, "--record").returncode == 0
    assert json.loads((tmp_path / "reports/rounding.json").read_text()) == {"teacher/top1": pytest.approx(0.1)}
    assert call(96.2).returncode == 0 and call(96.4).returncode == 1


def test_other_images_are_named(call, tmp_path):
    (tmp_path / "reports/data.json").write_text('{"val": {"sha256": "0a"}}')
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for words in (["add", "-A"], [*identity, "commit", "-qm", "images"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert call(96.0).returncode == 0
    (tmp_path / "reports/data.json").write_text('{"val": {"sha256": "0b"}}')
    assert call(96.0).stderr == (
        "error: reports/data.json differs from that of HEAD: other images or splits; compare runs of the same\n"
    )


def test_what_is_recorded_is_the_largest_of_all_that_were(call, tmp_path):
    for top1 in (96.1, 95.7, 96.2):
        assert call(top1, "--record").returncode == 0
    assert json.loads((tmp_path / "reports/rounding.json").read_text()) == {"teacher/top1": pytest.approx(0.3)}


def test_a_commit_that_is_not_there_is_named(call):
    ended = call(96.0, "--commit", "nope")
    assert ended.returncode == 1 and ended.stderr.startswith("error: `git archive nope -- reports/results` fails: ")
    assert ended.stderr.count("\n") == 1
