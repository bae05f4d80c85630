"""Verdicts in the words of reproducibility tracks, and what measuring a claim takes."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from stages.core.base.errors import UserError
from stages.core.evidence.effort import EPOCHS, FOURTEEN, IMAGES, effort, read_commands, read_rates, settings
from stages.core.evidence.register import read_published, read_register
from stages.core.evidence.scales import PAPER, WORDS
from stages.core.evidence.tracks import read_tracks
from stages.core.report.tables.logbook import anchor
from stages.tools import readme, verdicts


@pytest.fixture
def reference(committed: Path, tmp_path: Path) -> Path:
    """A copy of the reference data."""
    return shutil.copytree(committed / "reports/reference", tmp_path / "reference")


def edit(file: Path, change) -> None:
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


def test_every_verdict_has_one_word(reference):
    tracks = read_tracks(reference)
    judged = [{"where": where, "verdict": word} for where, words in WORDS.items() for word in words]
    judged.append({"where": None, "verdict": "not measured"})
    assert {tracks.word(one) for one in judged} == set(tracks.words)
    # Only what was judged at the paper's own figures, by a run or by the authors' weights, verifies or falsifies them.
    decided = {one["where"] for one in judged if tracks.word(one) in ("verified", "falsified")}
    assert decided == {PAPER, "the authors' weights"}
    assert sum(tracks.counts(judged).values()) == len(judged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found["logbook"]["verdicts"]["another scale"].pop("holds there"), "another scale: each verdict"),
        (lambda found: found["logbook"]["verdicts"].pop("not measured"), "not measured: each verdict there needs"),
        (lambda found: found["logbook"]["verdicts"]["another sample"].update(consistent="maybe"), "maybe is none of"),
        (lambda found: found["badges"]["available"].update(given="luck"), "available: given must be one of has_doi"),
    ],
)
def test_a_table_that_maps_not_every_verdict_is_refused(change, message, reference):
    edit(reference / "tracks.yaml", change)
    with pytest.raises(UserError, match=message) as caught:
        read_tracks(reference)
    assert "\n" not in str(caught.value)


def test_badges_are_met_by_what_is_there(reference, committed):
    audit = json.loads((committed / "reports/audit.json").read_text())
    rates = read_rates(committed / "reports/performance", committed / "reports/results")
    nothing = read_rates(reference, committed / "reports/results")
    assert read_tracks(reference).earned(audit, rates) == {"available": False, "functional": True, "reproduced": False}
    assert not any(read_tracks(reference).earned(audit, nothing).values())
    for claim in audit["claims"]:
        if claim["id"].startswith("headline_"):
            claim |= {"where": PAPER, "verdict": "confirmed"}
    edit(reference / "tracks.yaml", lambda found: found["badges"]["available"].update(doi="10.5281/zenodo.1"))
    assert all(read_tracks(reference).earned(audit, rates).values())


def test_the_counts_agree_in_audit_json_markdown_and_readme(committed, monkeypatch):
    monkeypatch.chdir(committed)
    audit = json.loads(Path("reports/audit.json").read_text())
    written = json.loads(verdicts.written("json"))
    assert written["verdicts"] == audit["counts"]
    assert [one["id"] for one in written["claims"]] == [claim["id"] for claim in audit["claims"]]
    assert written["logbook"] == Counter(one["logbook"] for one in written["claims"])
    markdown = verdicts.written("markdown")
    said = Counter(re.findall(r"\(logbook: (\w+)\)", markdown))
    assert said == {word: count for word, count in written["logbook"].items() if count}
    shown = next(line for line in readme.glance().splitlines() if line.startswith("| logbook"))
    assert {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", shown)} == written["logbook"]
    for one in written["claims"]:
        (paragraph,) = re.findall(rf'^<a id="{one["anchor"]}"></a>(.*)$', markdown, re.MULTILINE)
        assert one["statement"] in paragraph and one["source"] in paragraph and f"`{one['command']}`" in paragraph
        assert f"**{one['verdict']}**" in paragraph


def test_every_claim_has_an_address_of_its_own(reference):
    addresses = [anchor(claim.id) for claim in read_register(reference)]
    assert len(set(addresses)) == len(addresses)
    assert all(re.fullmatch(r"claim(-[a-z0-9]+)+", one) for one in addresses)
    assert anchor("svd/ViT-Base (DINOv2)/per_image/95") == "claim-svd-vit-base-dinov2-per-image-95"


def test_the_price_of_a_claim_is_that_of_the_runs_it_speaks_of(reference, committed):
    rates = read_rates(committed / "reports/performance", committed / "reports/results")
    commands = read_commands(reference)
    found = {claim.id: effort(claim, commands, rates) for claim in read_register(reference)}
    timed = rates.training["results"][0]
    widen = found["top1/widen/softkd_mse"]  # the student that was timed, with an objective that asks the teacher
    assert widen.hours == pytest.approx(EPOCHS * IMAGES / timed["ours"]["images_per_s"]["median"] / 3600)
    assert widen.command.endswith("-S profile=imagenet -S 'strategy=[widen]' -S 'objective=[softkd_mse]'")
    alone = found["top1/widen/none"]  # 3 of 3 + the teacher's passes
    assert alone.hours == pytest.approx(widen.hours * 3 * rates.flops["widen"] / timed["flops_per_image"])
    pair = found["worded/gains/widen"]
    assert "'strategy=[widen,baseline]' -S 'objective=[mse,none]'" in pair.command and pair.hours > widen.hours
    assert {one.how for one in found.values()} == {"measured", "priced"}
    assert found["cost_params/lift/params"].hours == pytest.approx(rates.whole["repro_s"] / 3600)
    assert found["svd/ViT-Tiny/per_image/80"].kind == "backbones"
    unknown = read_rates(reference, committed / "reports/results")
    assert {effort(claim, commands, unknown).text for claim in read_register(reference)} == {"not measured"}


def test_a_claim_that_names_no_setting_takes_the_papers_table(reference, committed):
    claims = {claim.id: claim for claim in read_register(reference)}
    published = [(row["strategy"], row["objective"]) for row in read_published(reference)["top1"]]
    assert set(settings(claims["headline_top1/top1/widen"])) == set(published) and len(published) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[0].pop("price"), "an entry has command, name, price, requires"),
        (lambda found: found[0].update(price="luck"), "price is one of default, analysis, training"),
        (lambda found: found.pop(2), "no run measures .*; add one that requires imagenet or training"),
    ],
)
def test_kinds_of_run_that_are_none_are_refused(change, message, reference, committed):
    edit(reference / "commands.yaml", change)
    rates = read_rates(committed / "reports/performance", committed / "reports/results")
    with pytest.raises(UserError, match=message):
        commands = read_commands(reference)
        [effort(claim, commands, rates) for claim in read_register(reference)]


@pytest.mark.nightly
def test_the_fourteen_have_so_many_times_the_operations_of_vit_tiny(root):
    import timm
    import torch

    from stages.core.models.cost import flops

    operations = {}
    for name in yaml.safe_load((root / "stages/conf/experiment/analysis.yaml").read_text())["analysis"]["backbones"]:
        size = {} if name.startswith(("swin", "cait")) else {"img_size": 224}
        with torch.device("meta"):
            model = timm.create_model(name, **size)
        operations[name] = flops(model, 224)
    assert len(operations) == 14
    assert round(sum(operations.values()) / operations["vit_tiny_patch16_224.augreg_in21k_ft_in1k"]) == FOURTEEN
