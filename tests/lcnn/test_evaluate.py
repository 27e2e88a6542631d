"""Evaluation on native grids, with a network that finds the bright lesions of the tiny cohort exactly."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from data_prep.cohort.store import compile_store, read_patient
from data_prep.preprocessing.head import head_box, whole_box
from data_prep.preprocessing.picture import PictureConfig
from lcnn.inference.model_file import TrainedModel
from lcnn.inference.predict import predict_volume
from lcnn.network.alignment import Pose
from lcnn.network.model import Prediction, build_model
from lcnn.network.stacks import OVERVIEW, StackSource
from lcnn.scoring.evaluate import evaluate, score_patient

NAMES = ("a", "b", "c", "d", "e", "f")


class Truthful(nn.Module):
    """Says lesion where the centre slice is brighter than any healthy pixel of the cohort."""

    def __init__(self, threshold=160.0):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, grey_BCHW):
        grey_BDHW = grey_BCHW[:, OVERVIEW:]
        logits = (grey_BDHW[:, grey_BDHW.shape[1] // 2] - self.threshold) / 10
        nothing = torch.zeros(len(grey_BDHW))
        return Prediction(logits, nothing, nothing, Pose(nothing, nothing))


@pytest.fixture(params=["none", "head"])
def picture(request):
    return PictureConfig(image_size=96, crop=request.param)


@pytest.fixture
def config(make_config):
    return make_config()


def patient(cohort, name):
    return next(patient for patient in cohort.patients if patient.id == name)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_come_back_on_the_native_grid(config, picture, cohort, cohort_root, normalisation, name):
    model = TrainedModel(build_model(config, normalisation).eval(), config, picture)
    image_ZKHW, mask_ZHW = read_patient(patient(cohort, name), cohort_root)
    probability = predict_volume(model, image_ZKHW)
    assert probability.shape == mask_ZHW.shape
    assert probability.dtype == np.float32
    assert probability.min() >= 0
    assert 0 < probability.max() < 0.5


@pytest.mark.parametrize(
    ("parts", "spacing_mm"),
    [((), None), (("remove_couch",), None), (("strip_skull",), (5.0, 4.0, 4.0))],
)
def test_the_network_sees_what_it_was_trained_on(config, picture, parts, spacing_mm, cohort, cohort_root, tmp_path):
    """Prediction from a patient's own files must prepare, resize and stack just as the store does for training."""
    picture = picture.model_copy(update=dict.fromkeys(parts, True))
    patients = [patient.model_copy(update={"spacing_mm": spacing_mm}) for patient in cohort.patients]
    cohort = cohort.model_copy(update={"patients": tuple(patients)})
    config = config.model_copy(update={"T": 2})
    seen = []

    class Watching(Truthful):
        def forward(self, grey_BCHW):
            seen.append(grey_BCHW)
            return super().forward(grey_BCHW)

    store = compile_store(cohort, cohort_root, tmp_path, picture)
    for name in NAMES:
        seen.clear()
        image_ZHW, _ = read_patient(patient(cohort, name), cohort_root)
        predict_volume(TrainedModel(Watching(), config, picture), image_ZHW, spacing_mm)
        source = StackSource(store, [name], config.T)
        trained_on, _ = source.batch(np.arange(len(source)))
        assert torch.equal(torch.cat(seen), trained_on.float())


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_network_that_tells_the_truth_scores_near_one_on_the_native_masks(
    make_config, picture, cohort, cohort_root, batch_size
):
    config = make_config({"train.batch_size": batch_size})
    results = evaluate(TrainedModel(Truthful(), config, picture), cohort, cohort_root, NAMES)
    assert [result.patient for result in results] == list(NAMES)
    for result in results:
        if result.patient == "c":
            assert [result.dice, result.recall, result.precision, result.hd95] == pytest.approx(
                [math.nan] * 4, nan_ok=True
            )
            assert result.predicted_volume == result.true_volume == 0
        else:
            assert result.dice > 0.95
            assert result.precision > 0.93
            assert result.recall > 0.93
            assert result.predicted_volume == pytest.approx(result.true_volume, rel=0.08)
            assert result.hd95 <= 1.0


def test_a_network_that_tells_the_opposite_scores_zero(config, picture, cohort, cohort_root):
    (result,) = evaluate(TrainedModel(Truthful(1e6), config, picture), cohort, cohort_root, ["a"])
    assert (result.dice, result.recall, result.predicted_volume) == (0, 0, 0)
    assert math.isnan(result.precision)
    assert math.isnan(result.hd95)
    assert result.true_volume > 0


def test_what_lies_outside_the_crop_is_not_lesion(config, picture, cohort, cohort_root):
    image_ZKHW, _ = read_patient(patient(cohort, "a"), cohort_root)
    probability = predict_volume(TrainedModel(Truthful(-1e6), config, picture), image_ZKHW)  # lesion everywhere
    top, left, side = head_box(image_ZKHW[:, 0]) if picture.crop == "head" else whole_box(48, 48)
    inside = np.zeros((48, 48), dtype=bool)
    inside[max(top, 0) : top + side, max(left, 0) : left + side] = True
    assert (probability[:, inside] > 0.5).all()
    assert (probability[:, ~inside] == 0).all()


@pytest.mark.parametrize(
    ("name", "voxel", "volume_unit", "distance_unit"),
    [
        ("a", 5.0 * 0.5 * 0.6 / 1000, "ml", "mm"),
        ("e", 4.0 * 0.4 * 0.4 / 1000, "ml", "mm"),
        ("d", 1, "voxels", "voxels"),
    ],
)
def test_volumes_are_in_ml_where_the_spacing_is_known_else_in_voxels(
    config, picture, cohort, cohort_root, name, voxel, volume_unit, distance_unit
):
    (result,) = evaluate(TrainedModel(Truthful(), config, picture), cohort, cohort_root, [name])
    assert (result.volume_unit, result.distance_unit) == (volume_unit, distance_unit)
    assert result.true_volume == pytest.approx(int(read_patient(patient(cohort, name), cohort_root)[1].sum()) * voxel)


def test_each_case_is_shown_once_with_its_pictures(config, picture, cohort, cohort_root):
    seen = []
    results = evaluate(TrainedModel(Truthful(), config, picture), cohort, cohort_root, ["e", "b"], on_case=seen.append)
    assert [case.result for case in seen] == results
    for case, name, shape in zip(seen, ("e", "b"), ((6, 40, 48), (4, 48, 40)), strict=True):
        assert case.result.patient == name
        assert case.image_ZHW.shape == case.true_ZHW.shape == case.predicted_ZHW.shape == shape
        assert case.true_ZHW.dtype == case.predicted_ZHW.dtype == bool
        assert case.true_ZHW.sum() == int(read_patient(patient(cohort, name), cohort_root)[1].sum())
        assert (case.image_ZHW[case.true_ZHW] >= 200).all()
        assert (case.image_ZHW[~case.true_ZHW] < 200).all()
        assert case.predicted_ZHW.sum() * (1 if name == "b" else 0.64e-3) == pytest.approx(case.result.predicted_volume)


def test_all_figures_by_hand():
    true, predicted = np.zeros((2, 3, 6, 8), dtype=bool)
    true[1, 2, 1:5] = True  # four voxels in a row
    predicted[1, 2, 3:7] = True  # the same, two columns to the right
    result = score_patient("p", predicted, true, (5.0, 0.5, 0.8))
    assert (result.patient, result.dice, result.precision, result.recall) == ("p", 0.5, 0.5, 0.5)
    # Each side has distances 2, 1, 0, 0 columns; their 95th percentile is 1.85 columns of 0.8 mm.
    assert result.hd95 == pytest.approx(1.85 * 0.8)
    assert result.true_volume == result.predicted_volume == pytest.approx(4 * 5.0 * 0.5 * 0.8 / 1000)
    assert result.surface_dice == 1.0  # no voxel is further than two columns, 1.6 mm, from the other
    assert (result.lesion_f1, result.true_lesions, result.predicted_lesions) == (1.0, 1, 1)
    assert (result.volume_difference, result.lesion_count_difference) == (0, 0)
    # Within 10 mm lie all 3 slices, 6 rows and 8 columns; two voxels are sure and wrong, two are missed.
    assert result.ece == pytest.approx(4 / (3 * 6 * 8))
    in_voxels = score_patient("p", predicted, true, None)
    assert in_voxels.ece == pytest.approx(4 / (6 * 8))
    assert (in_voxels.hd95, in_voxels.true_volume) == (pytest.approx(1.85), 4)
