"""The speed benchmark: every figure is there, the parts are the whole, and bad input is one line."""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.profiler import record_function

import experiments.speed
import lcnn.network.model
import lcnn.training.fit
from data_prep.cohort.compiled import CompiledCohort, compile_cohort
from data_prep.preprocessing.picture import PictureConfig
from experiments.speed import (
    NETWORKS,
    SECTIONS,
    VARIANTS,
    GpuFigures,
    PngStacks,
    Setup,
    main,
    measure_data,
    measure_gpu,
    measure_steps,
    peak_allocation,
)
from experiments.step_parts import Part, profiling, take_apart, times_of
from lcnn.config import TrainConfig
from lcnn.network.stacks import OVERVIEW, StackSource
from lcnn.training.fit import TrainingData
from search.placement.rehearsal import usual_normalisation
from search.spec.settings import Overrides, load_spec

SPACE = Path(__file__).parents[2] / "spaces" / "lcnn.yaml"
CPU = torch.device("cpu")
CONFIG = TrainConfig.model_validate(
    {
        "model": {"width": 4, "levels": 2, "window_size": 4, "heads": 2, "global_backbone": "resnext14_4x2d"},
        "train": {"batch_size": 2},
    }
)
TINY = [
    *("cohort.image_size=32", "model.width=4", "model.levels=2", "model.window_size=4", "model.heads=2"),
    "train.batch_size=2",
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cohort_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients with noise in a head-sized disc, three and four slices of 40 rows and 48 columns."""
    root = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:40, :48]
    head = (row - 20) ** 2 + (column - 22) ** 2 < 15**2
    for name, slices in (("a", 3), ("b", 4)):
        for index in range(slices):
            grey = np.where(head, rng.integers(60, 200, head.shape), 0)
            lesion = 255 * ((row - 18) ** 2 + (column - 20) ** 2 < 25)
            for part, picture in (("images", grey), ("masks", lesion)):
                file = root / part / name / f"{index}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(file)
    return root


@pytest.fixture(scope="module")
def data(cohort_root: Path, tmp_path_factory: pytest.TempPathFactory) -> CompiledCohort:
    return compile_cohort(cohort_root, tmp_path_factory.mktemp("cache"), PictureConfig(image_size=32, crop="head"))


def run(*arguments: str | Path) -> int:
    settings = [word for setting in TINY for word in ("--set", setting)]
    return main(["--space", str(SPACE), "--rounds", "1", *settings, *map(str, arguments)])


class Sleep(torch.autograd.Function):
    """The identity, which takes its time in both directions."""

    @staticmethod
    def forward(context: Any, x: Tensor, forward_s: float, backward_s: float) -> Tensor:
        time.sleep(forward_s)
        context.backward_s = backward_s
        return x.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(context.backward_s)
        return gradients[0], None, None


def test_the_backward_pass_is_told_apart_by_parts() -> None:
    encoder = record_function(Part.ENCODER.value)(lambda x: (Sleep.apply(x, 0.02, 0.03), Sleep.apply(x, 0.0, 0.04)))
    decoder = record_function(Part.DECODER.value)(lambda deep, skip: Sleep.apply(deep + skip, 0.04, 0.01))

    def whole_forward(x: Tensor) -> Tensor:
        deep, skip = encoder(Sleep.apply(x, 0.0, 0.02))
        return Sleep.apply(decoder(Sleep.apply(deep, 0.01, 0.05), skip), 0.02, 0.06)

    whole = record_function(Part.FUSION.value)(whole_forward)
    with profiling() as profiler:
        started = time.perf_counter()
        whole(torch.ones(3, requires_grad=True)).sum().backward()
        wall_ms = 1e3 * (time.perf_counter() - started)
    times = times_of(profiler.events() or (), wall_ms, on_gpu=False)
    slept_ms = {
        Part.ENCODER: (20, 70),
        Part.DECODER: (40, 10),
        Part.FUSION: (30, 130),
        Part.OTHER: (0, 0),
    }
    for part, slept in slept_ms.items():
        assert all(took >= least for took, least in zip(times[part], slept, strict=True)), part
    assert sum(map(sum, times.values())) == pytest.approx(wall_ms)


def test_of_a_gpu_the_time_of_its_kernels_counts() -> None:
    with profiling() as profiler:
        record_function(Part.LOSS.value)(lambda x: x * 2)(torch.ones(1, requires_grad=True)).backward()
    events = profiler.events() or ()
    times = times_of(events, 7.0, on_gpu=True)
    assert times == {part: (7.0 if part is Part.OTHER else 0.0, 0.0) for part in Part}


def test_the_parts_are_the_whole_step(data: CompiledCohort) -> None:
    training = TrainingData(data.store, tuple(data.store.patients), (), usual_normalisation(1))
    found = take_apart(CONFIG, training, "cpu", rounds=1, steps=4)
    assert [part.part for part in found.parts] == list(Part)
    assert all(part.forward_ms > 0 for part in found.parts)
    one_way = {Part.DATA, Part.AUGMENTATION, Part.OPTIMIZER, Part.OTHER}
    for part in found.parts:
        assert (part.backward_ms == 0) == (part.part in one_way), part
    assert found.share(*Part) == pytest.approx(1)
    assert found.sum_ms == pytest.approx(found.profiled_ms)
    assert found.plain_ms > 0


def test_measuring_leaves_trainings_as_they_were(data: CompiledCohort) -> None:
    training = TrainingData(data.store, tuple(data.store.patients), (), usual_normalisation(1))
    before = (
        dict(vars(lcnn.training.fit)),
        dict(vars(lcnn.network.model)),
        StackSource.batch,
        torch.nn.utils.clip_grad_norm_,
    )
    take_apart(CONFIG, training, "cpu", rounds=1, steps=1)
    after = (
        dict(vars(lcnn.training.fit)),
        dict(vars(lcnn.network.model)),
        StackSource.batch,
        torch.nn.utils.clip_grad_norm_,
    )
    assert after == before


def test_every_contender_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any, **__: Any) -> None:
        raise RuntimeError("no working C++ compiler\nand how to get one")

    monkeypatch.setattr(torch, "compile", no_compiler)
    variants = ("fp32", "channels_last", "compile")
    rows = measure_steps(CONFIG, 32, CPU, networks=NETWORKS, variants=variants, rounds=1)
    assert [(row.network, row.variant) for row in rows] == [(n, v) for n in NETWORKS for v in variants]
    assert rows[0].ratio == 1
    for row in rows:
        assert row.parameters > 0
        if VARIANTS[row.variant].compiled:
            assert row.failure == "no working C++ compiler"
        elif row.network == "swin_unetr":
            # Too small a picture for it, or a package is missing that MONAI itself does not require.
            assert row.failure
        else:
            assert row.failure is None
            assert row.step_ms
            assert row.ratio
            assert row.peak_mb
            assert row.peak_mb > 3 * 4 * row.parameters / 1e6


def test_peak_memory_counts_what_is_there_at_once() -> None:
    def work() -> None:
        first = torch.empty(3_000_000, dtype=torch.uint8)
        second = torch.empty(1_000_000, dtype=torch.uint8)
        del first, second
        torch.empty(2_000_000, dtype=torch.uint8)

    def work_that_keeps_something() -> None:
        work()
        kept.append(torch.empty(1_500_000, dtype=torch.uint8))

    kept: list[Tensor] = []
    for _ in range(2):
        assert peak_allocation(work_that_keeps_something, CPU) == pytest.approx(4_000_000, rel=1e-3)
        kept.clear()


def test_the_files_and_the_store_give_the_same_stacks(data: CompiledCohort) -> None:
    source = StackSource(data.store, list(data.store.patients), 1)
    positions = np.arange(len(source))
    stored, stored_lesion = source.batch(positions)
    decoded, decoded_lesion = PngStacks(data, source, 1).batch(positions)
    assert torch.equal(stored[:, OVERVIEW:], decoded)
    assert torch.equal(stored_lesion, decoded_lesion)
    rates = measure_data(data, CONFIG, rounds=1)
    assert rates[0].store_is_faster == 1
    assert all(rate.stacks_a_second > 0 for rate in rates)


def test_the_figures_of_a_gpu_can_be_taken_anywhere() -> None:
    found = measure_gpu(CONFIG, 32, CPU, rounds=1, matrix_side=16)
    assert found.step_tflops > 0
    assert found.matrix_tflops > 0
    assert 0 < found.bf16_peak_gb < found.fp32_peak_gb


def test_a_gpu_is_judged_by_its_targets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figures = GpuFigures(10.0, 25.0, 20.0, 14.0, 90.0, 600.0)
    monkeypatch.setattr(experiments.speed, "measure_gpu", lambda *_, **__: figures)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    spec = load_spec(SPACE, Overrides("gpu"), has_gpu=True)
    told = SECTIONS["gpu"](Setup(spec, torch.device("cuda"), argparse.Namespace(rounds=1)))
    said = capsys.readouterr().out
    assert told["speed"] == 2.5
    assert "2.50 times as fast (target at least 2: met)" in said
    assert "0.70 of the memory (limit 0.65: missed)" in said
    assert "90.0 TFLOP/s, 15.0% of the 600.0" in said


def test_one_command_measures_and_keeps_everything(
    cohort_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed.json"
    names = ("--networks", "unet", "--variants", "fp32")
    assert run("--cohort", cohort_root, "--cache", tmp_path, "--out", out, *names) == 0
    said = capsys.readouterr().out
    for text in (
        "x lcnn fp32",
        "with the profiler",
        "limit 15%",
        "limit 5%",
        "target at least 20",
        "GPU: unmeasured",
    ):
        assert text in said
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert list(figures) == ["machine", "steps", "parts", "data", "gpu"]
    assert [row["network"] for row in figures["steps"]] == ["lcnn", "unet"]
    assert figures["gpu"] is None


def test_without_a_cohort_the_synthetic_one_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coarse = [f"cohort.phantom.{setting}" for setting in ("pixel_mm=6", "slice_mm=10")]
    settings = [word for setting in coarse for word in ("--set", setting)]
    assert run("--only", "data", "--patients", "1", "--cache", tmp_path, *settings) == 0
    assert "Stacks from phantom (synthetic)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--profile", "tpu"), "no profile tpu"),
        (("--rounds", "0"), "--rounds: 0; give at least 1"),
        (("--only", "data", "--cohort", "nowhere"), "nowhere: no such folder"),
        (("--only", "data", "--patients", "0"), "cohort.phantom.patients"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--cache", tmp_path, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
