"""The whole network: shapes, what influences what, the fusion, and what the builder refuses."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from data_prep.cohort.normalisation import Normalisation
from lcnn.config import TrainConfig
from lcnn.network.alignment import POSE_SIDE, Pose, align, unalign
from lcnn.network.model import build_model
from lcnn.network.stacks import OVERVIEW, channels


@pytest.fixture
def build(make_config, normalisation):
    def make(changes=None, seed=0):
        torch.manual_seed(seed)
        return build_model(make_config(changes), normalisation)

    return make


def grey(T=1, side=32, batch=2, seed=0):
    """Stacks behind their overviews."""
    generator = torch.Generator().manual_seed(seed)
    return 255 * torch.rand(batch, channels(T), side, side, generator=generator)


def centre(T=1):
    """Channel of the centre slice."""
    return OVERVIEW + T


def wake(*layers):
    """Lift layers off zero, which they are at first and let nothing through."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.1)


class FixedPose(nn.Module):
    """An alignment network that finds the same midline everywhere."""

    def __init__(self, angle_deg, shift):
        super().__init__()
        self.angle_deg, self.shift = angle_deg, shift

    def forward(self, unit_BDHW):
        return Pose(*(torch.full((len(unit_BDHW),), x) for x in (math.radians(self.angle_deg), self.shift)))


def turn(model, angle_deg=12.0, shift=0.1):
    """Fix the pose that the model works with."""
    model.alignment = FixedPose(angle_deg, shift)


@pytest.mark.parametrize("side", [32, 36, 45, 51])
@pytest.mark.parametrize("T", [0, 1, 2, 3])
@torch.no_grad()
def test_logits_have_the_size_of_the_picture(build, T, side):
    prediction = build({"T": T, "model.levels": 3})(grey(T, side))
    assert prediction.logits_BHW.shape == (2, side, side)
    assert prediction.logits_BHW.isfinite().all()
    assert prediction.asymmetry_B.shape == prediction.untouched_B.shape == (2,)
    assert prediction.pose.angle_rad_B.shape == prediction.pose.shift_B.shape == (2,)


@pytest.mark.parametrize("levels", [2, 4, 6])
@torch.no_grad()
def test_any_number_of_levels_fits_any_size(build, levels):
    model = build({"model.levels": levels})
    for side in (20, 39, 50):
        assert model(grey(side=side)).logits_BHW.shape == (2, side, side)


@pytest.mark.parametrize("given", [1, 3, channels(0), channels(1) - 1, channels(2)])
def test_stacks_of_another_size_are_refused(build, given):
    with pytest.raises(
        ValueError, match=f"3 pictures of an overview and 3 slices in 1 windows, and got {given} channels"
    ):
        build()(torch.zeros(1, given, 32, 32))


@pytest.mark.parametrize("T", [0, 1, 2, 3])
def test_every_slice_influences_the_logits_and_the_overview_does_not_but_by_the_pose(build, T):
    model = build({"T": T})
    stack = grey(T, side=48).requires_grad_()
    model(stack).logits_BHW.square().sum().backward()
    reached = stack.grad.abs().sum(dim=(0, 2, 3))
    assert (reached[OVERVIEW:] > 1e-6).all()
    assert (reached[:OVERVIEW] == 0).all()  # an untrained alignment network finds the same pose everywhere
    wake(model.alignment.regressor[-1])
    model(stack).logits_BHW.square().sum().backward()
    assert (stack.grad.abs().sum(dim=(0, 2, 3)) > 1e-6).all()


@pytest.mark.parametrize("T", [0, 1, 2])
def test_every_picture_of_the_overview_reaches_the_pose_and_no_slice_of_the_stack_does(build, T):
    model = build({"T": T})
    wake(model.alignment.regressor[-1])
    stack = grey(T).requires_grad_()
    sum(part.sum() for part in model(stack).pose).backward()
    reached = stack.grad.abs().sum(dim=(0, 2, 3))
    assert (reached[:OVERVIEW] > 0).all()
    assert (reached[OVERVIEW:] == 0).all()


@torch.no_grad()
def test_another_overview_is_another_pose_and_so_another_prediction(build):
    model = build().eval()
    wake(model.alignment.regressor[-1])
    stack, other = grey(), grey()
    other[:, :OVERVIEW] = grey(seed=1)[:, :OVERVIEW]
    one, another = model(stack), model(other)
    assert (one.pose.angle_rad_B != another.pose.angle_rad_B).all()
    assert not torch.equal(one.logits_BHW, another.logits_BHW)
    turn(model)
    assert torch.equal(model(stack).logits_BHW, model(other).logits_BHW)


@pytest.mark.parametrize("T", [0, 1, 2])
def test_every_weight_takes_part(build, T):
    model = build({"T": T, "model.levels": 3})
    wake(model.local.attention.out, model.alignment.regressor[-1])
    prediction = model(grey(T, side=48))
    (prediction.logits_BHW.square().mean() + prediction.asymmetry_B.sum()).backward()
    idle = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    # A constant pose is none of the alignment's business, so a bias of its head would cancel.
    assert idle == set()


def test_stacks_of_a_batch_do_not_influence_each_other(build):
    # Batch normalisation is what it says, but only while training.
    for model in (build(), build({"model.norm": "batch"}).eval()):
        _assert_independent(model)


def _assert_independent(model):
    wake(model.alignment.regressor[-1])
    stack = grey().requires_grad_()
    model(stack).logits_BHW[0].sum().backward()
    assert stack.grad[0].abs().sum() > 0
    assert stack.grad[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("share", "local_matters", "global_matters"), [(1.0, True, False), (0.0, False, True), (0.7, True, True)]
)
@torch.no_grad()
def test_the_fusion_share_decides_which_path_matters(build, share, local_matters, global_matters):
    model = build({"fusion.local": share})
    before = model(grey()).logits_BHW
    model.local.head.bias += 1
    assert (not torch.equal(model(grey()).logits_BHW, before)) == local_matters
    model.local.head.bias -= 1
    model.global_path.head.bias += 1
    assert (not torch.equal(model(grey()).logits_BHW, before)) == global_matters


@torch.no_grad()
def test_fused_logits_are_the_weighted_sum_of_the_paths(build):
    only_local, only_global = (build({"fusion.local": share})(grey()).logits_BHW for share in (1.0, 0.0))
    fused = build({"fusion.local": 0.3})(grey()).logits_BHW
    assert torch.allclose(fused, 0.3 * only_local + 0.7 * only_global, atol=1e-5)


@torch.no_grad()
def test_the_global_path_sees_the_centre_slice_alone(build):
    model = build({"fusion.local": 0.0})
    stack = grey()
    before = model(stack).logits_BHW
    stack[:, [c for c in range(channels(1)) if c != centre()]] = 0
    assert torch.equal(model(stack).logits_BHW, before)
    stack[:, centre()] = 0
    assert not torch.equal(model(stack).logits_BHW, before)


class CentreSlice(nn.Module):
    """A local path that gives its input back: logits are the normalised grey values of the centre slice."""

    def __init__(self, multiple):
        super().__init__()
        self.multiple = multiple

    def forward(self, x_BDHW):
        assert x_BDHW.shape[-1] % self.multiple == 0
        return x_BDHW[:, x_BDHW.shape[1] // 2].unsqueeze(1)

    def draw(self, draft_BCHW, centre_B1HW):
        assert draft_BCHW.shape == centre_B1HW.shape
        return draft_BCHW


@pytest.mark.parametrize(("multiple", "canvas"), [(1, 48), (16, 48), (20, 60)])
@torch.no_grad()
def test_logits_lie_in_the_space_of_the_picture_whatever_the_pose(build, multiple, canvas):
    model = build({"fusion.local": 1.0})
    model.local = CentreSlice(multiple)
    row, column = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    blob = 200 * torch.exp(-((row - 20) ** 2 + (column - 29) ** 2) / 60)
    stack = blob.expand(1, channels(1), -1, -1)
    still = model(stack).logits_BHW
    turn(model)
    moved, _, _, pose = model(stack)
    expected = unalign(model.normalise(align(stack, pose, canvas)), pose, 48)[:, centre()]
    assert torch.allclose(moved, expected, atol=1e-4)
    assert (moved - still).abs().max() < 0.1 * (still.max() - still.min())
    shifted = model.normalise(align(stack, pose))[:, centre()]
    assert (shifted - still).abs().max() > 0.3 * (still.max() - still.min())


@torch.no_grad()
def test_the_outline_is_drawn_beside_the_centre_slice_as_it_lies_in_the_picture(build, monkeypatch):
    model = build({"T": 2}).eval()
    turn(model)
    given = []
    draw = model.local.draw
    monkeypatch.setattr(model.local, "draw", lambda draft, slice_: (given.append(slice_), draw(draft, slice_))[1])
    stack = grey(2)
    model(stack)
    (drawn_beside,) = given
    assert torch.equal(drawn_beside, model.normalise(stack[:, centre(2)]).unsqueeze(1))


@torch.no_grad()
def test_the_symmetry_is_measured_at_the_pose_that_was_found(build):
    model = build()
    side = 4 * POSE_SIDE
    stack = torch.zeros(1, channels(1), side, side)
    stack[..., 20:100, side // 2 - 24 : side // 2 + 40] = 120  # the midline lies 8 pixels to the right of the centre
    before = model(stack)
    assert before.asymmetry_B > 0.05
    turn(model, angle_deg=0.0, shift=2 * 8 / side)
    after = model(stack)
    assert after.asymmetry_B < 0.01 * before.asymmetry_B
    assert torch.equal(after.untouched_B, before.untouched_B)


def test_the_symmetry_is_for_training_alone_and_what_was_untouched_teaches_nothing(build):
    model, stack = build(), grey()
    trained = model(stack)
    assert trained.asymmetry_B.requires_grad
    assert not trained.untouched_B.requires_grad
    assert (trained.untouched_B > 0).all()
    for part in (model.eval()(stack).asymmetry_B, model(stack).untouched_B):
        assert torch.equal(part, torch.zeros(2))


@pytest.mark.parametrize("T", [0, 2])
@torch.no_grad()
def test_an_untrained_network_predicts_the_prior(build, T):
    for model in (
        build({"T": T}),
        build({"T": T, "model.norm": "batch"}),
        build({"T": T, "model.norm": "batch"}).eval(),
    ):
        probability = torch.sigmoid(model(grey(T)).logits_BHW)
        assert 0.005 < probability.median() < 0.02
        assert probability.max() < 0.1


@torch.no_grad()
def test_the_normalisation_is_applied_and_saved_with_the_weights(build, make_config):
    model = build().eval()
    state = model.state_dict()
    assert (state["mean"], state["std"]) == (110, 30)
    assert torch.equal(model.normalise(torch.tensor([[80.0, 110.0, 170.0]])), torch.tensor([[-1.0, 0.0, 2.0]]))
    other = build_model(make_config(), Normalisation(mean=20.0, std=5.0)).eval()
    assert not torch.allclose(other(grey()).logits_BHW, model(grey()).logits_BHW)
    other.load_state_dict(state)
    assert torch.equal(other(grey()).logits_BHW, model(grey()).logits_BHW)


@pytest.mark.parametrize("share", [1.0, 0.0])
@torch.no_grad()
def test_the_normalisation_reaches_both_paths(build, share):
    model = build({"fusion.local": share}).eval()  # batch normalisation would undo a change of all pixels
    before = model(grey()).logits_BHW
    model.mean += 50
    assert not torch.allclose(model(grey()).logits_BHW, before, atol=1e-4)


@torch.no_grad()
def test_the_seed_decides_the_weights(build):
    assert torch.equal(build()(grey()).logits_BHW, build()(grey()).logits_BHW)
    assert not torch.equal(build()(grey()).logits_BHW, build(seed=1)(grey()).logits_BHW)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_gives_nearly_the_same_logits_in_float32(build, precision):
    model = build()
    turn(model)
    exact = model(grey())
    with torch.autocast("cpu", precision):
        half = model(grey())
    assert half.logits_BHW.dtype == torch.float32
    assert torch.allclose(half.logits_BHW, exact.logits_BHW, atol=0.1)
    assert half.asymmetry_B.tolist() == pytest.approx(exact.asymmetry_B.tolist(), rel=0.02)
    assert torch.equal(half.untouched_B, exact.untouched_B)


def test_heads_that_do_not_divide_are_refused_by_key(make_config):
    with pytest.raises(ValidationError, match=r"heads: 3 does not divide 4, half the channels of the deepest level"):
        make_config({"model.heads": 3})


@pytest.mark.parametrize("weights", ["imagenet", "/some/file.pth"])
def test_weights_for_the_small_backbone_are_refused_by_key(make_config, weights):
    with pytest.raises(ValidationError, match=r"weights: .* is for resnext50_32x4d; set none for resnext14_4x2d"):
        make_config({"model.weights": weights})


def test_weights_come_with_batch_normalisation(make_config):
    weights = {"model.global_backbone": "resnext50_32x4d", "model.weights": "imagenet"}
    with pytest.raises(ValidationError, match=r"weights: imagenet comes with batch normalisation; set norm: batch"):
        make_config(weights)
    assert make_config({**weights, "model.norm": "batch"}).model.weights == "imagenet"


@pytest.mark.parametrize(
    "loop", [{"train.batch_size": 1}, {"train.batch_size": 4, "train.accumulation": 4}, {"train.stacks_per_epoch": 1}]
)
def test_batch_normalisation_of_a_single_stack_is_refused(make_config, loop):
    with pytest.raises(ValidationError, match=r"model.norm: batch needs two stacks at once .*; set norm: group"):
        make_config({"model.norm": "batch", **loop})
    assert make_config(loop).model.norm == "group"


@torch.no_grad()
def test_the_default_configuration_builds_and_runs(normalisation):
    model = build_model(TrainConfig(), normalisation).eval()
    assert model(grey(side=64, batch=1)).logits_BHW.shape == (1, 64, 64)
