"""Figures of a whole test, from patients whose figures are counted by hand."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from lcnn.scoring.evaluate import score_patient
from lcnn.scoring.evaluation import COLUMNS, METRICS, detection, strata, summarise, write_evaluation, write_patients
from lcnn.scoring.intervals import Estimate

MM = (5.0, 2.0, 2.0)
"""A voxel of 0.02 ml."""


def patient(name, *, true=0, predicted=0, both=0, spacing=MM):
    """A patient of these numbers of lesion voxels, those in both first, in one row."""
    true_ZHW, predicted_ZHW = np.zeros((2, 1, 1, 4000), dtype=bool)
    true_ZHW[..., :true] = True
    predicted_ZHW[..., true - both : true - both + predicted] = True
    return score_patient(name, predicted_ZHW, true_ZHW, spacing)


SMALL = patient("small", true=100, predicted=100, both=100)  # 2 ml, Dice 1
MISSED = patient("missed", true=200)  # 4 ml
BESIDE = patient("beside", true=500, predicted=100)  # 10 ml
LARGE = patient("large", true=1500, predicted=1500, both=750)  # 30 ml, Dice 0.5
FREE = patient("free")
ALARM = patient("alarm", predicted=50)
EVERYBODY = [SMALL, MISSED, BESIDE, LARGE, FREE, ALARM]


def test_detection_asks_for_the_lesion_itself_and_for_silence_without_one():
    found = detection(EVERYBODY)
    # Small and large of four are met; the prediction beside the lesion is none. One of two free is left alone.
    assert (found["sensitivity"].mean, found["sensitivity"].patients) == (0.5, 4)
    assert (found["specificity"].mean, found["specificity"].patients) == (0.5, 2)
    # Clopper and Pearson's interval of 2 in 4, as printed in tables of it.
    assert (found["sensitivity"].low, found["sensitivity"].high) == pytest.approx((0.0676, 0.9324), abs=1e-4)
    nobody = detection([])
    assert nobody == {"sensitivity": Estimate(None, None, None, 0), "specificity": Estimate(None, None, None, 0)}


def test_strata_are_cut_in_ml_and_leave_out_the_lesion_free():
    found = strata(EVERYBODY)
    assert [(entry["name"], entry["patients"]) for entry in found] == [
        ("0 to 5 ml", 2),
        ("5 to 20 ml", 1),
        ("20 ml and more", 1),
    ]
    assert [entry["dice"]["mean"] for entry in found] == [0.5, 0.0, 0.5]
    assert found[1]["dice"]["patients"] == 1


def test_a_volume_on_a_bound_belongs_above_it():
    (low, middle, _) = strata([patient("five", true=250)])
    assert (low["patients"], middle["patients"]) == (0, 1)
    assert low["dice"]["mean"] is None


def test_without_a_spacing_strata_are_thirds_and_units_are_kept_apart():
    rows = [patient(f"p{n}", true=n, predicted=n, both=n, spacing=None) for n in (10, 20, 30, 40, 50, 60)]
    found = strata([*rows, SMALL])
    assert [entry["patients"] for entry in found if entry["name"].endswith("voxels")] == [2, 2]
    assert [(entry["name"], entry["patients"]) for entry in found] == [
        ("0 to 5 ml", 1),
        ("5 to 20 ml", 0),
        ("20 ml and more", 0),
        ("0 to 27 voxels", 2),
        ("27 to 43 voxels", 2),
        ("43 voxels and more", 2),
    ]
    assert strata([FREE]) == []


def test_a_model_s_figures():
    model = summarise({"model": EVERYBODY})["models"]["model"]
    assert set(METRICS) < set(model)
    assert (model["dice"]["mean"], model["dice"]["patients"]) == ((1 + 0 + 0 + 0.5) / 4, 4)
    assert model["lesion_f1"]["mean"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert model["lesion_count_difference"]["mean"] == pytest.approx((0 + 1 + 0 + 0 + 0 + 1) / 6)
    assert model["volume_difference"]["mean"] == pytest.approx(0.02 * (0 + 200 + 400 + 0 + 0 + 50) / 6)
    assert model["ece"]["patients"] == 5  # there is nothing around which to look in the lesion-free
    assert (model["lesion_free_patients"], model["lesion_free_with_false_alarm"]) == (2, 1)
    assert (model["volume_unit"], model["distance_unit"]) == ("ml", "mm")
    assert model["calibration"]["ece"] is not None
    assert len(model["calibration"]["bins"]) == 10


def test_the_first_model_is_compared_with_the_others_on_the_same_patients():
    found = summarise({"winner": EVERYBODY, "defaults": [patient(row.patient, true=100) for row in EVERYBODY]})
    assert [(one["ours"], one["theirs"]) for one in found["comparisons"]] == [("winner", "defaults")] * len(METRICS)
    dice = found["comparisons"][0]
    assert (dice["metric"], dice["difference"]["mean"], dice["difference"]["patients"]) == ("dice", 1.5 / 4, 4)
    assert dice["p_permutation"] == dice["p_holm"] == 0.5
    assert summarise({"model": EVERYBODY})["comparisons"] == []


def test_models_of_other_patients_are_not_compared():
    with pytest.raises(ValueError, match="the same patients, in the same order"):
        summarise({"winner": [SMALL, LARGE], "defaults": [LARGE, SMALL]})


def test_tables_name_every_figure_and_leave_the_undefined_empty(tmp_path):
    write_patients(tmp_path / "patients.csv", {"winner": EVERYBODY})
    rows = list(csv.DictReader((tmp_path / "patients.csv").read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == ["model", *COLUMNS]
    free = rows[4]
    assert [key for key, value in free.items() if not value] == [
        *("dice", "surface_dice", "hd95", "precision", "recall", "lesion_f1", "ece")
    ]
    large = {key: float(value) for key, value in rows[3].items() if key in METRICS}
    assert large["dice"] == 0.5
    assert large["volume_difference"] == 0
    assert (rows[3]["true_lesions"], rows[3]["predicted_lesions"], rows[3]["true_volume"]) == ("1", "1", "30.0")


def test_an_evaluation_is_strict_json_even_of_nobody_with_a_lesion(tmp_path):
    write_evaluation(tmp_path / "evaluation.json", summarise({"winner": [FREE], "defaults": [FREE]}))
    model = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["models"]["winner"]
    assert model["dice"]["mean"] is None
    assert model["calibration"]["ece"] is None
    assert not math.isnan(model["volume_difference"]["mean"])


def test_scans_of_a_person_count_as_one_patient(tmp_path):
    again = [replace(row, patient=f"{row.patient}2", group=group) for group, row in enumerate(EVERYBODY, start=1)]
    rows = [*(replace(row, group=group) for group, row in enumerate(EVERYBODY, start=1)), *again]
    single, both = summarise({"model": EVERYBODY})["models"]["model"], summarise({"model": rows})["models"]["model"]
    del single["calibration"], both["calibration"]  # which is over voxels
    assert both == single
    missed = [replace(SMALL, group=1), replace(MISSED, group=1), LARGE]
    found = detection(missed)["sensitivity"]
    assert (found.mean, found.patients) == (0.75, 2)
    write_patients(tmp_path / "patients.csv", {"model": missed})
    with (tmp_path / "patients.csv").open() as file:
        table = [*csv.reader(file)]
    assert table[0] == ["model", *COLUMNS, "group"]
    assert [row[-1] for row in table[1:]] == ["1", "1", ""]
