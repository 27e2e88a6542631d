"""The page: whole, escaped, labelled, and in need of nothing from outside."""

import dataclasses
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from evidence_cases import EVIL, PATIENTS, evaluation, keep_pictures, make_evidence, mixed_trials, trial

from lcnn.outcome import Outcome
from search.report import importance
from search.report.evidence import Label
from search.report.page import cell_text, failures_table, making, patients_table, render, sort_key
from search.spec.settings import validate_spec

LOADING = {"src", "href", "srcset", "poster", "action", "data", "xlink:href"}
VOID = {"meta", "input", "br", "link", "img"}


class Parsed(HTMLParser):
    """Tags, ids and loading attributes of a page; fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.loads, self.words = [], Counter(), [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.ids += [value for key, value in attrs if key == "id"]
        self.loads += [value for key, value in attrs if key in LOADING]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(importance, "RESAMPLES", 2)


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_the_page_is_sound_for_any_number_of_trials(count):
    page = Parsed(render(make_evidence(mixed_trials(count))))
    assert [name for name, times in Counter(page.ids).items() if times > 1] == []
    assert page.tags["figure"] >= 10
    assert page.tags["h1"] == 1


def test_nothing_is_loaded_from_outside():
    text = render(make_evidence(mixed_trials(8)))
    page = Parsed(text)
    assert all(target.startswith("#") for target in page.loads)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_every_figure_says_cohort_profile_and_that_it_is_synthetic():
    evidence = make_evidence(mixed_trials(8))
    text = render(evidence)
    figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
    assert figures
    for figure in figures:
        assert "phantom (synthetic)" in figure
        assert "profile cpu" in figure
        assert "SYNTHETIC" in figure
    real = render(dataclasses.replace(evidence, label=Label("run", "hospital", "gpu", synthetic=False)))
    assert "SYNTHETIC" not in real


def test_what_comes_from_outside_is_escaped(tmp_path):
    patients = tuple(dataclasses.replace(patient, name=f"{EVIL} {n}") for n, patient in enumerate(PATIENTS))
    evidence = make_evidence(
        [trial(0), trial(1, Outcome.CRASHED, reason=EVIL, curve=())],
        label=Label(EVIL, EVIL, EVIL, synthetic=True),
        patients=patients,
    )
    text = render(evidence)
    page = Parsed(text)
    assert page.tags["script"] == 3
    assert "".join(page.words).count(EVIL) >= 6
    assert "<script>alert" not in text


def test_pictures_are_in_the_page_with_the_patients_words(tmp_path):
    folder = keep_pictures(tmp_path, ["small", "large"])
    text = render(make_evidence([trial(0)], slices=folder))
    assert text.count("data:image/webp;base64,") == 12
    assert text.index(">small<") < text.index(">large<")  # failures first
    assert "Of 1 test patients no pictures are here" in text
    assert Parsed(text).tags["canvas"] == 2 + 4


def test_without_pictures_there_is_no_viewer():
    assert 'id="viewer"' not in render(make_evidence([trial(0)]))


def test_patients_come_with_their_units_and_only_what_was_measured():
    table = patients_table(make_evidence([]))
    assert table is not None
    assert table.columns == (
        "patient", "Dice", "precision", "recall", "true volume (ml)", "predicted volume (ml)",
    )  # fmt: skip
    assert table.rows[0] == ("free", None, 0.0, None, 0.0, 3.0)
    assert patients_table(make_evidence([], patients=())) is None


def test_slices_that_leak_between_the_parts_are_warned_of():
    assert "3 pairs of slices look alike" in render(make_evidence([trial(0)], evaluation(near_duplicates=3)))
    assert "look alike" not in render(make_evidence([trial(0)]))


def test_the_page_says_how_slices_come_to_the_network():
    made = make_evidence([trial(0)], evaluation(windows="brain (level 40 HU, width 80 HU)"))
    assert dict(making(made))["Slices"] == "512 pixels, cropped to the head, seen in brain (level 40 HU, width 80 HU)"
    cohort = {"crop": "none", "strip_skull": True, "image_size": 96}
    spec = validate_spec({"cohort": cohort, "scheduler": {"grace": 1}}, "test")
    other = dataclasses.replace(
        made, provenance=dataclasses.replace(made.provenance, spec=spec), evaluation=evaluation()
    )
    assert dict(making(other))["Slices"] == "96 pixels, skull stripped"


def test_failures_are_listed_with_their_reasons():
    table = failures_table(make_evidence([trial(0), trial(1, Outcome.INFEASIBLE), trial(2, Outcome.PRUNED)]))
    assert table is not None
    assert [row[:4] for row in table.rows] == [(1, "infeasible", 0, "out of memory")]
    assert failures_table(make_evidence([trial(0)])) is None


@pytest.mark.parametrize(
    ("value", "shown", "key"),
    [
        (None, "\N{EN DASH}", ""),
        (float("nan"), "nan", ""),
        (0.0, "0.000", "0.0"),
        (-0.25, "\N{MINUS SIGN}0.250", "-0.25"),
        (12345.6, "12,346", "12345.6"),
        (-123.4, "\N{MINUS SIGN}123", "-123.4"),
        (0.0004, "0.000", "0.0004"),
        (3, "3", "3"),
        ("p10", "p10", "p10"),
    ],
)
def test_cells_are_shown_and_sorted_by_their_value(value, shown, key):
    assert (cell_text(value), sort_key(value)) == (shown, key)
