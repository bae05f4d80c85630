"""The report's pages: their links lead somewhere, nothing is fetched, and the dashboard says what the results say."""

import json
import re
from base64 import b64decode
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup, Tag

from stages.core.evidence import studies
from stages.core.evidence.claims import FAMILIES
from stages.core.evidence.questions import NOT_RUN, read_questions
from stages.core.evidence.scales import WORDS
from stages.core.report.markup import Badge, Lines, Link, Prose, picture, table
from stages.core.report.tables import findings
from stages.core.report.tables.audit import unmeasured
from stages.core.report.tables.logbook import anchor
from stages.tools import readme
from tests.report.conftest import write_pages

PAGES = ("index", "representation", "distillation", "audit")
HOSTS = ("arxiv.org", "github.com", "sotaverified.org")  # of the paper, and of what others report


@cache
def parsed(site: Path, page: str) -> BeautifulSoup:
    return BeautifulSoup((site / f"{page}.html").read_text(encoding="utf-8"), "html.parser")


def texts(element: Tag) -> list[list[str]]:
    """The cells of the body of a table."""
    return [[" ".join(cell.get_text().split()) for cell in row.find_all("td")] for row in element.tbody.find_all("tr")]


def after(page: BeautifulSoup, heading: str, number: int = 0) -> Tag:
    """A table after a heading."""
    return page.find(id=heading).find_all_next("table")[number]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_anchor_leads_somewhere(site, page):
    content = parsed(site, page)
    targets = [link["href"] for link in content.find_all("a")]
    assert {f"{name}.html" for name in PAGES} <= set(targets)
    for target in targets:
        of = urlparse(target)
        if of.scheme:
            assert (of.scheme, of.netloc) in {("https", host) for host in HOSTS}, target
            continue
        file = (site / of.path).resolve() if of.path else site / f"{page}.html"
        assert file.is_file(), target
        if of.fragment:
            assert parsed(site, file.stem).find(id=of.fragment), target


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_fetched(site, page):
    content = parsed(site, page)
    assert not content.find_all(["link", "iframe", "object", "embed", "video", "audio", "base"])
    assert not content.find_all("script", src=True)
    pictures = content.find_all(["img", "source"])
    assert all(str(one.get("src", one.get("srcset"))).startswith("data:image/") for one in pictures)
    assert all(image.get("alt") is not None for image in content.find_all("img"))
    for text in (one.get_text() for one in content.find_all(["style", "script"])):
        assert not re.search(r"@import|url\(|https?:|\bfetch\(|XMLHttpRequest|\bimport\b", text)


@pytest.mark.parametrize("page", PAGES)
def test_all_pages_share_the_bar_and_list_their_sections(site, page):
    content = parsed(site, page)
    bar = content.header.find_all("a")
    assert [link["href"] for link in bar] == ["index.html", *(f"{name}.html" for name in PAGES)]
    assert [link["href"] for link in bar if link.get("aria-current")] == [f"{page}.html"]
    listed = [link["href"] for link in content.find(class_="toc").find_all("a")]
    assert listed == [f"#{heading['id']}" for heading in content.main.find_all(["h2", "h3"])]
    ids = Counter(one["id"] for one in content.find_all(id=True))
    assert set(ids.values()) == {1} and len(content.main.find_all("h1")) == 1


def test_every_claim_has_its_place_on_the_audits_page(site, committed):
    """With what an auditor asks of it; the claims that the dashboard shows lead there."""
    claims = json.loads((committed / "reports/audit.json").read_text())["claims"]
    page = parsed(site, "audit")
    columns = [heading.get_text() for heading in after(page, "claims").thead.find_all("th")]
    for claim in claims:
        row = page.find("tr", id=anchor(claim["id"]))
        cells = dict(zip(columns, (" ".join(cell.get_text().split()) for cell in row.find_all("td")), strict=True))
        statement = " ".join(claim["statement"].split())
        assert cells["claim"].startswith(statement) and claim["source"] in cells["claim"]
        assert (cells["expected"], cells["verdict"]) == (claim["expected"], claim["verdict"])
        assert cells["run"] == (claim["run"] or "none")
        assert re.search(r"dvc (repro|exp run)", cells["measured by"]) and re.search(
            "measured|priced", cells["measured by"]
        )
        if claim["evidence"]:
            targets = [link["href"] for link in row.find_all("a")]
            assert f"../../{claim['evidence']['metric'].partition(':')[0]}" in targets
    led = [link["href"] for link in parsed(site, "index").find_all("a") if "#claim-" in link["href"]]
    assert len(led) >= sum(claim["verdict"] == "contradicted" for claim in claims)


def test_the_dashboard_says_at_a_glance_what_the_readme_says(site, committed, monkeypatch):
    shown = parsed(site, "index").find(id="at-a-glance").find_next("dl")
    terms = [" ".join(one.get_text().split()) for one in shown.find_all(["dt", "dd"])]
    monkeypatch.chdir(committed)
    lines = readme.glance().splitlines()[2:]
    assert terms == [cell for line in lines for cell in line.strip("| ").split(" | ")]


def test_the_dashboards_verdicts_are_those_of_the_audit(site, committed):
    claims = json.loads((committed / "reports/audit.json").read_text())["claims"]
    page = parsed(site, "index")
    shown = after(page, "claims")
    assert [row[0] for row in texts(shown)] == list(FAMILIES)
    counted = Counter((claim["family"], claim["where"] or "none", claim["verdict"]) for claim in claims)
    linked = {}
    for link in shown.find_all("a"):
        asked = parse_qs(urlparse(link["href"]).query)
        linked[asked["family"][0], asked["where"][0], asked["verdict"][0]] = int(link.get_text().split()[0])
    assert linked == counted
    tables = {one.get_text(): one.find_next("table") for one in page.find_all("h3")}
    for where, heading in (
        ("the paper's setting", "Contradicted at the paper's setting"),
        ("the authors' weights", "Missed by the authors' weights"),
        ("another sample", "Inconsistent on another sample"),
        ("another scale", "Does not hold at another scale"),
    ):
        failed = [claim for claim in claims if claim["verdict"] == WORDS[where].fails]
        assert (heading in tables) == bool(failed)
        assert not failed or len(texts(tables[heading])) == sum(1 + len(claim["others"]) for claim in failed)
    last = studies.latest(studies.read(committed / "reports/studies"))
    asked = findings.asked(last, read_questions(committed / "reports/reference"))
    assert len(texts(after(page, "questions"))) == int((asked["verdict"] != NOT_RUN).sum())
    said = " ".join(shown.get_text().split())
    assert not any(question in said for question in asked[asked["asked_by"] == "project"]["asks"])


def test_the_dashboards_accuracies_are_those_of_the_runs(site, committed):
    runs = pd.read_csv(committed / "reports/results/runs.csv", keep_default_na=False)
    shown = after(parsed(site, "index"), "students")
    strategies = [heading.get_text() for heading in shown.thead.find_all("th")][1:]
    assert strategies == list(dict.fromkeys(runs["strategy"]))
    assert {row[0] for row in texts(shown)} == set(runs["objective"])
    for objective, *cells in texts(shown):
        for strategy, cell in zip(strategies, cells, strict=True):
            top1 = runs[(runs["strategy"] == strategy) & (runs["objective"] == objective)]["top1"].astype(float)
            assert cell == f"{np.mean(top1):.2f} ± {np.std(top1, ddof=1):.2f}"


def test_the_dashboard_opens_with_numbers_of_the_results(site, committed):
    results = committed / "reports/results"
    dims, runs = pd.read_csv(results / "dims.csv"), pd.read_csv(results / "runs.csv")
    of_teacher = dims[(dims["backbone"] == "teacher") & (dims["threshold"] == 95)]
    differences = pd.read_csv(results / "differences.csv")
    tiles = [tile.get_text(" ").split() for tile in parsed(site, "index").find_all(class_="tile")]
    channels = runs["teacher_width"].max()
    expected = [(np.percentile(of_teacher[kind], 99), channels) for kind in ("per_image", "shared")]
    expected += [
        (runs["width"].min(), channels),
        ((differences["low"] * differences["high"] > 0).sum(), len(differences)),
    ]
    assert [(float(tile[0]), float(tile[2])) for tile in tiles] == [tuple(map(float, pair)) for pair in expected]


def test_the_dashboard_shows_the_figures_and_where_they_are_from(site, committed):
    cards = parsed(site, "index").find_all("figure")
    assert len(cards) >= 6
    for card in cards:
        links = {link.get_text(): link["href"] for link in card.find(class_="links").find_all("a")}
        assert set(links) == {"SVG", "data", "code"}
        page, _, anchor = card.a["href"].partition("#figure-")
        assert links["SVG"].endswith(f"reports/figures/{anchor}.svg")
        assert parsed(site, page.removesuffix(".html")).find(id=f"figure-{anchor}").img["src"] == card.img["src"]


def test_a_study_stands_beside_the_current_run(site_with_study):
    page = parsed(site_with_study, "index")
    (row,) = (row for row in texts(after(page, "studies")) if row[0] == "first")
    assert row[0] == "first" and "2026-01-02" in row and "0123456789" in row and "torch 2.99" in row
    assert any(cell.startswith("A CPU, 16 cores") and "A GPU" in cell for cell in row)
    top1 = texts(after(page, "studies", 1))
    current, study = ([row[1:] for row in top1 if row[0] == name] for name in ("this run", "first"))
    assert current and current == study
    test_every_link_and_anchor_leads_somewhere(site_with_study, "index")


def test_the_distillation_page_shows_the_recorded_studies(site, committed):
    page = parsed(site, "distillation")
    recorded = [study for study in studies.read(committed / "reports/studies") if study.has_students]
    summaries, top1 = texts(after(page, "recorded-studies")), texts(after(page, "recorded-studies", 1))
    assert [row[0] for row in summaries] == [study.name for study in recorded] != []
    for study, row in zip(recorded, summaries, strict=True):
        teacher = json.loads((study.results / "teacher.json").read_text())
        assert f"{teacher['architecture']}, {teacher['top1']:.2f} %" in row and study.record["date"] in row
        strategies = pd.read_csv(study.results / "runs.csv")["strategy"].unique().tolist()
        assert [row[1] for row in top1 if row[0] == study.name] == strategies


def test_equal_results_give_equal_pages(site_with_study):
    before = {path.name: path.read_bytes() for path in site_with_study.iterdir()}
    write_pages(site_with_study.parents[1])
    assert before == {path.name: path.read_bytes() for path in site_with_study.iterdir()}


def test_every_claim_that_no_run_measured_is_of_one_kind_of_run(committed):
    audit = json.loads((committed / "reports/audit.json").read_text())
    rows = unmeasured(audit)
    assert sum(row["would judge"] for row in rows) == sum(claim["run"] is None for claim in audit["claims"])
    assert len({row["a run of"] for row in rows}) == len(rows)


def test_a_figure_with_a_dark_form_shows_it_on_dark_pages_alone(tmp_path):
    for name in ("a", "a_dark", "b"):
        drawing = f'<svg xmlns="http://www.w3.org/2000/svg" width="72pt" height="36pt"><title>{name}</title></svg>'
        (tmp_path / f"{name}.svg").write_text(drawing)
    both, one = (BeautifulSoup(picture(name, tmp_path, alt="Seen"), "html.parser") for name in ("a", "b"))
    assert both.source["media"] == "screen and (prefers-color-scheme: dark)"
    assert b64decode(both.source["srcset"].partition(",")[2]) == (tmp_path / "a_dark.svg").read_bytes()
    assert b64decode(both.img["src"].partition(",")[2]) == (tmp_path / "a.svg").read_bytes()
    assert one.source is None and (one.img["width"], one.img["height"], one.img["alt"]) == ("96", "48", "Seen")


def test_no_text_of_a_table_is_taken_for_html():
    rows = [{"<a>": "<b>&", "b": Link("<i>", '"x'), "c": Badge("<u>"), "d": Lines("<p>", "<q>"), "e": "&lt;"}]
    shown = BeautifulSoup(table(rows), "html.parser")
    assert [cell.get_text(" ", strip=True) for cell in shown.find_all("td")] == [
        "<b>&",
        "<i>",
        "<u>",
        "<p> <q>",
        "&lt;",
    ]
    assert shown.th.get_text() == "<a>" and shown.find("td").a is None and shown.a["href"] == '"x'


def test_columns_of_numbers_are_told_from_text():
    rows = [
        {"top-1": "96.67 ± 0.31", "dims": "12 (5)", "interval": "-2.1 to +0.4", "n": 1234, "run": "3 runs", "no": None},
        {"top-1": "–", "dims": "13 (6)", "interval": None, "n": 1.5e-7, "run": "4", "no": None},
    ]
    shown = BeautifulSoup(table(rows), "html.parser")
    numbers = [heading.get_text() for heading in shown.find_all("th") if "n" in heading.get("class", [])]
    assert numbers == ["top-1", "dims", "interval", "n"]
    assert texts(shown.table)[0][3] == "1,234" and texts(shown.table)[1][2:4] == ["–", "1.50e-07"]


def test_equal_headings_have_anchors_of_their_own():
    prose = Prose()
    html = prose.html("# T\n\n## A b, *c*?\n\ntext\n\n## A b c\n\n### D")
    assert [(heading.level, heading.anchor) for heading in prose.headings] == [(2, "a-b-c"), (2, "a-b-c-1"), (3, "d")]
    assert all(f'id="{heading.anchor}"' in html for heading in prose.headings)
