"""Lesions counted and matched on masks small enough to see."""

import math

import numpy as np
import pytest

from lcnn.scoring.lesions import LesionCounts, count_lesions


def volume(*slices):
    """A mask from pictures: one string a slice, rows parted by blanks, # for lesion."""
    return np.array([[[letter == "#" for letter in row] for row in picture.split()] for picture in slices])


TWO = volume("##.. .... ...#", ".... .... ...#")
NOTHING = np.zeros_like(TWO)
EVERYTHING = ~NOTHING


@pytest.mark.parametrize(
    ("predicted", "true", "counts", "f1"),
    [
        (TWO, TWO, LesionCounts(2, 2, 2, 0), 1.0),
        (~TWO, TWO, LesionCounts(2, 1, 0, 1), 0.0),
        (NOTHING, TWO, LesionCounts(2, 0, 0, 0), 0.0),
        (TWO, NOTHING, LesionCounts(0, 2, 0, 2), math.nan),
        (NOTHING, NOTHING, LesionCounts(0, 0, 0, 0), math.nan),
        # One voxel of the first is enough to find it; the second is missed: 2 / (2 + 1).
        (volume("#... .... ....", ".... .... ...."), TWO, LesionCounts(2, 1, 1, 0), 2 / 3),
        # One region over both finds both and is no false one.
        (EVERYTHING, TWO, LesionCounts(2, 1, 2, 0), 1.0),
        # One found, one missed, one false: 2 / (2 + 1 + 1).
        (volume(".#.. .... #...", ".... .... ...."), TWO, LesionCounts(2, 2, 1, 1), 1 / 2),
    ],
    ids=["perfect", "inverted", "missed", "false alarm", "rightly empty", "one voxel", "one over both", "one of each"],
)
def test_lesions_by_hand(predicted, true, counts, f1):
    found = count_lesions(predicted, true)
    assert found == counts
    assert found.f1 == pytest.approx(f1, nan_ok=True)


@pytest.mark.parametrize(
    ("mask", "lesions"),
    [
        (volume("#... .... ....", ".#.. .... ...."), 1),  # over an edge of the next slice
        (volume("#... .... ....", ".... .#.. ...."), 1),  # over a corner of the next slice
        (volume("#... .#.. ....", ".... .... ...."), 1),  # over a corner in the slice
        (volume("#.#. .... #..."), 3),
        (volume("#...", "....", "#..."), 2),  # a slice between
    ],
)
def test_regions_are_connected_over_faces_edges_and_corners(mask, lesions):
    assert count_lesions(mask, mask) == LesionCounts(lesions, lesions, lesions, 0)
