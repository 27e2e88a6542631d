"""Stacks of neighbouring slices out of the store, and which of them an epoch shows.

A stack comes with an overview of its patient's whole volume, for what one stack cannot show: how the head lies.

Legend: B stacks, C = OVERVIEW + D * K channels, D = 2T + 1 slices, K windows, Z slices of a patient, S side of the
stored picture.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.cohort.store import Store

OVERVIEW = 3
"""Pictures of an overview."""


def channels(half_width: int, windows: int = 1) -> int:
    """Channels of a stack with its overview, for slices on each side of the centre in so many windows."""
    return OVERVIEW + (2 * half_width + 1) * windows


def overview(image_ZSS: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean pictures (OVERVIEW, S, S) of the lower, middle and upper part of a patient's slices."""
    ends = np.linspace(0, len(image_ZSS), OVERVIEW + 1).round().astype(int)
    parts = [image_ZSS[min(start, len(image_ZSS) - 1) : max(stop, start + 1)] for start, stop in pairwise(ends)]
    return np.stack([part.mean(axis=0).round().astype(np.uint8) for part in parts])


def as_channels(stacks_BDKSS: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stacks (B, D * K, S, S), slice by slice all windows."""
    return stacks_BDKSS.reshape(len(stacks_BDKSS), -1, *stacks_BDKSS.shape[3:])


def neighbours(
    centres: NDArray[np.int64], half_width: int, first: NDArray[np.int64] | int, last: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """Indices (len(centres), 2T + 1) of each centre's stack; end slices are repeated, never crossed.

    Args:
        centres: indices of the centre slices.
        half_width: T.
        first: index of the first slice of each centre's patient.
        last: index of the last.
    """
    stacks = centres[:, None] + np.arange(-half_width, half_width + 1)
    return np.clip(stacks, np.reshape(first, (-1, 1)), np.reshape(last, (-1, 1)))


class StackSource:
    """Random access to the stacks of some patients.

    A stack at a patient's first or last slices repeats the end slice; it never reaches into a neighbour.

    Args:
        store: the compiled cohort.
        patients: whose slices.
        half_width: T, slices on each side of the centre.
    """

    def __init__(self, store: Store, patients: Sequence[str], half_width: int) -> None:
        self._store = store
        entries = [store.patients[name] for name in patients]
        centres = [np.arange(entry.start, entry.stop) for entry in entries]
        self.centres = np.concatenate(centres)
        """Index of every slice in the store, (slices,)."""
        self.owner = np.repeat(np.arange(len(entries)), [len(c) for c in centres])
        """Position in ``patients`` of each slice's patient, (slices,)."""
        first = np.array([entry.start for entry in entries])[self.owner]
        last = np.array([entry.stop - 1 for entry in entries])[self.owner]
        self._neighbours = neighbours(self.centres, half_width, first, last)
        self._entries = entries
        self._overviews: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.centres)

    def has_lesion(self) -> NDArray[np.bool_]:
        """Whether each slice's centre holds lesion at the stored size, (slices,)."""
        return self._store.lesion_N[self.centres]

    def batch(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Grey values (B, C, S, S) and lesion shares (B, S, S), both uint8 0..255, of slices by position.

        The channels are the overview's pictures, in the first window, then slice by slice all of its windows.
        """
        overviews = np.stack([self._overview(owner) for owner in self.owner[positions]])
        stacks = as_channels(self._store.windows_NKSS[self._neighbours[positions]])
        lesion = self._store.masks_NSS[self.centres[positions]]
        return torch.from_numpy(np.concatenate([overviews, stacks], axis=1)), torch.from_numpy(lesion)

    def ignored(self, positions: NDArray[np.int64]) -> Tensor | None:
        """Shares (B, S, S), uint8 0..255, of these slices' pixels that are ignored; None where the cohort has none."""
        if self._store.ignored_NSS is None:
            return None
        return torch.from_numpy(self._store.ignored_NSS[self.centres[positions]])

    def _overview(self, owner: int) -> NDArray[np.uint8]:
        """A patient's overview, made when it is first asked for."""
        if owner not in self._overviews:
            entry = self._entries[owner]
            self._overviews[owner] = overview(self._store.images_NSS[entry.start : entry.stop])
        return self._overviews[owner]

    def in_order(self, batch_size: int) -> Iterator[NDArray[np.int64]]:
        """Positions of all slices, in order, in batches."""
        for start in range(0, len(self), batch_size):
            yield np.arange(start, min(start + batch_size, len(self)))


class LesionAwareSampler:
    """Draws an epoch's stacks so that a fixed share of them holds lesion.

    Lesions are on few slices and few of their pixels; shuffled plainly, most steps see none and Dice stays
    at 0. Lesion slices are gone through without repeats before any comes twice; so are empty ones.

    Args:
        has_lesion: one entry a slice.
        lesion_share: share of the stacks that hold lesion, where the data has both kinds.
        stacks: stacks of an epoch, or None for as many as show every lesion slice once.
    """

    def __init__(self, has_lesion: NDArray[np.bool_], *, lesion_share: float, stacks: int | None) -> None:
        self._lesion = np.flatnonzero(has_lesion)
        self._empty = np.flatnonzero(~has_lesion)
        if not len(self._empty):
            lesion_share = 1.0
        elif not len(self._lesion):
            lesion_share = 0.0
        natural = math.ceil(len(self._lesion) / lesion_share) if lesion_share else len(self._empty)
        self.stacks = stacks or natural
        self._lesion_count = round(self.stacks * lesion_share)

    def epoch(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Positions of one epoch's stacks, shuffled, (stacks,)."""
        lesion = _draw(self._lesion, self._lesion_count, rng)
        empty = _draw(self._empty, self.stacks - self._lesion_count, rng)
        return rng.permutation(np.concatenate([lesion, empty]))


def _draw(pool: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` members of ``pool``, each used equally often to within one."""
    if count == 0:
        return pool[:0]
    rounds = math.ceil(count / len(pool))
    return np.concatenate([rng.permutation(pool) for _ in range(rounds)])[:count]
