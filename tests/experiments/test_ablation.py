"""The variants of the ablation: each is LCNN with just the change that its name says."""

import pytest
import torch
from torch import nn

from data_prep.cohort.normalisation import Normalisation
from experiments.ablation import (
    EMA_DECAY,
    VARIANTS,
    Averaged,
    Flipped,
    FullConvolution3d,
    MirrorDifference,
    main,
)
from experiments.networks import parameters
from lcnn.config import TrainConfig
from lcnn.network.attention import SymmetryAttention
from lcnn.network.local_path import FOLD
from lcnn.network.model import build_model
from lcnn.network.stacks import channels

CONFIG = TrainConfig.model_validate(
    {
        "model": {"width": 4, "levels": 2, "window_size": 4, "heads": 2, "global_backbone": "resnext14_4x2d"},
        "train": {"batch_size": 4},
    }
)
NORMALISATION = Normalisation(mean=110.0, std=30.0)
BY_NAME = {variant.name: variant for variant in VARIANTS}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def grey(batch=2, side=64):
    return 255 * torch.rand(batch, channels(CONFIG.T), side, side, generator=torch.Generator().manual_seed(1))


def build(name):
    variant = BY_NAME[name]
    return variant.tested(variant.build(variant.config(CONFIG), NORMALISATION))


@pytest.mark.parametrize("name", BY_NAME)
def test_every_variant_trains_and_answers_as_lcnn_does(name):
    variant = BY_NAME[name]
    net = variant.build(variant.config(CONFIG), NORMALISATION).train()
    net(grey()).logits_BHW.square().mean().backward()
    assert sum(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters()) > 20
    with torch.no_grad():
        logits = variant.tested(net).eval()(grey()).logits_BHW
    assert logits.shape == (2, 64, 64)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("batch_norm", 0),
        ("no_alignment", 0),
        ("local_path_alone", 0),
        ("flipped", 0),
        ("no_attention", -1),
        ("full_3d_convolutions", 1),
        ("mirror_difference", 1),
    ],
)
def test_a_variant_has_the_weights_of_its_change(name, more):
    difference = parameters(build(name)) - parameters(build_model(CONFIG, NORMALISATION))
    assert (difference > 0) - (difference < 0) == more


def test_settings_reach_the_configuration():
    assert BY_NAME["batch_norm"].config(CONFIG).model.norm == "batch"
    assert BY_NAME["local_path_alone"].config(CONFIG).fusion.local == 1.0
    assert CONFIG.model.norm == "group"


def test_without_attention_there_is_none():
    assert not any(isinstance(module, SymmetryAttention) for module in build("no_attention").modules())


@torch.no_grad()
def test_without_alignment_the_pose_cannot_move():
    net = build("no_alignment")
    nn.init.normal_(net.alignment.regressor[-1].weight, std=100.0)
    pose = net(grey()).pose
    assert pose.angle_rad_B.abs().max() < 1e-4
    assert pose.shift_B.abs().max() < 1e-5


@torch.no_grad()
def test_the_full_convolution_mixes_slices_and_pixels_at_once():
    block = build_model(CONFIG, NORMALISATION).local.encoder[0]
    full = FullConvolution3d(block, 3)
    full.finish = nn.Identity()  # a normalisation would spread a change over the whole map
    x = torch.randn(3, FOLD**2, 8, 8)
    changed = x.clone()
    changed[0, :, 3, 3] += 1
    moved = (full(changed) - full(x)).abs().sum(dim=1) > 1e-6
    assert moved[1, 2:5, 2:5].any()
    assert not moved[2].any()
    assert not moved[:, :, 6:].any()


@pytest.mark.parametrize("windows", [1, 3])
@torch.no_grad()
def test_the_mirror_difference_is_that_of_the_unfolded_slices(windows):
    picture = torch.randn(2, windows, 12, 12)
    fold = nn.functional.pixel_unshuffle
    conv = MirrorDifference(nn.Conv2d(windows * FOLD**2, 3, 3))
    expected = conv.conv(torch.cat([fold(picture, FOLD), fold(picture - picture.flip(-1), FOLD)], dim=1))
    assert torch.allclose(conv(fold(picture, FOLD)), expected, atol=1e-5)


@torch.no_grad()
def test_the_average_follows_the_weights():
    net = nn.Linear(1, 1, bias=False)
    averaged = Averaged(net).train()
    values = [1.0, 3.0, -2.0]
    for value in values:
        net.weight.fill_(value)
        averaged(torch.ones(1, 1))
    expected = values[0]
    for value in values[1:]:
        expected = EMA_DECAY * expected + (1 - EMA_DECAY) * value
    assert averaged.eval()(torch.ones(1, 1)).item() == pytest.approx(expected)
    assert averaged.train()(torch.ones(1, 1)).item() == -2.0


@torch.no_grad()
def test_a_flipped_network_treats_both_sides_alike():
    net = Flipped(build_model(CONFIG, NORMALISATION)).eval()
    one, other = net(grey()).logits_BHW, net(grey().flip(-1)).logits_BHW.flip(-1)
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, net.net(grey()).logits_BHW, atol=1e-3)


def test_an_unknown_variant_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--cohort", "phantom", "--only", "dropout"])
    assert stop.value.code == 2
    assert "batch_norm" in capsys.readouterr().err
