"""Micro-batches: predictions, losses and gradients are those of the whole batch, in less memory."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lcnn.config import LossConfig
from lcnn.network.alignment import Pose
from lcnn.network.model import LCNN, Prediction, build_model
from lcnn.network.stacks import channels
from lcnn.training.accumulation import forward, frozen_statistics
from lcnn.training.loss import lcnn_loss

LOSS = LossConfig(alignment=1.0)


@pytest.fixture
def model(make_config, normalisation):
    torch.manual_seed(0)
    model = build_model(make_config(), normalisation)
    for zeroed in (model.local.attention.out, model.alignment.regressor[-1]):
        nn.init.normal_(zeroed.weight, std=0.1)  # zero at first, it lets nothing through
    return model


def stacks(count=5, side=32, seed=0):
    """Heads of very different brightness, one picture of air alone, and lesions in some: no two parts are alike."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.zeros(count, channels(1), side, side)
    grey[:, :, 4:-4, 6:-8] = 255 * torch.rand(count, channels(1), side - 8, side - 14, generator=generator)
    grey *= torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    lesion = torch.zeros(count, side, side)
    lesion[::2, 8:14, 9:16] = 1
    return grey, lesion


def step(model, parts, dtype=torch.float32, count=5, side=32):
    """Prediction, loss and gradients of one step."""
    grey, lesion = stacks(count, side)
    model.zero_grad()
    prediction = forward(model, grey, dtype, parts)
    loss = lcnn_loss(prediction, lesion, LOSS)
    loss.total.backward()
    return prediction, loss, {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_close(gradients, expected, rel):
    """Each gradient, measured by the longest of all: some are zero but for rounding."""
    longest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= rel * (expected[name].norm() + 1e-3 * longest), name


@pytest.mark.parametrize("parts", [2, 3, 4, 5, 9])
def test_parts_have_the_prediction_loss_and_gradient_of_the_whole(model, parts):
    whole, loss, gradients = step(model, 1)
    cut, same_loss, same_gradients = step(model, parts)
    for before, after in zip(tree_leaves(whole), tree_leaves(cut), strict=True):
        assert after.shape == before.shape
        assert torch.allclose(after, before, rtol=1e-4, atol=1e-5)
    assert [part.item() for part in same_loss] == pytest.approx([part.item() for part in loss], rel=1e-5)
    assert_close(same_gradients, gradients, 1e-4)


def test_the_mean_of_the_parts_losses_would_be_another_loss(model):
    # What the test above would not notice if it were drawn so that the parts are alike.
    _, loss, _ = step(model, 1)
    grey, lesion = stacks()
    parts = [lcnn_loss(model(g), x, LOSS) for g, x in zip(grey.split(1), lesion.split(1), strict=True)]
    for name in ("dice", "cross_entropy", "alignment"):
        mean = torch.stack([getattr(part, name) for part in parts]).mean()
        assert abs(mean - getattr(loss, name)) > 0.02 * getattr(loss, name)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.bfloat16, 0.02), (torch.float16, 0.005)])
def test_half_precision_parts_have_the_gradient_of_the_whole_but_for_rounding(model, dtype, rel):
    _, loss, gradients = step(model, 1, dtype)
    _, same_loss, same_gradients = step(model, 3, dtype)
    assert same_loss.total.item() == pytest.approx(loss.total.item(), rel=rel)
    difference = sum((same_gradients[name] - gradients[name]).square().sum() for name in gradients).sqrt()
    assert difference < rel * sum(gradient.square().sum() for gradient in gradients.values()).sqrt()


@pytest.mark.parametrize(
    ("count", "parts", "sizes"), [(5, 1, [5]), (5, 2, [3, 2]), (5, 3, [2, 2, 1]), (4, 4, [1] * 4), (2, 3, [1, 1])]
)
def test_each_part_goes_forward_once_and_once_more_going_back(model, monkeypatch, count, parts, sizes):
    seen = []
    once = LCNN.forward
    monkeypatch.setattr(LCNN, "forward", lambda model, grey: (seen.append(len(grey)), once(model, grey))[1])
    step(model, parts, count=count)
    assert seen == (sizes if parts == 1 else sizes + sizes[::-1])


class PeakMemory(TorchDispatchMode):
    """Most bytes of tensors that were alive at once, of those made within."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = set(), 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                self._born(tensor.untyped_storage())
        return result

    def _born(self, storage):
        self.alive.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, key, size):
        self.alive.discard(key)
        self.now -= size


def test_parts_need_the_memory_of_one_of_them(model):
    step(model, 1, count=8)  # gradients' own memory is there from now on

    def peak(parts):
        with PeakMemory() as memory:
            step(model, parts, count=8, side=64)  # large enough for the weights to weigh little beside the maps
        return memory.peak

    whole, halves, quarters = (peak(parts) for parts in (1, 2, 4))
    assert halves < 0.65 * whole
    assert quarters < 0.65 * halves


class Layered(nn.Module):
    """One layer that says the logits of the centre slice."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.weight = layer, nn.Parameter(torch.tensor(2.0))

    def forward(self, grey_BCHW):
        logits = self.weight * self.layer(grey_BCHW / 255)[:, 1]
        nothing = torch.zeros(len(grey_BCHW))
        return Prediction(logits, nothing, nothing, Pose(nothing, nothing))


def test_a_network_without_alignment_can_be_cut_too():
    model = Layered(nn.Conv2d(channels(1), 3, 3, padding=1))
    _, _, gradients = step(model, 1)
    assert_close(step(model, 2)[2], gradients, 1e-4)


def test_chance_within_the_network_is_the_same_going_back():
    model = Layered(nn.Dropout(0.5))
    prediction = forward(model, stacks()[0], torch.float32, 2)
    prediction.logits_BHW.sum().backward()
    assert (2.0 * model.weight.grad).item() == pytest.approx(prediction.logits_BHW.sum().item(), rel=1e-5)


def test_running_statistics_move_once_a_micro_batch():
    cut, plain = (Layered(nn.BatchNorm2d(channels(1))) for _ in range(2))
    step(cut, 2)
    for part in stacks()[0].tensor_split(2):
        plain(part)
    assert cut.layer.num_batches_tracked == 2
    for before, after in zip(plain.buffers(), cut.buffers(), strict=True):
        assert torch.equal(before, after)
    assert cut.layer.momentum == plain.layer.momentum


@pytest.mark.parametrize("momentum", [0.1, None])
def test_frozen_statistics_stay_whatever_happens_within(momentum):
    layer = nn.BatchNorm2d(channels(1), momentum=momentum)
    model = nn.Sequential(layer, nn.BatchNorm2d(channels(1), track_running_stats=False))
    model(stacks()[0])
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    model.append(nn.Linear(1, 1))  # which the stacks do not fit
    with pytest.raises(RuntimeError, match="shapes"), frozen_statistics(model):
        model(stacks(seed=1)[0])
    assert layer.momentum == momentum
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
