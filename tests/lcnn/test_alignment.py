"""Alignment: what a pose means, that it is undone and redone, and that it can be learned.

Heads are drawn in closed form at any pose, without the code under test: a picture point (x, y), normalised
as in `lcnn.network.alignment`, belongs to the head's own point (u, v), whose midline is u = 0.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from lcnn.network.alignment import (
    POSE_SIDE,
    AlignmentNetwork,
    Pose,
    align,
    asymmetry,
    pose_view,
    soften_gradient,
    unalign,
)
from lcnn.network.model import build_model
from lcnn.network.stacks import channels
from lcnn.training.loss import dice_loss, symmetry_loss, weighted_cross_entropy


def coordinates(side):
    centres = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return x, y


def soft_ellipse(u, v, centre, radii, sharpness=25.0):
    distance = torch.sqrt(((u - centre[0]) / radii[0]) ** 2 + ((v - centre[1]) / radii[1]) ** 2)
    return torch.sigmoid((1 - distance) * sharpness * min(radii))


def draw_head(angle_deg=0.0, shift=0.0, *, side=96, lesion=False):
    """A left-right symmetric head, (1, 1, side, side) in 0..1, whose midline has the given pose.

    The midline goes through (shift, 0), and its upper end is turned to the right by a positive angle: the
    head's own right hand side is the direction (cos, sin), since y grows downward.
    """
    x, y = coordinates(side)
    a = math.radians(angle_deg)
    u = (x - shift) * math.cos(a) + y * math.sin(a)
    v = -(x - shift) * math.sin(a) + y * math.cos(a)
    head = 0.5 * soft_ellipse(u, v, (0, 0.05), (0.52, 0.68))
    head -= 0.3 * soft_ellipse(u, v, (-0.17, -0.1), (0.09, 0.2)) + 0.3 * soft_ellipse(u, v, (0.17, -0.1), (0.09, 0.2))
    head += 0.3 * soft_ellipse(u, v, (0, -0.45), (0.05, 0.12))  # only in the upper half: up and down differ
    if lesion:
        head -= 0.25 * soft_ellipse(u, v, (0.3, 0.2), (0.12, 0.12))
    return head[None, None]


def pose(angle_deg=0.0, shift=0.0):
    return Pose(torch.tensor([math.radians(angle_deg)]), torch.tensor([float(shift)]))


def share_left(unit_BDHW, pose):
    """The symmetry loss of a pose."""
    return symmetry_loss(asymmetry(unit_BDHW, pose), asymmetry(unit_BDHW, None))


POSES = [(12.0, 0.0), (-12.0, 0.0), (0.0, 0.2), (0.0, -0.2), (20.0, 0.15), (-9.0, 0.1)]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return AlignmentNetwork(3, max_angle_deg=25.0, max_shift=0.15)


def nudge(network, scale=0.05):
    """Move the zero-initialised head off zero, so that the pose depends on the picture."""
    torch.manual_seed(1)
    torch.nn.init.normal_(network.regressor[-1].weight, std=scale)
    return network


@pytest.mark.parametrize("side", [40, 96, 130])
def test_the_pose_is_zero_at_initialisation(network, side):
    found = network(torch.rand(2, 3, side, side))
    assert torch.equal(found.angle_rad_B, torch.zeros(2))
    assert torch.equal(found.shift_B, torch.zeros(2))


def test_the_pose_differs_by_stack_and_stays_within_its_bounds(network):
    nudge(network, scale=100.0)
    with torch.no_grad():
        found = network(torch.rand(8, 3, 64, 64))
    assert found.angle_rad_B.abs().max().item() == pytest.approx(math.radians(25))
    assert found.shift_B.abs().max().item() == pytest.approx(0.3)  # 0.15 of a picture that is 2 wide
    mild = nudge(network)(torch.rand(2, 3, 64, 64))
    assert mild.angle_rad_B[0] != mild.angle_rad_B[1]


@torch.no_grad()
def test_a_mirrored_picture_has_the_opposite_pose_and_a_symmetric_one_none(network):
    nudge(network)
    torch.nn.init.ones_(network.regressor[0].bias)
    head = draw_head(8.0, 0.1, lesion=True).expand(1, 3, -1, -1)
    found, mirrored = network(head), network(head.flip(-1))
    assert found.angle_rad_B.abs() > 1e-4
    for own, other in zip(found, mirrored, strict=True):
        assert torch.allclose(own, -other, atol=1e-6)
    for part in network(draw_head().expand(1, 3, -1, -1)):
        assert part.abs() < 1e-4


def test_the_pose_sees_every_picture(network):
    pictures = torch.rand(1, 3, 64, 64, requires_grad=True)
    found = nudge(network)(pictures)
    (found.angle_rad_B + found.shift_B).sum().backward()
    assert (pictures.grad.abs().sum(dim=(0, 2, 3)) > 0).all()


@pytest.mark.parametrize(("angle_deg", "shift"), POSES)
def test_align_brings_a_turned_and_shifted_head_upright(angle_deg, shift):
    upright = draw_head()
    turned = draw_head(angle_deg, shift)
    residual = (align(turned, pose(angle_deg, shift)) - upright).abs().mean()
    assert residual < 0.003
    assert residual < 0.1 * (turned - upright).abs().mean()
    assert residual < 0.1 * (align(turned, pose(-angle_deg, -shift)) - upright).abs().mean()


def test_a_positive_angle_has_the_upper_end_on_the_right():
    x, y = coordinates(64)
    along = (x - 0.5 * -y).abs() < 0.06  # a line through the centre that leans right at the top
    upright = align(along.float()[None, None], pose(math.degrees(math.atan(0.5))))[0, 0]
    assert upright[8:56, 30:34].mean() > 0.6
    assert upright[:, :24].max() == 0
    assert upright[:, 40:].max() == 0


@pytest.mark.parametrize(("angle_deg", "shift"), POSES)
def test_unalign_undoes_align(angle_deg, shift):
    x, y = coordinates(96)
    mask = soft_ellipse(x, y, (0.2, -0.15), (0.25, 0.3))[None, None]
    back = unalign(align(mask, pose(angle_deg, shift)), pose(angle_deg, shift))
    there, here = back > 0.5, mask > 0.5
    assert 2 * (there & here).sum() / (there.sum() + here.sum()) >= 0.99
    once = align(mask, pose(angle_deg, shift)) > 0.5
    assert 2 * (once & here).sum() / (once.sum() + here.sum()) < 0.9


def test_each_stack_has_its_own_pose_and_all_its_slices_share_it():
    poses = Pose(torch.tensor([0.0, 0.3]), torch.tensor([0.1, -0.1]))
    stack = draw_head(lesion=True).expand(2, 3, -1, -1)
    aligned = align(stack, poses)
    assert torch.equal(aligned[:, 0], aligned[:, 2])
    for i in range(2):
        alone = align(stack[i : i + 1], Pose(poses.angle_rad_B[i : i + 1], poses.shift_B[i : i + 1]))
        assert torch.allclose(aligned[i], alone[0], atol=1e-6)
    assert not torch.allclose(aligned[0], aligned[1], atol=0.1)


def test_what_comes_into_view_is_air_in_the_picture_and_the_border_value_in_a_map():
    ones = torch.ones(1, 1, 32, 32)
    assert align(ones, pose(shift=0.5))[..., -6:].max() == 0
    assert torch.equal(unalign(ones, pose(shift=0.5)), ones)


@pytest.mark.parametrize("warp", [align, unalign])
def test_warping_stays_in_float32_under_autocast(warp):
    picture = draw_head(side=512, lesion=True)
    expected = warp(picture, pose(11.0, 0.1))
    with torch.autocast("cpu", torch.bfloat16):
        exact = warp(picture, pose(11.0, 0.1))
        from_half = warp(picture.bfloat16(), Pose(*(part.bfloat16() for part in pose(11.0, 0.1))))
    assert torch.equal(exact, expected)
    assert from_half.dtype == torch.float32


def test_the_pose_and_its_loss_are_float32_under_autocast(network):
    picture = draw_head(9.0, lesion=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = nudge(network)(picture.expand(1, 3, -1, -1))
        rest, loss = asymmetry(picture, pose(9.0)), share_left(picture, pose(9.0))
    assert found.angle_rad_B.dtype == found.shift_B.dtype == torch.float32
    assert torch.equal(rest, asymmetry(picture, pose(9.0)))
    assert torch.equal(loss, share_left(picture, pose(9.0)))


@pytest.mark.parametrize("side", [48, 96, 120, 192])
@pytest.mark.parametrize(("angle_deg", "shift"), POSES)
def test_the_right_pose_has_the_lowest_symmetry_loss(angle_deg, shift, side):
    head = draw_head(angle_deg, shift, side=side)
    right = share_left(head, pose(angle_deg, shift))
    wrong = [(0, 0), (-angle_deg, -shift), (angle_deg + 4, shift), (angle_deg - 4, shift)]
    wrong += [(angle_deg, shift + 0.05), (angle_deg, shift - 0.05), (2 * angle_deg, 2 * shift)]
    assert right < 0.5 * min(share_left(head, pose(*other)) for other in wrong)


def test_a_symmetric_head_has_no_asymmetry_and_a_lesion_on_one_side_has():
    assert asymmetry(draw_head(), pose()) < 1e-5
    assert asymmetry(draw_head(lesion=True), pose()) > 0.005


def test_asymmetry_is_the_mean_difference_over_the_head():
    side, unit = POSE_SIDE, POSE_SIDE // 8
    head = torch.zeros(1, 1, side, side)
    head[..., 2 * unit : 7 * unit, unit : 7 * unit] = 0.5
    head[..., 2 * unit : 4 * unit, unit : 2 * unit] = 0.7
    # Of a head of 5 by 6 units, 2 units and their mirror images differ by 0.2.
    expected = pytest.approx(0.2 * 4 / 30, rel=1e-5)
    assert asymmetry(head, pose()).item() == expected
    surrounded = F.pad(head, [side // 2] * 4)
    assert asymmetry(surrounded, pose()).item() == expected


@pytest.mark.parametrize(("angle_deg", "shift"), POSES)
def test_the_symmetry_loss_is_the_share_of_the_asymmetry_that_is_left(angle_deg, shift):
    head = draw_head(angle_deg, shift, lesion=True)
    assert share_left(head, pose()).item() == pytest.approx(1, abs=1e-6)  # resampling in place rounds
    right = share_left(head, pose(angle_deg, shift))
    share = asymmetry(head, pose(angle_deg, shift)) / asymmetry(head, pose())
    assert right.item() == pytest.approx(share.item())
    assert right < 0.8
    assert share_left(0.5 * head, pose(angle_deg, shift)).item() == pytest.approx(right.item(), rel=0.2)


@pytest.mark.parametrize("measure", [asymmetry, share_left])
@pytest.mark.parametrize("direction", [-1, 1])
def test_moving_the_head_out_of_view_does_not_lower_the_loss(direction, measure):
    head = draw_head(lesion=True)
    start = measure(head, pose())
    for shift in (0.3, 0.6, 0.9, 1.2, 1.4, 1.5):
        assert measure(head, pose(shift=direction * shift)) > 3 * start


def test_a_head_wholly_out_of_view_does_not_lower_the_loss():
    assert share_left(draw_head(lesion=True), pose(shift=2.0)) >= share_left(draw_head(lesion=True), pose())


def test_a_stack_without_a_head_has_a_finite_loss():
    assert share_left(torch.zeros(2, 3, 48, 48), Pose(torch.zeros(2), torch.zeros(2))) == 0


def test_each_stack_has_the_asymmetry_that_it_has_alone():
    heads = [draw_head(9.0, lesion=True), torch.zeros(1, 1, 96, 96), draw_head(0.0, 0.2), draw_head(-5.0, 0.1)]
    poses = [pose(9.0), pose(3.0, 0.1), pose(), pose(0.0, 1.5)]  # the last one moves half the head out of view
    together = Pose(*(torch.cat(parts) for parts in zip(*poses, strict=True)))
    for given, alone in ((together, poses), (None, [None] * 4)):
        found = asymmetry(torch.cat(heads), given)
        expected = torch.cat([asymmetry(*each) for each in zip(heads, alone, strict=True)])
        assert torch.allclose(found, expected, rtol=1e-5)
        assert found[1] == 0
        assert (found[[0, 2, 3]] > 0).all()


def test_a_softened_pose_is_the_same_but_moves_less():
    angle, shift = torch.tensor([0.3], requires_grad=True), torch.tensor([-0.1], requires_grad=True)
    soft = soften_gradient(Pose(angle, shift), 0.25)
    assert torch.allclose(soft.angle_rad_B, angle)
    assert torch.allclose(soft.shift_B, shift)
    (2 * soft.angle_rad_B + 3 * soft.shift_B).sum().backward()
    assert angle.grad.item() == pytest.approx(0.5)
    assert shift.grad.item() == pytest.approx(0.75)


@pytest.mark.parametrize("side", [40, 96, 97, 250])
def test_the_pose_is_estimated_at_one_size(side):
    assert pose_view(torch.rand(2, 3, side, side)).shape == (2, 3, POSE_SIDE, POSE_SIDE)


def test_following_the_symmetry_loss_finds_the_pose():
    angle, shift = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([angle, shift], lr=0.01)
    head = draw_head(10.0, 0.12, lesion=True)
    for _ in range(60):
        optimizer.zero_grad()
        share_left(head, Pose(angle, shift)).backward()
        optimizer.step()
    assert math.degrees(angle.item()) == pytest.approx(10, abs=1)
    assert shift.item() == pytest.approx(0.12, abs=0.02)


def _alignment_gradients(model, term):
    grey = 255 * draw_head(8.0, 0.1, side=48, lesion=True).expand(1, channels(1), -1, -1)
    lesion = torch.zeros(1, 48, 48)
    lesion[:, 25:32, 30:36] = 1
    prediction = model(grey)
    terms = {
        "dice": lambda: dice_loss(prediction.logits_BHW, lesion),
        "cross-entropy": lambda: weighted_cross_entropy(prediction.logits_BHW, lesion, (0.1, 0.9)),
        "symmetry": lambda: symmetry_loss(prediction.asymmetry_B, prediction.untouched_B),
    }
    terms[term]().backward()
    return {name: p.grad.abs().sum().item() for name, p in model.alignment.named_parameters()}


@pytest.mark.parametrize("term", ["dice", "cross-entropy", "symmetry"])
def test_each_part_of_the_loss_reaches_the_alignment_network(make_config, normalisation, term):
    model = build_model(make_config(), normalisation)
    # The head's weights are zero at first and block the gradient of all that lies before it (dL/dx = W'dL/dy).
    # Only the head itself is reached then; its first step lifts it off zero, as the nudge does here.
    first = _alignment_gradients(model, term)
    assert first["regressor.2.weight"] > 0
    assert first["features.0.weight"] == 0
    model.zero_grad()
    nudge(model.alignment)
    # The head's bias has none by design: it would be a pose that is the same for every picture.
    reached = {name for name, gradient in _alignment_gradients(model, term).items() if gradient > 0}
    assert reached >= {name for name, _ in model.alignment.named_parameters()}
