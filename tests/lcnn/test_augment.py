"""Augmentation: picture and mask move as one, and every setting does what it says."""

import math

import pytest
import torch

from lcnn.config import AugmentConfig
from lcnn.training.augment import augment, draw_affine

STILL = AugmentConfig(flip=0.0, rotation_deg=0.0, shift=0.0, scale=(1.0, 1.0))


def with_(**changes):
    return STILL.model_copy(update=changes)


def draw(config, count=2000, seed=0):
    return draw_affine(config, count, torch.Generator().manual_seed(seed))


def discs(count=6, side=48):
    """One disc a stack, (count, side, side), off the centre."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = ((row - 0.4 * side) ** 2 + (column - 0.6 * side) ** 2 < (0.15 * side) ** 2).float()
    return disc.expand(count, -1, -1).contiguous()


def noise(count=6, slices=3, side=48):
    return 255 * torch.rand(count, slices, side, side, generator=torch.Generator().manual_seed(3))


def test_every_change_keeps_shapes_whatever_is_combined():
    config = AugmentConfig(flip=0.5, rotation_deg=40.0, shift=0.2, scale=(0.7, 1.4))
    linear = draw(config)[:, :, :2]
    square = linear.transpose(1, 2) @ linear
    zoom = torch.linalg.det(linear).abs()
    assert torch.allclose(square, zoom[:, None, None] * torch.eye(2), atol=1e-5)


def test_shares_of_a_pixel_are_kept():
    shares = noise()[:, 0] / 255
    _, lesion = augment(noise(), shares, draw(STILL, 6))
    assert torch.allclose(lesion, shares, atol=1e-4)


@pytest.mark.parametrize("side", [48, 45])
def test_picture_and_mask_move_together(side):
    mask = discs(side=side)
    picture = (200 * mask).unsqueeze(1).expand(-1, 3, -1, -1)
    grey, lesion = augment(picture, mask, draw(AugmentConfig(), 6))
    assert not torch.allclose(lesion, mask, atol=0.5)
    for z in range(3):
        assert torch.allclose(grey[:, z] / 200, lesion, atol=1e-5)
        assert torch.equal(grey[:, z] > 100, lesion > 0.5)


def test_all_slices_of_a_stack_move_alike_and_stacks_move_apart():
    grey, lesion = augment(noise()[:1, :1].expand(6, 3, -1, -1), discs(), draw(AugmentConfig(), 6))
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert not torch.allclose(grey[0], grey[1], atol=1)
    assert not torch.allclose(lesion[0], lesion[1], atol=0.1)


@pytest.mark.parametrize("side", [48, 45])
def test_settings_of_no_change_are_the_identity(side):
    grey, lesion = augment(noise(side=side), discs(side=side), draw(STILL, 6))
    assert torch.allclose(grey, noise(side=side), atol=0.01)
    assert torch.allclose(lesion, discs(side=side), atol=1e-4)


@pytest.mark.parametrize("side", [48, 45])
def test_a_flip_alone_mirrors_left_and_right(side):
    grey, lesion = augment(noise(side=side), discs(side=side), draw(with_(flip=1.0), 6))
    assert torch.allclose(grey, noise(side=side).flip(-1), atol=0.01)
    assert torch.allclose(lesion, discs(side=side).flip(-1), atol=1e-4)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_come_with_their_probability(probability):
    mirrored = (draw(with_(flip=probability))[:, 0, 0] < 0).float().mean().item()
    assert mirrored == pytest.approx(probability, abs=0.03 if 0 < probability < 1 else 0)


def test_rotations_fill_their_range_to_both_sides():
    matrix = draw(with_(rotation_deg=30.0))
    degrees = torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]))
    assert degrees.min().item() == pytest.approx(-30, abs=0.5)
    assert degrees.max().item() == pytest.approx(30, abs=0.5)
    assert degrees.mean().item() == pytest.approx(0, abs=1.5)


def test_shifts_are_shares_of_the_side_along_both_axes():
    matrix = draw(with_(shift=0.25))
    for axis in range(2):
        moved = matrix[:, axis, 2] / 2  # the normalised picture is 2 wide
        assert moved.min().item() == pytest.approx(-0.25, abs=0.01)
        assert moved.max().item() == pytest.approx(0.25, abs=0.01)
    assert torch.corrcoef(matrix[:, :, 2].T)[0, 1].abs() < 0.1


@pytest.mark.parametrize(("scale", "growth"), [(1.5, 2.25), (0.5, 0.25)])
def test_scale_is_the_magnification(scale, growth):
    _, lesion = augment(noise(), discs(), draw(with_(scale=(scale, scale)), 6))
    assert lesion[0].sum().item() == pytest.approx(growth * discs()[0].sum().item(), rel=0.05)


def test_magnifications_fill_their_range():
    matrix = draw(with_(scale=(0.8, 1.5)))
    magnification = 1 / torch.linalg.det(matrix[:, :, :2]).abs().sqrt()
    assert magnification.min().item() == pytest.approx(0.8, abs=0.01)
    assert magnification.max().item() == pytest.approx(1.5, abs=0.01)


def test_rotation_keeps_shapes():
    _, lesion = augment(noise(), discs(), draw(with_(rotation_deg=40.0), 6))
    assert lesion.sum(dim=(1, 2)).tolist() == pytest.approx([discs()[0].sum().item()] * 6, rel=0.03)


def test_what_comes_into_view_is_air_without_lesion():
    matrix = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])[None]  # half a picture to the left
    grey, lesion = augment(torch.full((1, 3, 32, 32), 100.0), torch.ones(1, 32, 32), matrix)
    assert grey[..., 16:].max() == lesion[..., 16:].max() == 0
    assert grey[..., :16].min() == 100
    assert lesion[..., :16].min() == 1


@pytest.mark.parametrize(
    "changed", [{"flip": 0.9}, {"rotation_deg": 20.0}, {"shift": 0.2}, {"scale": (0.7, 1.1)}, {"scale": (0.9, 1.5)}]
)
def test_each_setting_changes_the_draw(changed):
    default = AugmentConfig()
    assert changed.keys() <= AugmentConfig.model_fields.keys()
    assert not torch.equal(draw(default, 20), draw(default.model_copy(update=changed), 20))


def test_the_seed_decides_the_draw():
    assert torch.equal(draw(AugmentConfig(), 5), draw(AugmentConfig(), 5))
    assert not torch.equal(draw(AugmentConfig(), 5), draw(AugmentConfig(), 5, seed=1))


def test_the_draw_is_made_on_the_cpu_and_leaves_other_chance_alone():
    state = torch.get_rng_state()
    assert draw(AugmentConfig(), 5).device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), state)


def test_a_change_is_applied_on_the_device_of_the_batch():
    # The meta device holds no data, but refuses to mix with the CPU as a GPU does.
    grey, lesion = augment(noise().to("meta"), discs().to("meta"), draw(AugmentConfig(), 6))
    assert grey.device.type == lesion.device.type == "meta"
    assert grey.shape == (6, 3, 48, 48)


def test_the_default_range_is_moderate():
    matrix = draw(AugmentConfig())
    assert torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 1, 1])).abs().max() < 10.1
    assert matrix[:, :, 2].abs().max() <= 0.2
    assert math.isclose((matrix[:, 0, 0] < 0).float().mean().item(), 0.5, abs_tol=0.05)
