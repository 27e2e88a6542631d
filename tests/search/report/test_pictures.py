"""Pictures of the page: lesions of all patients first, as far as the room goes."""

import base64
import io

import numpy as np
import pytest
from evidence_cases import keep_pictures
from PIL import Image

from lcnn.scoring.slices import read_slices_of
from search.report.pictures import viewings


@pytest.fixture
def kept(tmp_path):
    folder = keep_pictures(tmp_path, "ab")
    return [read_slices_of(folder / f"{name}.png") for name in "ab"]


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L"))


def test_with_room_for_all_every_slice_is_there_and_masks_are_exact(kept):
    first, second = viewings(kept)
    assert (first.patient, second.patient, first.slices) == ("a", "b", 6)
    assert [picture.at for picture in first.pictures] == [1, 2, 3, 4, 5, 6]
    assert first.pictures[first.telling].at in (3, 4)
    for picture, true, predicted, grey in zip(
        first.pictures, kept[0].true_NSS, kept[0].predicted_NSS, kept[0].picture_NSS, strict=True
    ):
        bits = pixels(picture.mask) >> 6
        assert np.array_equal(bits & 1, true)
        assert np.array_equal(bits >> 1, predicted)
        assert (picture.true, picture.predicted) == (true.sum(), predicted.sum())
        assert np.abs(pixels(picture.picture).astype(int) - grey).mean() < 8  # lossy


def test_what_is_ignored_is_a_bit_of_its_own_and_counts_for_nothing(tmp_path):
    kept = read_slices_of(keep_pictures(tmp_path, "a", has_ignored=True) / "a.png")
    (viewing,) = viewings([kept])
    picture, ignored = viewing.pictures[2], kept.ignored_NSS[2]
    assert viewing.has_ignored
    assert np.array_equal(pixels(picture.mask) >> 5 & 1, ignored)
    assert np.array_equal(pixels(picture.mask) >> 6 & 1, kept.true_NSS[2])
    assert picture.predicted == (kept.predicted_NSS[2] & ~ignored).sum() < kept.predicted_NSS[2].sum()


def test_where_room_is_short_every_patients_lesion_comes_first(kept):
    every = viewings(kept)
    lesions = sum(
        picture.size for viewing in every for picture in viewing.pictures if picture.true or picture.predicted
    )
    found = viewings(kept, budget=lesions)
    assert [[picture.at for picture in viewing.pictures] for viewing in found] == [[3, 4, 5], [3, 4, 5]]
    largest = max(picture.size for viewing in every for picture in viewing.pictures)
    one_each = viewings(kept, budget=2 * largest)
    assert [len(viewing.pictures) for viewing in one_each] == [1, 1]


def test_a_patient_for_whom_there_is_no_room_is_left_out(kept):
    assert viewings(kept, budget=10) == []
    assert viewings([]) == []
