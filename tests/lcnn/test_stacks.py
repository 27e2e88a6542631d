"""Stacks out of the store, and which of them an epoch shows."""

import numpy as np
import pytest
import torch

from lcnn.network.stacks import OVERVIEW, LesionAwareSampler, StackSource, channels, overview

NAMES = ("e", "a", "f")


def picture(store, patient, z):
    return store.images_NSS[store.patients[patient].start + z]


@pytest.mark.parametrize("T", [0, 1, 2, 7])
def test_a_stack_holds_the_neighbours_and_repeats_the_end_slices(store, T):
    source = StackSource(store, NAMES, T)
    slices = [(name, z) for name in NAMES for z in range(store.patients[name].slice_count)]
    assert len(source) == len(slices) == 6 + 5 + 3
    grey, lesion = source.batch(np.arange(len(source)))
    assert grey.shape == (14, OVERVIEW + 2 * T + 1, 32, 32) == (14, channels(T), 32, 32)
    assert lesion.shape == (14, 32, 32)
    assert grey.dtype == lesion.dtype == torch.uint8
    for position, (name, z) in enumerate(slices):
        last = store.patients[name].slice_count - 1
        wanted = [min(max(z + offset, 0), last) for offset in range(-T, T + 1)]
        expected = np.stack([picture(store, name, neighbour) for neighbour in wanted])
        assert np.array_equal(grey[position, OVERVIEW:].numpy(), expected)
        assert np.array_equal(lesion[position].numpy(), store.masks_NSS[store.patients[name].start + z])


def test_every_stack_comes_with_the_overview_of_its_own_patient(store):
    source = StackSource(store, NAMES, 1)
    grey, _ = source.batch(np.arange(14)[::-1].copy())
    for row, owner in zip(grey, source.owner[::-1], strict=True):
        entry = store.patients[NAMES[owner]]
        assert np.array_equal(row[:OVERVIEW].numpy(), overview(store.images_NSS[entry.start : entry.stop]))


def test_an_overview_is_the_mean_of_the_lower_middle_and_upper_part():
    levels = np.array([10, 20, 40, 50, 100, 203], dtype=np.uint8)
    image_ZSS = np.broadcast_to(levels[:, None, None], (6, 4, 4))
    assert overview(image_ZSS)[:, 0, 0].tolist() == [15, 45, 152]  # 151.5, rounded to the even number
    assert overview(image_ZSS).dtype == np.uint8


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 5])
def test_a_short_volume_has_an_overview_too(slices):
    image_ZSS = np.arange(slices, dtype=np.uint8)[:, None, None] * np.ones((1, 3, 3), dtype=np.uint8)
    parts = overview(image_ZSS)
    assert parts.shape == (OVERVIEW, 3, 3)
    assert parts[0].max() <= parts[1].max() <= parts[2].max() <= slices - 1


def test_positions_may_come_in_any_order_and_twice(store):
    source = StackSource(store, NAMES, 1)
    everything, _ = source.batch(np.arange(14))
    some, _ = source.batch(np.array([9, 0, 9]))
    assert torch.equal(some, everything[[9, 0, 9]])


def test_each_slice_has_its_owner_and_its_lesion_flag(store):
    source = StackSource(store, NAMES, 1)
    assert source.owner.tolist() == [0] * 6 + [1] * 5 + [2] * 3
    assert source.has_lesion().tolist() == [z in (2, 3, 4) for z in range(6)] + [z in (1, 2, 3) for z in range(5)] + [
        z == 1 for z in range(3)
    ]
    _, lesion = source.batch(np.arange(14))
    assert ((lesion > 127).flatten(1).any(dim=1).numpy() == source.has_lesion()).all()


@pytest.mark.parametrize("batch_size", [1, 4, 14, 100])
def test_in_order_shows_every_slice_once(store, batch_size):
    batches = list(StackSource(store, NAMES, 1).in_order(batch_size))
    assert np.concatenate(batches).tolist() == list(range(14))
    assert max(len(batch) for batch in batches) <= batch_size


def flags(lesion, empty):
    return np.random.default_rng(0).permutation(np.arange(lesion + empty) < lesion)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("stacks", [1, 8, 20, 100])
def test_the_share_of_lesion_stacks_is_exact(share, stacks):
    has_lesion = flags(10, 30)
    epoch = LesionAwareSampler(has_lesion, lesion_share=share, stacks=stacks).epoch(np.random.default_rng(0))
    assert len(epoch) == stacks
    assert has_lesion[epoch].sum() == round(share * stacks)


@pytest.mark.parametrize(
    ("lesion", "share", "stacks"), [(9, 0.75, 12), (10, 0.5, 20), (3, 0.3, 10), (7, 1.0, 7), (2, 0.75, 3)]
)
def test_the_natural_epoch_shows_every_lesion_slice_once(lesion, share, stacks):
    has_lesion = flags(lesion, 200)
    epoch = LesionAwareSampler(has_lesion, lesion_share=share, stacks=None).epoch(np.random.default_rng(0))
    assert len(epoch) == stacks
    assert sorted(epoch[has_lesion[epoch]]) == np.flatnonzero(has_lesion).tolist()
    assert len(set(epoch.tolist())) == stacks


@pytest.mark.parametrize("lesion", range(1, 40))
def test_the_natural_epoch_leaves_no_lesion_slice_out(lesion):
    has_lesion = flags(lesion, 200)
    epoch = LesionAwareSampler(has_lesion, lesion_share=0.75, stacks=None).epoch(np.random.default_rng(0))
    shown = epoch[has_lesion[epoch]]
    assert set(shown.tolist()) == set(np.flatnonzero(has_lesion).tolist())
    # Rounding to whole stacks may show one of them a second time, never more.
    assert len(shown) <= lesion + 1


def test_none_comes_a_third_time_before_all_came_twice():
    has_lesion = flags(4, 3)
    epoch = LesionAwareSampler(has_lesion, lesion_share=0.5, stacks=20).epoch(np.random.default_rng(0))
    times = np.bincount(epoch, minlength=7)
    assert set(times[has_lesion]) == {2, 3}
    assert set(times[~has_lesion]) == {3, 4}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("lesion", "empty"), [(0, 6), (6, 0)])
def test_data_of_one_kind_is_shown_as_it_is(lesion, empty, share):
    sampler = LesionAwareSampler(flags(lesion, empty), lesion_share=share, stacks=None)
    assert sorted(sampler.epoch(np.random.default_rng(0))) == list(range(6))
    more = LesionAwareSampler(flags(lesion, empty), lesion_share=share, stacks=9)
    assert len(more.epoch(np.random.default_rng(0))) == 9


def test_a_share_of_zero_shows_every_empty_slice_once():
    has_lesion = flags(3, 5)
    epoch = LesionAwareSampler(has_lesion, lesion_share=0.0, stacks=None).epoch(np.random.default_rng(0))
    assert sorted(epoch) == np.flatnonzero(~has_lesion).tolist()


def test_the_generator_alone_decides_the_epoch():
    sampler = LesionAwareSampler(flags(20, 60), lesion_share=0.5, stacks=None)
    first, again, other = (sampler.epoch(np.random.default_rng(seed)).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_lesion_and_empty_slices_are_mixed():
    has_lesion = flags(50, 200)
    epoch = LesionAwareSampler(has_lesion, lesion_share=0.5, stacks=100).epoch(np.random.default_rng(0))
    assert 15 < has_lesion[epoch][:50].sum() < 35
