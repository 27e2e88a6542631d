"""The page in a real browser: drawn, quiet, self-sufficient, and usable on a phone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from evidence_cases import EVIL, PATIENTS, keep_pictures, make_evidence, mixed_trials
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from search.report import importance
from search.report.evidence import Evidence
from search.report.page import render

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium and chromedriver on this machine"),
    pytest.mark.timeout(120),
]

DRAWN = """
return [...document.querySelectorAll('.figure')]
  .filter(figure => figure.querySelector('svg[role=img]'))
  .map(figure => [figure.id, [...figure.querySelectorAll('svg[role=img]')]
    .filter(svg => svg.getClientRects().length)
    .map(svg => [svg.getBBox().width, svg.getBBox().height])])
"""
WIDER = """
return [...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, svg, pre, .sheet'))
  .map(e => e.tagName + '.' + e.className)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    quiet = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    for argument in (*quiet, "--force-prefers-reduced-motion"):  # else a click waits for the page to glide there
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything there is, and a patient with a wicked name."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importance, "RESAMPLES", 2)
        evidence = make_evidence(mixed_trials(30), slices=keep_pictures(folder / "slices", [p.name for p in PATIENTS]))
        return written(folder / "report.html", evidence)


def written(path: Path, evidence: Evidence) -> Path:
    path.write_text(render(evidence), encoding="utf-8")
    return path


def visit(browser: WebDriver, page: Path, *, width: int = 1280) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get(page.as_uri())


def shown(browser: WebDriver) -> str:
    """Which patient and slice the viewer has drawn."""
    return browser.execute_script("return document.getElementById('viewer').dataset.shown || ''")


def wait_for(browser: WebDriver, slice_: str) -> None:
    WebDriverWait(browser, 10).until(lambda driver: shown(driver) == slice_)


def column(browser: WebDriver, number: int) -> list[str]:
    return [c.text for c in browser.find_elements(By.CSS_SELECTOR, f"#patients tbody td:nth-child({number})")]


@pytest.mark.parametrize("width", [1280, 390])
def test_every_figure_is_drawn_and_nothing_complains_or_is_asked_for(browser, page, width):
    visit(browser, page, width=width)
    wait_for(browser, "0:2")
    drawn = browser.execute_script(DRAWN)
    assert len(drawn) == 11
    for name, boxes in drawn:
        assert boxes, name
        assert all(box_width > 50 and height > 20 for box_width, height in boxes), name
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith(("data:", page.as_uri()))} == set()


def test_a_phone_need_not_scroll_sideways(browser, page):
    visit(browser, page, width=360)
    assert browser.execute_script(WIDER) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360


def test_a_page_of_one_trial_is_quiet_too(browser, tmp_path):
    visit(browser, written(tmp_path / "one.html", make_evidence(mixed_trials(1))))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_patients_are_sorted_by_a_press_and_empty_cells_stay_last(browser, page):
    visit(browser, page)
    assert column(browser, 1) == ["free", "small", "large"]
    dice = browser.find_element(By.CSS_SELECTOR, "#patients th:nth-child(2) button")
    dice.click()
    assert column(browser, 2) == ["0.100", "0.900", "\N{EN DASH}"]
    dice.click()
    assert column(browser, 2) == ["0.900", "0.100", "\N{EN DASH}"]
    head = browser.find_element(By.CSS_SELECTOR, "#patients th:nth-child(2)")
    assert head.get_attribute("aria-sort") == "descending"


def test_slices_scroll_by_slider_keys_and_wheel(browser, page):
    visit(browser, page)
    wait_for(browser, "0:2")  # the slice with the most lesion
    pixels = "return document.querySelector('.panel[data-panel=difference]').toDataURL()"
    before = browser.execute_script(pixels)
    browser.find_element(By.CSS_SELECTOR, ".viewer").send_keys(Keys.ARROW_RIGHT)
    wait_for(browser, "0:3")
    assert browser.execute_script(pixels) != before
    browser.find_element(By.CSS_SELECTOR, ".slider").send_keys(Keys.ARROW_RIGHT)
    wait_for(browser, "0:4")
    browser.execute_script(
        "document.querySelector('.panels').dispatchEvent(new WheelEvent('wheel', {deltaY: 120, cancelable: true}))"
    )
    wait_for(browser, "0:5")
    assert "slice 6 of 6" in browser.find_element(By.CSS_SELECTOR, ".viewer-head").text


def test_a_patient_is_chosen_from_the_sheet_and_drawn_in_the_colours(browser, page):
    visit(browser, page)
    browser.find_elements(By.CSS_SELECTOR, ".card")[1].click()
    wait_for(browser, "1:2")
    assert "small" in browser.find_element(By.CSS_SELECTOR, ".viewer-head").text
    found = browser.execute_script("""
        const canvas = document.querySelector('.panel[data-panel=difference]');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const count = { missed: 0, extra: 0, both: 0 };
        for (let i = 0; i < data.length; i += 4) {
          const [r, g, b] = [data[i], data[i + 1], data[i + 2]];
          if (b > 180 && r < 120) count.missed++;
          if (r > 200 && b < 60) count.extra++;
          if (g > r + 50 && g > b + 20) count.both++;
        }
        return count;""")
    assert min(found.values()) > 20


def test_progress_switches_between_trials_epochs_and_seconds(browser, page):
    visit(browser, page)
    visible = "return [...document.querySelectorAll('#progress .option')].map(e => getComputedStyle(e).display)"
    assert browser.execute_script(visible) == ["block", "none", "none"]
    browser.find_element(By.CSS_SELECTOR, "#progress label:nth-of-type(3)").click()
    assert browser.execute_script(visible) == ["none", "none", "block"]


def test_wicked_names_stay_words(browser, tmp_path):
    evil = type(PATIENTS[0])(EVIL, PATIENTS[1].figures, "mm", "ml")
    path = written(tmp_path / "evil.html", make_evidence(mixed_trials(3), patients=(evil,)))
    visit(browser, path)
    assert column(browser, 1) == [EVIL]
