"""Which way up a patient lies in the pictures, and which way the slices run.

Pictures: the lower half of a patient's slices, as two mean pictures of the head, is compared with the mean of the
others under four quarter turns. The majority of the cohort is taken to lie right. On the two cohorts that this was
tried on (60 real patients and 20 phantoms; each patient turned by half alone, and 20 times a random 30% of them), every
patient was recognised. The least margin was 0.016, and 3 of the 60 real patients were within `SURE_MARGIN`. A head is
nearly symmetric, so whether a patient is turned or mirrored front to back cannot be decided, nor left from right.

The majority itself is held against the couch and the head holder, which lie behind a head. They tell 57 of the 60 real
patients and 44 of 60 phantoms, all of them right, and say nothing of the others, whose pictures show too little of
them. Of the shape of the head alone, and of where its bone lies, no measure that was tried recognised all patients, so
pictures that end at the head are compared with each other only.

Order: the area of the head by slice is held against `AREA_PROFILE`, forward and backward. One of those 80 patients, of
whom few slices show the vertex, looked reversed, with a score of -0.06.

Legend: Z slices, H rows, W columns, K mean pictures of P x P pixels, N patients.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.preprocessing.framing import to_stored
from data_prep.preprocessing.head import head_box

SIDE = 32
"""Pixels; 64 gave the same answers, by the same margins."""
SLABS = (0.0, 0.25, 0.5)
"""Bounds of the mean pictures as shares of the slices, from the skull base: above them heads are round."""
LEAST_PATIENTS = 5
"""Below, no majority is clear."""
BESIDE = 0.55
"""Distance from the middle of the head's box, in its sides, from which a pixel is beside the head."""
COUCH_GREY, COUCH_LEAST = 4, 0.002
"""Grey value of a couch in a patient's mean picture, and the least of it, as a share of the box, that says anything."""
COUCH_SURE = 0.5
"""How far to one side it lies, at least, where it is believed."""
LIKELY_MARGIN, SURE_MARGIN = 0.01, 0.03
ROUNDS = 3
"""Each turns patients as the mean of the round before asks."""
AREA_PROFILE = np.array(
    [
        0.67,
        0.71,
        0.75,
        0.79,
        0.83,
        0.87,
        0.91,
        0.94,
        0.97,
        0.98,
        0.985,
        0.98,
        0.965,
        0.945,
        0.915,
        0.875,
        0.825,
        0.76,
        0.685,
        0.595,
        0.50,
        0.395,
        0.285,
        0.18,
    ]
)
"""Area of the head from the skull base to the vertex, as a share of its largest: the mean of both cohorts."""
LIKELY_REVERSED, SURE_REVERSED = -0.2, -0.5
LARGEST_WAY = 3.0
"""Changes of the area from slice to slice, summed, in units of the largest area. Slices in order had 2.3 at most, the
same slices shuffled 3.5 at least and 7 in the median."""
LEAST_SLICES = 8
"""Below, order and area say little."""


@dataclass(frozen=True)
class Turn:
    """How a patient lies against the others."""

    quarters: int
    """Anticlockwise quarter turns that bring the patient in line: 0 is upright, 2 upside down."""
    correlation: float
    """With the others' mean after these turns."""
    as_it_is: float
    """And without."""

    @property
    def margin(self) -> float:
        """By how much turning is better."""
        return self.correlation - self.as_it_is

    @property
    def is_sure(self) -> bool:
        """Whether the margin is beyond what any patient of the trial cohorts was wrong by."""
        return self.margin >= SURE_MARGIN


def mean_pictures(image_ZHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A patient's lower slices as (K, P, P) mean pictures, cropped to the head."""
    box = head_box(image_ZHW)
    count = len(image_ZHW)
    slabs = []
    for low, high in pairwise(SLABS):
        first = int(low * count)
        chosen_ZHW = image_ZHW[first : max(int(high * count), first + 1)]
        slabs.append(np.mean([to_stored(slice_HW, box, SIDE) for slice_HW in chosen_ZHW], axis=0, dtype=np.float32))
    return np.stack(slabs)


def couch_side(image_ZHW: NDArray[np.uint8]) -> float | None:
    """Where what lies beside the head lies: 1 is all of it behind (below), -1 all in front; None where there is little.

    A patient lies on the couch, so a figure below -`COUCH_SURE` says that the pictures are upside down.
    """
    top, left, side = head_box(image_ZHW)
    height, width = image_ZHW.shape[1:]
    row_H1 = np.arange(height)[:, None] - (top + side / 2)
    column_1W = np.arange(width)[None] - (left + side / 2)
    beside_HW = (np.hypot(row_H1, column_1W) > BESIDE * side) & (image_ZHW.mean(axis=0) >= COUCH_GREY)
    behind, before = int((beside_HW & (row_H1 > 0)).sum()), int((beside_HW & (row_H1 < 0)).sum())
    if behind + before < COUCH_LEAST * side**2:
        return None
    return (behind - before) / (behind + before)


def find_turns(pictures_NKPP: NDArray[np.float32]) -> list[Turn]:
    """How every patient lies against the mean of all others; all upright where there are too few to tell."""
    count = len(pictures_NKPP)
    if count < LEAST_PATIENTS:
        return [Turn(0, 1.0, 1.0)] * count
    vector_NF = _vectors(pictures_NKPP)
    shape = pictures_NKPP.shape[1:]
    # Turning is a permutation of pixels, so it is the means that are turned, and a copy of all patients is not needed.
    own_4N = np.stack([[float(v @ _turned(v, turn, shape)) for v in vector_NF] for turn in range(4)])
    everyone_N = np.arange(count)
    quarters_N = np.zeros(count, dtype=np.int64)
    for _ in range(ROUNDS):
        sums = [_turned(vector_NF[quarters_N == turn].sum(axis=0), turn, shape) for turn in range(4)]
        total_F = np.sum(sums, axis=0)
        with_all_4N = np.stack([vector_NF @ _turned(total_F, -turn, shape) for turn in range(4)])
        with_self_4N = np.stack([own_4N[(quarters_N - turn) % 4, everyone_N] for turn in range(4)])
        others_N = np.sqrt(np.maximum(total_F @ total_F - 2 * with_all_4N[quarters_N, everyone_N] + 1, 1e-6))
        correlation_4N = (with_all_4N - with_self_4N) / others_N
        quarters_N = correlation_4N.argmax(axis=0)
    common = int(np.bincount(quarters_N, minlength=4).argmax())
    quarters_N = (quarters_N - common) % 4
    correlation_4N = np.roll(correlation_4N, -common, axis=0)
    return [
        Turn(int(quarters), float(correlation_4N[quarters, patient]), float(correlation_4N[0, patient]))
        for patient, quarters in enumerate(quarters_N)
    ]


def _turned(vector_F: NDArray[np.float32], quarters: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The vector of the pictures after anticlockwise quarter turns."""
    return np.rot90(vector_F.reshape(shape), quarters, axes=(1, 2)).ravel()


def _vectors(pictures_NKPP: NDArray[np.float32]) -> NDArray[np.float32]:
    values_NF = pictures_NKPP.reshape(len(pictures_NKPP), -1)
    values_NF = values_NF - values_NF.mean(axis=1, keepdims=True)
    lengths_N1 = np.linalg.norm(values_NF, axis=1, keepdims=True)
    return values_NF / np.maximum(lengths_N1, np.finfo(np.float32).tiny)


def upward_score(area_Z: NDArray[np.float64]) -> float | None:
    """Correlation of the head's area with `AREA_PROFILE`, less that of the slices in reverse: -2..2, above 0 for slices
    that run from the skull base upward. None where there are too few slices, or all are alike."""
    if len(area_Z) < LEAST_SLICES or np.ptp(area_Z) == 0:
        return None
    places = np.linspace(0, len(area_Z) - 1, len(AREA_PROFILE))
    profile = np.interp(places, np.arange(len(area_Z)), area_Z)
    if np.ptp(profile) == 0:
        return None
    forward, backward = (np.corrcoef(AREA_PROFILE, values)[0, 1] for values in (profile, profile[::-1]))
    return float(forward - backward)


def is_shuffled(area_Z: NDArray[np.float64]) -> bool:
    """Whether the head's area jumps from slice to slice as it does in no order of a head."""
    largest = float(area_Z.max(initial=0))
    return len(area_Z) >= LEAST_SLICES and largest > 0 and float(np.abs(np.diff(area_Z)).sum()) > LARGEST_WAY * largest
