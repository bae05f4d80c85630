"""Contradictions that are not known to be there fail, in one line that names them."""

import json
import sys
from pathlib import Path

import pytest

from stages import audit
from stages.core.base.errors import UserError
from stages.tools import verdicts

PAPER, SAMPLE, ELSEWHERE = "the paper's setting", "another sample", "another scale"
CLAIMS = {
    "a/1": (PAPER, "confirmed"),
    "b/1": (PAPER, "contradicted"),
    "b/2": (PAPER, "contradicted"),
    "c": (None, "not measured"),
    "d": (ELSEWHERE, "does not hold there"),
    "e": (SAMPLE, "inconsistent"),
    "f": (ELSEWHERE, "open there"),
}


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("reports").mkdir()
    claims = [{"id": name, "where": of[0], "verdict": of[1], "others": []} for name, of in CLAIMS.items()]
    claims[0]["others"] = [{"where": ELSEWHERE, "verdict": "does not hold there"}]
    Path("reports/audit.json").write_text(json.dumps({"counts": {}, "claims": claims}))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["verdicts", *arguments])
        verdicts.main()

    return run


def test_contradictions_fail_but_the_known_ones(call, capsys):
    for arguments, named in (((), "b/1, b/2"), (("--known", "b/2"), "b/1"), (("--known", "a/1", "b/1"), "b/2")):
        with pytest.raises(UserError, match=f"^contradicted: {named}; see reports/audit.json"):
            call(*arguments)
    call("--known", "b/1", "b/2")
    call("--known", "b/1", "--known", "b/2")
    assert capsys.readouterr().out == "7 claims, 2 contradicted, all of them known\n" * 2


def test_other_scales_fail_only_where_they_are_asked_for(call, capsys):
    known = ("--known", "b/1", "b/2")
    for also, message in (
        (("elsewhere",), "^does not hold there: a/1, d; see"),
        (("sample",), "^inconsistent: e; see"),
        (("sample", "elsewhere"), "^does not hold there: a/1, d; inconsistent: e; see"),
    ):
        with pytest.raises(UserError, match=message):
            call(*known, "--also", *also)
    call(*known, "--also", "weights")
    call(*known, "a/1", "d", "--also", "elsewhere")
    said = capsys.readouterr().out
    assert said.endswith("7 claims, 4 contradicted or does not hold there, all of them known\n")
    with pytest.raises(SystemExit):
        call("--also", "luck")


@pytest.mark.parametrize("form", ["json", "markdown"])
def test_the_committed_audit_is_written_for_a_logbook(form, committed, monkeypatch, capsys):
    monkeypatch.chdir(committed)
    monkeypatch.setattr(sys, "argv", ["verdicts", "--format", form])
    verdicts.main()  # contradictions that nobody listed fail nothing here
    said = capsys.readouterr().out
    assert said == verdicts.written(form) and said.endswith("\n") and not said.endswith("\n\n")
    monkeypatch.setattr(sys, "argv", ["verdicts", "--format", "yaml"])
    with pytest.raises(SystemExit):
        verdicts.main()


def test_unknown_claims_and_audits_are_refused(call):
    with pytest.raises(UserError, match=r"^--known b/3: no such claim; reports/audit.json lists all of them$"):
        call("--known", "b/1", "b/2", "b/3")
    Path("reports/audit.json").unlink()
    with pytest.raises(UserError, match=r"audit\.json is missing; run `dvc repro`"):
        call()


def test_the_committed_audit_contradicts_what_is_known(committed, monkeypatch):
    monkeypatch.chdir(committed)
    known = ["cost_params/widen/params", "consistent_parameters/widen/params"]
    known.append("consistent_distilled_baseline/top1/baseline")
    monkeypatch.setattr(sys, "argv", ["verdicts", "--known", *known])
    verdicts.main()


def test_the_stage_takes_no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["audit", "--strict"])
    with pytest.raises(SystemExit):
        audit.main()
