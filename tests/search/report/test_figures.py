"""Figures: sound, named SVG from any number of trials, with words instead where there is nothing to draw."""

import dataclasses
import xml.etree.ElementTree as ET

import pytest
from evidence_cases import (
    EPOCHS,
    EVIL,
    PARAMETERS,
    PATIENTS,
    compared,
    estimate,
    evaluation,
    make_evidence,
    mixed_trials,
    model,
    trial,
)

from lcnn.outcome import Outcome
from search.report import importance
from search.report.figures.answer import Stat, answer_stats, confirmation_figure, gain_figure, headline, metrics_table
from search.report.figures.course import agreement_figure, survival_figure, timeline_figure
from search.report.figures.marks import Scale, round_ticks, short
from search.report.figures.patients import calibration_figure, pareto_figure, strata_figure, volume_figure
from search.report.figures.trial_marks import drawn
from search.report.page import sections

CASES = {
    "no trials": [],
    "one": [trial(0)],
    "two": [trial(0), trial(1, Outcome.PRUNED)],
    "all diverged at once": [trial(n, Outcome.DIVERGED, curve=()) for n in range(4)],
    "all diverged later": [trial(n, Outcome.DIVERGED) for n in range(4)],
    "unfinished": [trial(0), trial(1, None, curve=(0.1,))],
    "equal": [trial(n, curve=(0.0,) * EPOCHS) for n in range(8)],
    "mixed": mixed_trials(12),
    "many": mixed_trials(30),
    "one epoch": [trial(n, curve=(0.1 * n,)) for n in range(3)],
}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(importance, "RESAMPLES", 2)


def figures_of(evidence):
    return [figure for section in sections(evidence) for figure in section.figures]


def drawings_of(figure):
    return [*figure.drawings, *(drawing for option in figure.options for drawing in option.drawings)]


@pytest.mark.parametrize("trials", CASES.values(), ids=CASES)
def test_every_figure_is_drawn_or_says_why_not(trials):
    for figure in figures_of(make_evidence(trials)):
        drawings = drawings_of(figure)
        assert drawings or figure.note, figure.key
        assert figure.reading.endswith(".")
        for drawing in drawings:
            root = ET.fromstring(drawing)
            assert root.get("role") == "img"
            named = {element.get("id") for element in root}
            assert set(root.get("aria-labelledby").split()) <= named
            assert all(root[i].text for i in range(2)), figure.key
            assert "nan" not in drawing
            assert "inf" not in drawing.replace("infeasible", "")


def test_names_from_outside_cannot_become_markup():
    parameters = (dataclasses.replace(PARAMETERS[0], name=EVIL, choices=(EVIL, 2)), *PARAMETERS[1:])
    trials = [trial(n, params={EVIL: EVIL, **trial(n).params}, reason=EVIL) for n in range(4)]
    patients = [dataclasses.replace(patient, name=EVIL) for patient in PATIENTS]
    evidence = make_evidence(trials, parameters=parameters, patients=tuple(patients))
    for figure in [*figures_of(evidence), volume_figure(evidence)]:
        for drawing in drawings_of(figure):
            ET.fromstring(drawing)
            assert "<script" not in drawing


def test_of_many_trials_the_best_and_an_even_sample_are_drawn():
    trials = [trial(n, curve=(n / 1000,)) for n in range(1000)]
    shown = drawn(make_evidence(trials, evaluation(winner=333)), most=100)
    numbers = {t.number for t in shown}
    assert 100 <= len(shown) <= 102
    assert numbers >= {0, 333, *range(950, 1000)}
    assert shown[-1].number == 999


def test_too_few_trials_are_called_too_few():
    words = {figure.key: figure.note or "" for figure in figures_of(make_evidence(mixed_trials(4)))}
    assert "Too few trials" in words["importance"]
    assert "Too few trials" in words["agreement"]


def test_a_grace_period_that_misleads_is_warned_of():
    turned = [trial(n, curve=(n / 10, *[0.8 - n / 20] * (EPOCHS - 1))) for n in range(8)]
    assert "too short" in (agreement_figure(make_evidence(turned)).warning or "")


def test_the_tables_behind_figures_hold_the_numbers():
    evidence = make_evidence([trial(0), trial(1, Outcome.PRUNED)])
    assert survival_figure(evidence).table.rows == ((1, 2, 2), (3, 2, 1))
    assert [row[0] for row in timeline_figure(evidence).table.rows] == [0, 1]


# --- the answer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (estimate(0.1, 0.05), "Trial 4 beats the defaults"),
        (estimate(0.1, 0.2), "No significant gain"),
        (estimate(-0.2, 0.1), "worse on test patients"),
        (estimate(0.1, 0.05, patients=3), "too few test patients"),
    ],
)
def test_the_sentence_says_what_the_interval_allows(difference, words):
    sentence = headline(make_evidence([], evaluation(comparisons=[compared("dice", difference)])))
    assert words in sentence
    assert "0.600" in sentence


def test_an_interval_above_zero_is_no_gain_where_the_permutation_test_disagrees():
    content = evaluation(comparisons=[compared("dice", estimate(0.1, 0.05), p=0.06)])
    assert headline(make_evidence([], content)).startswith("No significant gain")


def test_defaults_that_won_or_gave_no_model_are_named():
    won = evaluation(winner=0, models={"winner": model(0.5)}, confirmation=None)
    del won["comparisons"]
    evidence = make_evidence([trial(0)], won)
    assert headline(evidence).startswith("The defaults won")
    assert confirmation_figure(evidence) is None
    assert metrics_table(evidence).columns == ("metric", "winner")
    alone = {**won, "winner": 4}
    assert "no model to compare" in headline(make_evidence([], alone))


def test_without_a_lesion_among_test_patients_there_is_no_dice():
    none = evaluation(models={"winner": model(None)})
    del none["comparisons"]
    evidence = make_evidence([], none)
    assert "no test patient has a lesion" in headline(evidence)
    assert gain_figure(evidence).drawings == ()
    assert answer_stats(evidence)[0] == Stat("\N{EN DASH}", "no patient with a value", "test Dice, winner")


def test_p_values_and_overtuning_are_shown_where_they_were_measured():
    difference = estimate(0.2, 0.1)
    content = evaluation(
        comparisons=[compared("dice", difference), compared("dice", difference, theirs="unet")],
        overtuning={"validation": 0.7, "test": 0.6, "gap": 0.1},
    )
    content["models"]["winner"]["detection"] = {"sensitivity": estimate(0.9), "specificity": estimate(None)}
    content["models"]["defaults"]["detection"] = {"sensitivity": estimate(0.8), "specificity": estimate(None)}
    table = metrics_table(make_evidence([], content))
    assert table.columns[-1] == "p (Holm)"
    assert table.rows[0][-3:] == ("0.200 [0.100, 0.300] (n = 9)", 0.02, 0.02)
    assert table.rows[-1] == ("specificity, patients", "undefined", "undefined", None, None, None)
    assert answer_stats(make_evidence([], content))[-1] == Stat("+0.100", "validation 0.700, test 0.600", "overtuning")


def test_p_values_are_corrected_for_all_rows_of_the_table():
    difference = estimate(0.2, 0.1)
    content = evaluation(comparisons=[compared("dice", difference, p=0.02), compared("hd95", difference, p=0.04)])
    table = metrics_table(make_evidence([], content))
    rows = {row[0]: row[-2:] for row in table.rows}
    assert rows["Dice"] == (0.02, 0.04)  # alone, and as the smaller of two
    assert rows["HD95 (mm)"] == (0.04, 0.04)
    assert "its own p decides" in (table.note or "")


def test_a_difference_over_other_patients_than_the_means_is_said_at_the_table():
    content = evaluation(comparisons=[compared("dice", estimate(0.2, 0.1)), compared("hd95", estimate(1.0, 0.1))])
    content["models"]["defaults"]["hd95"] = {**estimate(12.0), "patients": 7}
    content["comparisons"][1]["difference"] = {**estimate(1.0, 0.1), "patients": 6}
    note = metrics_table(make_evidence([], content)).note or ""
    assert "Not the difference of the two means beside it: HD95 (n = 6)." in note
    assert "Dice (n" not in note


# --- the test ---------------------------------------------------------------------------------------------


def test_what_was_not_measured_has_no_figure():
    evidence = make_evidence([], patients=())
    assert [build(evidence) for build in (volume_figure, calibration_figure, strata_figure, pareto_figure)] == [
        None
    ] * 4


def test_what_was_measured_is_drawn():
    bins = [
        {"low": 0.0, "high": 0.5, "mean_probability": 0.1, "observed": 0.05, "voxels": 10_000},
        {"low": 0.5, "high": 1.0, "mean_probability": 0.8, "observed": 0.6, "voxels": 90},
    ]
    strata = [
        {"name": "below 5 ml", "patients": 3, "dice": estimate(0.3)},
        {"name": "none", "patients": 1, "dice": estimate(None)},
    ]
    winner = {**model(0.6), "calibration": {"ece": 0.04, "bins": bins}, "strata": strata}
    front = {"cost": "seconds a patient", "unit": "s", "trials": [{"trial": 1, "dice": 0.5, "cost": 2.0}]}
    evidence = make_evidence([], evaluation(models={"winner": winner}, pareto=front))
    for build in (volume_figure, calibration_figure, strata_figure, pareto_figure):
        for drawing in build(evidence).drawings:
            ET.fromstring(drawing)
    assert "0.040" in calibration_figure(evidence).note
    assert len(strata_figure(evidence).table.rows) == 2


# --- scales -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 9, [0, 2, 4, 6, 8]), (-1, 1, [-1, -0.5, 0, 0.5, 1]), (3, 3, [3])],
)
def test_ticks_are_round(low, high, expected):
    assert round_ticks(low, high) == pytest.approx(expected)


def test_a_logarithmic_scale_gives_equal_ratios_equal_lengths():
    scale = Scale(1e-4, 1e-2, 0, 100, log=True)
    assert scale(1e-3) == pytest.approx(50)
    assert scale.ticks() == pytest.approx([1e-4, 1e-3, 1e-2])
    assert Scale(5, 5, 0, 100)(5) == 50


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0"), (0.25, "0.25"), (-2, "\N{MINUS SIGN}2"), (1e-4, "1e\N{MINUS SIGN}4"), (20000, "2e4")]
)
def test_numbers_on_axes_are_short(value, words):
    assert short(value) == words
