"""The generated blocks of README's first screen."""

import re
from collections import Counter

import pytest

from stages.core.base.files import read_json
from stages.core.evidence.claims import FAMILIES
from stages.core.evidence.register import read_register
from stages.paths import AUDIT, REFERENCE
from stages.tools import readme


def test_the_headline_takes_the_place_of_the_accuracies_and_has_a_dark_form(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "FIGURES", tmp_path)
    (tmp_path / "accuracy.png").touch()
    assert f'src="{tmp_path}/accuracy.png"' in readme.figure() and "<picture>" not in readme.figure()
    (tmp_path / "headline.png").touch()
    assert f'src="{tmp_path}/headline.png"' in readme.figure() and "accuracy.png" not in readme.figure()
    (tmp_path / "headline_dark.png").touch()
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{tmp_path}/headline_dark.png">'
    assert readme.figure().startswith(f"<picture>\n  {dark}\n") and f'src="{tmp_path}/headline.png"' in readme.figure()


def test_the_table_of_claims_counts_every_claim_once(committed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(committed)
    rows = [line.strip("|").split(" | ") for line in readme.claims().splitlines() if line.startswith("| **")]
    links = [re.fullmatch(r"\*\*\[(.+)\]\(reports/claims\.md#([\w-]+)\)\*\*", row[0].strip()) for row in rows]
    assert [link and link[1] for link in links] == list(FAMILIES)
    audit, register = read_json(AUDIT), {claim.id: claim for claim in read_register(REFERENCE)}
    of_family = Counter(claim.family for claim in register.values())
    counted = [sum(map(int, re.findall(r"\d+", " ".join(row[2:])))) for row in rows]
    assert counted == [of_family[family] for family in FAMILIES]
    verdicts = Counter(one["verdict"] for one in audit["claims"] if register[one["id"]].measure == "published")
    assert f"{verdicts['confirmed']} confirmed and {verdicts['contradicted']} contradicted compare" in readme.claims()
