"""Symmetry attention against explicit loops, and the symmetries that it promises."""

import pytest
import torch

from lcnn.network.attention import SymmetryAttention


def make(channels=8, slices=3, window=4, heads=2, *, random_out=True):
    torch.manual_seed(0)
    attention = SymmetryAttention(channels, slices=slices, window_size=window, heads=heads)
    if random_out:
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.normal_(std=0.7)
    return attention.eval()


def window_starts(length, size):
    """First columns of the windows: as few as cover the map while lying symmetrically about its middle."""
    count = 1
    while count * size < length or (count * size - length) % 2:
        count += 1
    left = -(count * size - length) // 2
    return [left + i * size for i in range(count)]


def at_each_voxel(layer, x_BCDHW):
    return layer(x_BCDHW.movedim(1, -1)).movedim(-1, 1)


def by_loops(attention, x):
    """The definition, one query at a time: its own window and the mirror image's, over all slices."""
    batch, channels, depth, height, width = x.shape
    inner = channels // 2
    rows = attention.window_size
    columns = rows + 1 if rows % 2 == 0 and width % 2 == 1 else rows
    size = inner // attention.heads
    normed = attention.norm(x)
    query, key, value, mirror_value = at_each_voxel(attention.project, normed).chunk(4, dim=1)
    mirror_key = key.flip(-1) + attention.mirror_key.view(1, -1, 1, 1, 1)
    mirror_value = mirror_value.flip(-1)
    attended = torch.full((batch, inner, depth, height, width), float("nan"))
    for b in range(batch):
        for top in range(0, height, rows):
            for left in window_starts(width, columns):
                window = [
                    (d, h, w)
                    for d in range(depth)
                    for h in range(top, min(top + rows, height))
                    for w in range(max(left, 0), min(left + columns, width))
                ]
                for head in range(attention.heads):
                    part = slice(head * size, (head + 1) * size)
                    keys = [key[b, part, d, h, w] for d, h, w in window]
                    keys += [mirror_key[b, part, d, h, w] for d, h, w in window]
                    values = [value[b, part, d, h, w] for d, h, w in window]
                    values += [mirror_value[b, part, d, h, w] for d, h, w in window]
                    for d, h, w in window:
                        scores = torch.stack([query[b, part, d, h, w] @ k for k in keys]) / size**0.5
                        shares = scores.softmax(0)
                        attended[b, part, d, h, w] = (shares[:, None] * torch.stack(values)).sum(0)
    return x + at_each_voxel(attention.out, attended)


@pytest.mark.parametrize(
    ("height", "width", "window", "slices", "heads"),
    [
        (8, 8, 4, 1, 2),
        (4, 4, 4, 3, 4),
        (6, 10, 4, 1, 1),  # windows do not divide
        (7, 8, 4, 1, 2),  # odd height
        (8, 7, 4, 1, 2),  # odd width, even window
        (5, 9, 3, 1, 2),  # odd width, odd window that divides
        (5, 8, 3, 1, 2),  # even width, odd window
        (5, 7, 3, 3, 2),
        (3, 2, 5, 1, 1),  # a window larger than the map
        (2, 3, 8, 3, 1),
        (3, 5, 1, 1, 2),  # each pixel and its mirror image
    ],
)
@torch.no_grad()
def test_equals_a_loop_over_windows_and_queries(height, width, window, slices, heads):
    attention = make(slices=slices, window=window, heads=heads)
    x = torch.randn(2, 8, slices, height, width)
    expected = by_loops(attention, x)
    assert torch.allclose(attention(x), expected, atol=1e-4)
    assert (expected - x).abs().max() > 0.1


@pytest.mark.parametrize("window", [1, 3, 4, 8])
@pytest.mark.parametrize("width", [1, 6, 7, 8, 9, 12, 13])
@torch.no_grad()
def test_mirroring_the_input_mirrors_the_output(width, window):
    attention = make(slices=1, window=window)
    x = torch.randn(1, 8, 1, 6, width)
    assert torch.allclose(attention(x.flip(-1)), attention(x).flip(-1), atol=1e-4)


@torch.no_grad()
def test_a_pixel_sees_its_mirror_image_and_not_the_rest():
    attention = make(slices=1, window=4)
    attention.norm = torch.nn.Identity()  # it would spread a change over the whole map
    x = torch.randn(1, 8, 1, 8, 16)
    changed = x.clone()
    changed[..., 1, 2] += 3
    moved = ((attention(changed) - attention(x)).abs().amax(dim=(0, 1, 2)) > 1e-6).nonzero().tolist()
    own = [[h, w] for h in range(4) for w in range(4)]
    mirrored = [[h, w] for h in range(4) for w in range(12, 16)]
    assert moved == sorted(own + mirrored)


@torch.no_grad()
def test_every_slice_is_attended():
    attention = make(slices=3, window=4)
    attention.norm = torch.nn.Identity()
    x = torch.randn(1, 8, 3, 4, 4)
    for other in range(3):
        changed = x.clone()
        changed[:, :, other] += 1
        assert ((attention(changed) - attention(x)).abs().amax(dim=(0, 1, 3, 4)) > 1e-4).all()


@torch.no_grad()
def test_asymmetry_is_visible_even_where_keys_are_equal():
    # On a mirror-symmetric map own and mirrored keys coincide; only the mirror marks can tell them apart.
    attention = make(slices=1, window=4)
    half = torch.randn(1, 8, 1, 4, 4)
    symmetric = torch.cat([half, half.flip(-1)], dim=-1)
    before = attention(symmetric)
    attention.mirror_key.zero_()
    assert not torch.allclose(before, attention(symmetric), atol=1e-3)


def test_an_untrained_block_is_the_identity():
    x = torch.randn(2, 8, 3, 6, 7)
    assert torch.equal(make(random_out=False)(x), x)


def test_the_first_step_can_move_an_untrained_block():
    attention = make(random_out=False)
    attention(torch.randn(1, 8, 3, 4, 4)).square().sum().backward()
    assert attention.out.weight.grad.abs().max() > 0


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_another_number_of_slices_is_refused(depth):
    with pytest.raises(ValueError, match=f"built for 3 slices and got {depth}"):
        make(slices=3)(torch.randn(1, 8, depth, 4, 4))


@pytest.mark.parametrize(("channels", "heads"), [(8, 3), (12, 4), (8, 8), (5, 1)])
def test_heads_that_do_not_divide_the_channels_are_refused(channels, heads):
    with pytest.raises(ValueError, match=f"{heads} attention heads do not divide half of {channels} channels"):
        SymmetryAttention(channels, slices=1, window_size=4, heads=heads)
