"""Ray's dashboard beside a search: found in a real browser, and missed without harm.

tests/e2e/test_command.py sees it go with its command.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import curves
import pytest
import quick
import ray
from quick import KILLED, QuickActor, quick_context
from ray._private import ray_constants
from ray.util.state import list_actors
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from lcnn.config import TrainConfig
from search.execution.session.dashboard import WITHOUT, how_to_open
from search.execution.trial import TrialContext
from search.execution.trial_name import short_number, trial_name
from search.execution.tune_search import ray_running, run_trials
from search.placement.resources import Slots
from search.run.session import RayView
from search.spec.settings import BudgetConfig
from search.spec.space import SearchSpace
from search.study.conductor import Conductor, Event
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import NoScheduler

Open = Callable[..., Ledger]
SLOTS = Slots(1, 1, 0.0, 0, "cpu")
VIEW = RayView(dashboard=True)
BY_VALUE = (quick, curves, sys.modules[__name__])
"""Modules of tests, which workers cannot import."""
LOOKED = "looked"
SEEN_S = 60.0
DRIVER = shutil.which("chromedriver")


@pytest.fixture
def context(tmp_path: Path) -> Iterator[TrialContext]:
    """Of trials from a formula, of which none waits for another."""
    context = quick_context(tmp_path / "run", SLOTS, checkpoints=None)
    (context.folder / KILLED).write_text("no node")
    (context.folder / "none.diary").touch()
    for module in BY_VALUE:
        ray.cloudpickle.register_pickle_by_value(module)
    yield context
    for module in BY_VALUE:
        ray.cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    if DRIVER is None:
        pytest.skip("no chromedriver here (Debian's package chromium-driver)")
    options = ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1200"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'browser'}")
    chrome = Chrome(options=options, service=Service(DRIVER))
    yield chrome
    chrome.quit()


def text_once(browser: Chrome, holds: Callable[[str], bool]) -> str:
    """The page's text once it holds what is waited for."""
    WebDriverWait(browser, SEEN_S).until(lambda chrome: holds(chrome.find_element(By.TAG_NAME, "body").text))
    return browser.find_element(By.TAG_NAME, "body").text


def token() -> str:
    """As a person gets it."""
    ray_command = str(Path(sys.executable).with_name("ray"))
    return subprocess.run([ray_command, "get-auth-token"], capture_output=True, text=True, check=True).stdout.strip()


def log_in(browser: Chrome, address: str) -> None:
    """The dashboard asks in a dialog before it shows anything."""
    browser.get(f"http://{address}/#/cluster")
    dialog = WebDriverWait(browser, SEEN_S).until(lambda chrome: chrome.find_element(By.CSS_SELECTOR, "[role=dialog]"))
    dialog.find_element(By.TAG_NAME, "input").send_keys(token() + Keys.ENTER)


class SlowActor(QuickActor):
    """Stays in its second trial's second epoch until somebody has looked."""

    def step(self) -> dict[str, Any]:
        result = super().step()
        if self._name.endswith("_trial1") and result.get("epoch") == 2:
            while not (self._context.folder / LOOKED).exists():
                time.sleep(0.1)
        return result


@pytest.mark.deep
def test_the_list_of_workers_names_the_trial_that_each_runs(
    open_ledger: Open, space: SearchSpace, context: TrialContext, browser: Chrome
) -> None:
    ledger = open_ledger()
    pages: list[str] = []
    workers: set[str] = set()

    def look(address: str) -> None:
        try:
            log_in(browser, address)
            pages.append(text_once(browser, lambda text: "_trial1" in text))
        finally:
            (context.folder / LOOKED).touch()

    looking: list[Thread] = []

    def on_event(event: Event) -> None:
        if event.kind == "epoch":
            workers.update(actor["pid"] for actor in list_actors(filters=[("state", "=", "ALIVE")], detail=False))
            if event.trial.number == 1 and not looking:
                looking.append(Thread(target=look, args=(address,)))
                looking[0].start()

    conductor = Conductor(ledger, space, NoScheduler(), budget=BudgetConfig(trials=2), epochs=9, on_event=on_event)
    with ray_running(SLOTS, view=VIEW) as dashboard:
        assert dashboard is not None
        address = dashboard
        assert address.startswith("127.0.0.1:")
        run_trials(conductor, context, SlowActor)
        looking[0].join()
    (page,) = pages
    first, second = (trial_name(trial.number, space.config(trial.params)) for trial in ledger.trials())
    assert f"ray::{second}" in page
    assert first not in page
    assert len(workers) == 1  # one worker ran both trials: its name costs no new one


# Ray forgets the process that it did not wait for; it ends with the others.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dashboard_that_does_not_start_is_one_line_and_ray_runs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", 0)
    with ray_running(SLOTS, view=VIEW) as dashboard:
        assert ray.get(ray.remote(lambda: 3).remote()) == 3
    assert dashboard is None
    assert how_to_open(dashboard) == WITHOUT
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("value", "text"), [(1e-3, "1e-3"), (3.2e-4, "3.2e-4"), (0.00896, "9e-3"), (0.0123, "1.2e-2"), (2.0, "2e0")]
)
def test_a_learning_rate_has_two_digits(value: float, text: str) -> None:
    assert short_number(value) == text


def test_a_trial_is_named_by_what_tells_it_apart() -> None:
    assert trial_name(5, TrainConfig()) == "T1_lr1e-3_local0.7_trial5"


@pytest.mark.parametrize("on_path", [True, False], ids=["in-path", "beside-python"])
def test_how_to_log_in_is_a_command_that_can_be_typed(on_path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(own) if on_path else os.devnull)
    command = "ray" if on_path else str(own / "ray")
    assert how_to_open("127.0.0.1:8265").splitlines() == [
        "Ray dashboard: http://127.0.0.1:8265/#/cluster",
        f"  it asks for a token; this prints it: {command} get-auth-token",
    ]
