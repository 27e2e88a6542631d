"""The alignment on the phantom, whose true pose is known: after a short training it finds the angle."""

import math

import pytest
import torch
from depth import IS_DEEP, cases

import experiments.alignment
from data_prep.cohort.compiled import compile_cohort
from data_prep.phantom.config import PhantomConfig
from data_prep.preprocessing.picture import PictureConfig
from experiments.alignment import angle_error, main, measure, true_angles
from lcnn.network.alignment import Pose

PHANTOM = PhantomConfig(pixel_mm=2.0) if IS_DEEP else PhantomConfig(patients=10, pixel_mm=4.0, slice_mm=10.0)
STEPS = cases(3, 300)
"""Few find no angle; whether one is found, `make test-deep` sees."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("phantom")
    return root, measure(PHANTOM, root / "cohort", root / "cache", steps=STEPS, seed=0, jobs=2)


@pytest.mark.deep
def test_the_angle_is_found_to_within_a_degree_and_a_half(measured):
    _, (whole, _) = measured
    assert whole.stack < 1.5
    assert whole.volume < 1.5
    assert whole.stack < 0.6 * whole.nothing


@pytest.mark.deep
def test_the_overview_of_the_volume_is_worth_having(measured):
    _, (whole, alone) = measured
    assert whole.nothing == alone.nothing
    assert whole.stack < alone.stack


class Knowing(torch.nn.Module):
    """Finds one and the same angle everywhere."""

    def __init__(self, angle_deg):
        super().__init__()
        self.angle_deg = angle_deg

    def forward(self, unit_BCHW):
        count = len(unit_BCHW)
        return Pose(torch.full((count,), math.radians(self.angle_deg)), torch.zeros(count))


def test_errors_are_mean_absolute_differences_to_the_saved_pose(measured):
    root, _ = measured
    store = compile_cohort(root / "cohort", root / "cache", PictureConfig(image_size=96, crop="head")).store
    true = true_angles(root / "cohort")
    patients = list(store.patients)[:3]
    error = angle_error(Knowing(2.0), store, patients, true, with_overview=True)
    distances = [abs(2.0 - true[name]) for name in patients]
    slices = [store.patients[name].slice_count for name in patients]
    assert error.volume == pytest.approx(sum(distances) / 3, abs=1e-4)
    assert error.stack == pytest.approx(
        sum(d * n for d, n in zip(distances, slices, strict=True)) / sum(slices), abs=1e-4
    )
    assert error.nothing == pytest.approx(sum(abs(true[name]) for name in patients) / 3)


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--patients", "3"]])
def test_numbers_that_cannot_be_are_refused(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: --steps must be at least 1")


def test_the_command_prints_every_row(capsys, monkeypatch, measured):
    _, errors = measured
    monkeypatch.setattr(experiments.alignment, "measure", lambda *_, **__: errors)
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "synthetic" in out
    assert f"{errors[0].stack:.2f} a stack" in out
