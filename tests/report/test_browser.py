"""The report's pages in headless Chromium: sorting, filters, phones, dark mode and paper."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from stages.core.evidence.scales import WORDS
from stages.core.report.markup import table
from stages.core.report.pages import write_page
from stages.core.report.tables.logbook import anchor

PAGES = ("index", "representation", "distillation", "audit")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDE, PHONE = 1200, 400
PAPER = 717  # pixels that Chromium prints on A4, within its margins
pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium here: these tests need chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    yield chromium
    chromium.quit()


def show(browser: webdriver.Chrome, page: Path, *, width: int = WIDE, theme: str = "light", query: str = "") -> None:
    """Open a page at a width in a theme."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    preference = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": preference})
    browser.get(page.as_uri() + query)


def column(element: WebElement, number: int) -> list[str]:
    """The texts of a table's column, from its first row to its last, of the rows that are shown."""
    script = (
        "return [...arguments[0].tBodies[0].rows].filter((row) => row.checkVisibility())"
        ".map((row) => row.cells[arguments[1] - 1].innerText)"
    )
    return element.parent.execute_script(script, element, number)


@pytest.mark.parametrize("page", PAGES)
def test_pages_fit_in_both_themes_without_a_message(browser, site, page):
    grounds = set()
    for width, theme in ((WIDE, "light"), (PHONE, "light"), (PHONE, "dark")):
        show(browser, site / f"{page}.html", width=width, theme=theme)
        assert browser.get_log("browser") == []
        needed = browser.execute_script("return document.documentElement.scrollWidth")
        assert needed <= width, f"{needed} pixels at a width of {width}"
        grounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        folded = browser.execute_script("return !document.querySelector('.toc').open")
        assert folded == (width == PHONE)
        broken = "return [...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
        assert browser.execute_script(broken) == 0
    assert len(grounds) == 2
    for element, role in (("main", "text"), ("main a", "link")):  # WCAG 2.1, 1.4.3, on the dark ground
        assert contrast(browser, element) >= 4.5, role


def contrast(browser: webdriver.Chrome, selector: str) -> float:
    """The contrast of an element's text with the page's ground, as WCAG 2.1 defines it."""
    script = (
        "const of = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);"
        "return [of(getComputedStyle(document.querySelector(arguments[0])).color),"
        " of(getComputedStyle(document.body).backgroundColor)]"
    )
    luminances = []
    for colour in browser.execute_script(script, selector):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        luminances.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def test_a_click_sorts_and_what_is_missing_stays_last(browser, tmp_path):
    texts = ["b 10", "a", "b 9"]
    numbers = ["9.50 ± 0.10", None, "-1,200"]
    page = tmp_path / "page.html"
    write_page(page, "Sorted", table([{"text": t, "number": n} for t, n in zip(texts, numbers, strict=True)]), [])
    show(browser, page)
    shown = browser.find_element(By.CSS_SELECTOR, "table")
    text, number = shown.find_elements(By.CSS_SELECTOR, "th")
    for heading, orders in (
        (text, [["a", "b 9", "b 10"], ["b 10", "b 9", "a"], texts]),
        (number, [["b 9", "b 10", "a"], ["b 10", "b 9", "a"], texts]),
    ):
        for order, said in zip(orders, ("ascending", "descending", None), strict=True):
            heading.find_element(By.CSS_SELECTOR, "button").click()
            assert column(shown, 1) == order
            assert heading.get_attribute("aria-sort") == said


def test_the_audit_opens_with_what_was_measured_and_filters(browser, site, committed):
    claims = json.loads((committed / "reports/audit.json").read_text())["claims"]
    runs = [one["run"] for claim in claims for one in (claim, *claim["others"])]
    show(browser, site / "audit.html")
    shown = browser.find_element(By.CSS_SELECTOR, "table[data-facets]")
    assert len(column(shown, 1)) == sum(run is not None for run in runs)
    verdicts = [claim["verdict"] for claim in claims if claim["run"]]
    order = [word for words in WORDS.values() for word in (words.fails, words.holds, words.open)]
    assert column(shown, 4)[: len(verdicts)] == sorted(verdicts, key=order.index)
    browser.find_element(By.XPATH, "//form//button[.='Show all']").click()
    assert len(column(shown, 1)) == len(runs)
    for choice in ("not measured", "remedies", "ICML 2026"):
        browser.find_element(By.XPATH, f"//form//label[starts-with(., '{choice}')]").click()
    expected = sum(
        claim["verdict"] == "not measured" and claim["family"] == "remedies" and "ICML 2026" in claim["source"]
        for claim in claims
    )
    assert 0 < expected == len(column(shown, 1)) < len(runs)
    assert browser.find_element(By.CSS_SELECTOR, "form [role=status]").text == f"{expected} of {len(runs)} rows"


def test_a_number_of_the_dashboard_opens_the_claims_that_it_counts(browser, site):
    show(browser, site / "index.html")
    link = browser.find_element(By.CSS_SELECTOR, "a[href*='family=cost'][href*='verdict=confirmed']")
    count = int(link.text.split()[0])
    link.click()
    assert browser.current_url.partition("?")[0].endswith("audit.html")
    shown = browser.find_element(By.CSS_SELECTOR, "table[data-facets]")
    assert len(column(shown, 1)) == count
    assert set(column(shown, 4)) == {"confirmed"}


def test_an_address_opens_its_claim_whatever_the_filters_leave_out(browser, site, committed):
    claims = json.loads((committed / "reports/audit.json").read_text())["claims"]
    show(browser, site / "audit.html")
    shown = len(column(browser.find_element(By.CSS_SELECTOR, "table[data-facets]"), 1))
    for measured in (True, False):  # one that the page opens with, and one that it leaves out
        claim = next(one for one in claims if (one["run"] is not None) == measured)
        show(browser, site / "audit.html", query=f"#{anchor(claim['id'])}")
        browser.refresh()
        row = browser.find_element(By.ID, anchor(claim["id"]))
        assert row.is_displayed() and row.text.startswith(claim["statement"][:40])
        top = browser.execute_script("return arguments[0].getBoundingClientRect().top", row)
        assert 0 <= top <= 900
        rows = len(column(browser.find_element(By.CSS_SELECTOR, "table[data-facets]"), 1))
        assert (rows == shown) == measured
    show(browser, site / "index.html")
    browser.find_element(By.CSS_SELECTOR, "a[href*='#claim-']").click()
    assert browser.find_element(By.CSS_SELECTOR, "tr:target").is_displayed()


@pytest.mark.parametrize("page", PAGES)
def test_on_paper_a_page_is_light_without_controls_and_no_wider(browser, site, page):
    show(browser, site / f"{page}.html", width=PAPER, theme="dark")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for control in ("header", ".toc", ".filters"):
        assert not any(one.is_displayed() for one in browser.find_elements(By.CSS_SELECTOR, control))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PAPER
