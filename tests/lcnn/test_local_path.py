"""The local path: what lies where in memory, what mixes with what, and that no pixel is lost."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lcnn.network.local_path import DRAFT, FOLD, ConvBlock3d, LocalPath, columns, planes
from lcnn.network.norms import NORMS, group_norm


def make(T=1, width=8, levels=2, norm="batch"):
    torch.manual_seed(0)
    path = LocalPath(2 * T + 1, width=width, levels=levels, window_size=4, heads=2, norm=NORMS[norm], prior=0.01)
    nn.init.normal_(path.attention.out.weight, std=0.1)  # zero at first, it lets nothing through
    return path


def channels_last(*shape):
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("stacks", "slices"), [(2, 3), (1, 5), (3, 1)])
def test_columns_and_planes_are_two_views_of_the_same_memory(stacks, slices):
    x = channels_last(stacks * slices, 5, 4, 6)
    tall = columns(x, slices)
    assert tall.shape == (stacks, 5, slices, 24)
    for b in range(stacks):
        for d in range(slices):
            assert torch.equal(tall[b, :, d].view(5, 4, 6), x[b * slices + d])
    back = planes(tall, x.shape)
    assert torch.equal(back, x)
    assert tall.data_ptr() == back.data_ptr() == x.data_ptr()
    for view in (tall, back):
        assert view.is_contiguous(memory_format=torch.channels_last)


def changed(block, x, place):
    """Places (n, h, w) of the output at which anything moves when one pixel of the input does."""
    moved = x.clone()
    moved[place[0], :, place[1], place[2]] += 1
    return {tuple(p) for p in ((block(moved) - block(x)).abs().amax(dim=1) > 1e-6).nonzero().tolist()}


def positive_block(slices, *, in_plane=1):
    """A block without normalisation whose every weight lets a change of the positive input through."""
    block = ConvBlock3d(4, 4, slices, lambda _: nn.Identity(), in_plane=in_plane)
    for parameter in block.parameters():
        nn.init.uniform_(parameter, 0.1, 0.2)
    return block


@pytest.mark.parametrize(("slice_", "reached"), [(0, (0, 1)), (1, (0, 1, 2)), (4, (3, 4))])
@torch.no_grad()
def test_the_depth_convolution_mixes_neighbouring_slices_of_a_pixel_and_nothing_else(slice_, reached):
    block = positive_block(5)
    block.plane = nn.Identity()
    x = channels_last(3 * 5, 4, 6, 7).abs()
    # Stacks lie one after the other: the first and last slices of the middle one have strangers beside them.
    assert changed(block, x, (5 + slice_, 2, 3)) == {(5 + d, 2, 3) for d in reached}


@torch.no_grad()
def test_in_plane_convolutions_stay_in_their_slice():
    x = channels_last(2 * 3, 4, 6, 7).abs()
    square = {(h, w) for h in (1, 2, 3) for w in (2, 3, 4)}
    assert changed(positive_block(3).plane, x, (4, 2, 3)) == {(4, h, w) for h, w in square}
    assert changed(positive_block(3), x, (4, 2, 3)) == {(n, h, w) for n in (3, 4, 5) for h, w in square}
    assert len(changed(positive_block(3, in_plane=2).plane, x, (4, 2, 3))) == 5 * 5


@torch.no_grad()
def test_the_depth_convolution_is_the_plain_3d_one():
    block = ConvBlock3d(4, 6, 3, lambda _: nn.Identity(), in_plane=1)
    x = channels_last(2 * 3, 4, 5, 7)
    stacked = block.plane(x).unflatten(0, (2, 3)).transpose(1, 2)
    expected = F.relu(F.conv3d(stacked, block.depth[0].weight.unsqueeze(-1), padding=(1, 0, 0)))
    assert torch.allclose(block(x).unflatten(0, (2, 3)).transpose(1, 2), expected, atol=1e-5)


@pytest.mark.parametrize("T", [0, 1, 3])
@pytest.mark.parametrize("width", [4, 12])
@pytest.mark.parametrize("levels", [2, 3, 5])
@torch.no_grad()
def test_a_draft_has_the_size_of_the_stack(T, width, levels):
    path = make(T, width, levels)
    assert path.multiple == 2**levels
    high, wide = 2 * path.multiple, 3 * path.multiple
    draft = path(torch.randn(2, 2 * T + 1, high, wide))
    assert draft.shape == (2, DRAFT, high, wide)
    maps = path.encode(torch.randn(2, 2 * T + 1, high, wide))
    assert [tuple(m.shape) for m in maps] == [
        (2 * (2 * T + 1), width * 2**level, high // 2 ** (level + 1), wide // 2 ** (level + 1))
        for level in range(levels)
    ]


@pytest.mark.parametrize("side", [13, 14, 20])
def test_a_side_that_is_no_multiple_is_refused(side):
    path = make(levels=3).eval()
    with pytest.raises(ValueError, match="multiples of 8"):
        path(torch.randn(1, 3, side, side))


@torch.no_grad()
def test_folding_and_unfolding_lose_no_pixel():
    path = make().eval()
    taken, given = [], []
    path.encoder[0].register_forward_hook(lambda _, inputs, __: taken.append(inputs[0]))
    path.draft.register_forward_hook(lambda _, __, output: given.append(output))
    stack = torch.randn(2, 3, 16, 24)
    draft = path(stack)
    (folded,), (unfolded,) = taken, given
    assert folded.shape == (6, FOLD**2, 8, 12)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(F.pixel_shuffle(folded, FOLD).view_as(stack), stack)
    assert unfolded.shape == (2, DRAFT * FOLD**2, 8, 12)
    assert torch.equal(F.pixel_unshuffle(draft, FOLD), unfolded)


@pytest.mark.parametrize("T", [0, 1, 2])
def test_every_slice_of_the_stack_reaches_the_draft(T):
    stack = torch.randn(1, 2 * T + 1, 16, 16, requires_grad=True)
    make(T)(stack).square().sum().backward()
    assert (stack.grad.abs().sum(dim=(0, 2, 3)) > 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_stacks_are_independent_but_for_batch_normalisation_while_training(norm):
    path = make(norm=norm)
    for training in (True, False):
        stack = torch.randn(2, 3, 16, 16, requires_grad=True)
        path.train(training)(stack)[0].square().sum().backward()
        assert (stack.grad[1].abs().sum() > 0) == (norm == "batch" and training)


@torch.no_grad()
def test_the_outline_is_drawn_beside_the_pixels_of_the_centre_slice():
    path = make().eval()
    draft, centre = torch.randn(1, DRAFT, 20, 20), torch.randn(1, 1, 20, 20)
    before = path.draw(draft, centre)
    assert before.shape == (1, 1, 20, 20)
    for given, other in ((draft, centre), (centre, draft)):
        moved = given.clone()
        moved[..., 9, 7] += 5
        after = path.draw(*((moved, other) if given is draft else (other, moved)))
        rows, columns_ = ((after - before)[0, 0].abs() > 1e-6).nonzero().T
        # Two convolutions of 3x3: two pixels around, at the picture's own resolution.
        assert (rows.min(), rows.max(), columns_.min(), columns_.max()) == (7, 11, 5, 9)


@pytest.mark.parametrize("norm", NORMS)
@torch.no_grad()
def test_an_untrained_path_draws_the_prior(norm):
    path = make(norm=norm).eval()
    stack = torch.randn(2, 3, 32, 32)
    probability = torch.sigmoid(path.draw(path(stack), stack[:, 1:2]))
    assert 0.005 < probability.median() < 0.02


def test_every_weight_takes_part():
    path = make(levels=3)
    stack = torch.randn(2, 3, 32, 32)
    path.draw(path(stack), stack[:, 1:2]).square().mean().backward()
    assert [name for name, p in path.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (8, 2), (16, 4), (32, 8), (128, 8), (12, 2), (5, 1)])
def test_groups_have_at_least_four_channels(channels, groups):
    assert group_norm(channels).num_groups == groups
