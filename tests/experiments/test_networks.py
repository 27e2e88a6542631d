"""The networks that LCNN is compared with: they answer like LCNN, and have its size."""

import pytest
import torch
from torch import nn

from data_prep.cohort.normalisation import Normalisation
from experiments.networks import BASELINES, Baseline, baseline_of_size, network, parameters
from lcnn.config import TrainConfig
from lcnn.network.model import LCNN, build_model
from lcnn.network.stacks import OVERVIEW, channels

CONFIG = TrainConfig.model_validate(
    {"model": {"width": 4, "levels": 2, "window_size": 4, "heads": 2, "global_backbone": "resnext14_4x2d"}}
)
NORMALISATION = Normalisation(mean=110.0, std=30.0)
SIDE = 64


def need(name: str) -> None:
    """Skip where a package is missing that MONAI itself does not require."""
    if name == "swin_unetr":
        pytest.importorskip("einops", reason="MONAI's SwinUNETR needs einops")


def build(name: str, T: int = 1, seed: int = 0) -> nn.Module:
    need(name)
    torch.manual_seed(seed)
    return network(name)(CONFIG.model_copy(update={"T": T}), NORMALISATION)


def grey(T: int = 1, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return 255 * torch.rand(batch, channels(T), SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", BASELINES)
def test_the_width_is_the_one_that_comes_nearest(name: str) -> None:
    need(name)
    make, step = BASELINES[name]
    sizes = {multiple * step: parameters(make(3, multiple * step)) for multiple in (2, 3, 4)}
    second, third, fourth = sizes.values()
    middle = (third + fourth) // 2
    for size in (second + 1, third, middle - 5, middle + 5):
        nearest = min(sizes, key=lambda width: abs(sizes[width] - size))
        assert baseline_of_size(name, 3, size) == (nearest, sizes[nearest])


@pytest.mark.parametrize("T", [0, 2])
@pytest.mark.parametrize("name", ["unet", "attention_unet"])
def test_a_baseline_has_about_the_size_of_lcnn(name: str, T: int) -> None:
    size = parameters(build_model(CONFIG.model_copy(update={"T": T}), NORMALISATION))
    assert parameters(build(name, T)) == pytest.approx(size, rel=0.2)


@pytest.mark.parametrize("T", [0, 1, 3])
@pytest.mark.parametrize("name", BASELINES)
@torch.no_grad()
def test_a_baseline_answers_like_lcnn_and_starts_from_the_prior(name: str, T: int) -> None:
    model = build(name, T).eval()
    assert isinstance(model, Baseline)
    prediction = model(grey(T))
    like = build("lcnn", T).eval()(grey(T))
    assert prediction.logits_BHW.shape == like.logits_BHW.shape == (2, SIDE, SIDE)
    assert prediction.logits_BHW.dtype == torch.float32
    for ours, theirs in (
        (prediction.asymmetry_B, like.asymmetry_B),
        (prediction.untouched_B, like.untouched_B),
        *zip(prediction.pose, like.pose, strict=True),
    ):
        assert torch.equal(ours, theirs)  # in evaluation, an untrained LCNN finds nothing either
    assert 0.003 < torch.sigmoid(prediction.logits_BHW).median() < 0.03


@torch.no_grad()
def test_windows_are_channels_of_a_baseline() -> None:
    three = Normalisation(mean=(110.0, 90.0, 120.0), std=(30.0, 40.0, 20.0))
    model = network("unet")(CONFIG, three).eval()
    stacks = 255 * torch.rand(2, channels(CONFIG.T, 3), SIDE, SIDE)
    assert model(stacks).logits_BHW.shape == (2, SIDE, SIDE)


@pytest.mark.parametrize("name", BASELINES)
def test_the_gradient_reaches_every_weight(name: str) -> None:
    model = build(name)
    model(grey()).logits_BHW.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    # A bias before a normalisation has none but for rounding.
    assert [n for n, p in model.named_parameters() if p.ndim > 1 and p.grad.abs().sum() == 0] == []


@pytest.mark.parametrize("name", BASELINES)
def test_every_slice_is_seen_and_the_overview_is_not(name: str) -> None:
    stack = grey(2).requires_grad_()
    build(name, 2).eval()(stack).logits_BHW.square().sum().backward()
    assert stack.grad is not None
    reached = stack.grad.abs().sum(dim=(0, 2, 3))
    assert (reached[OVERVIEW:] > 0).all()
    assert (reached[:OVERVIEW] == 0).all()


@torch.no_grad()
def test_grey_values_are_normalised_by_what_is_saved_with_the_weights() -> None:
    model = build("unet").eval()
    other = network("unet")(CONFIG, Normalisation(mean=20.0, std=5.0)).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(grey()).logits_BHW, model(grey()).logits_BHW)
    model.mean += 50
    assert not torch.allclose(other(grey()).logits_BHW, model(grey()).logits_BHW, atol=1e-4)


@pytest.mark.parametrize("name", ["lcnn", *BASELINES])
def test_the_seed_decides_the_weights(name: str) -> None:
    one, same, other = (build(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", BASELINES)
def test_measuring_sizes_takes_nothing_from_the_random_numbers(name: str) -> None:
    model = build(name)
    make, _ = BASELINES[name]
    width, _ = baseline_of_size(name, 3, parameters(build_model(CONFIG, NORMALISATION)))
    torch.manual_seed(0)
    alone = Baseline(make(3, width), NORMALISATION).state_dict()
    assert all(torch.equal(alone[key], value) for key, value in model.state_dict().items())


def test_lcnn_is_lcnn() -> None:
    assert network("lcnn") is build_model
    assert isinstance(build("lcnn"), LCNN)
