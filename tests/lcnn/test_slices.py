"""Kept slices: small, near the lesion, the same when read again."""

import numpy as np
import pytest
from PIL import Image

from data_prep.common.errors import InputError
from lcnn.scoring.evaluate import Case, score_patient
from lcnn.scoring.slices import LARGEST_SIDE, keep_slices, read_slices_of, slices_near, write_slices


def make_case(shape=(10, 60, 48), at=4):
    rng = np.random.default_rng(0)
    image = rng.integers(60, 120, shape).astype(np.uint8)
    true, predicted = np.zeros((2, *shape), dtype=bool)
    true[at, 20:30, 20:30] = True
    predicted[at, 22:34, 22:30] = True
    return Case(score_patient("p 1", predicted, true, None), image, true, predicted)


def test_what_is_written_is_read_again(tmp_path):
    case = make_case()
    write_slices(tmp_path / "slices", case)
    found, kept = read_slices_of(tmp_path / "slices" / "p 1.png"), keep_slices(case)
    assert (found.patient, found.indices, found.slices) == ("p 1", tuple(range(10)), 10)
    assert np.array_equal(found.picture_NSS, kept.picture_NSS)
    assert np.array_equal(found.true_NSS, kept.true_NSS)
    assert np.array_equal(found.predicted_NSS, kept.predicted_NSS)
    assert [z for z in range(10) if found.true_NSS[z].any()] == [4]


def test_large_pictures_are_made_smaller():
    kept = keep_slices(make_case((3, 600, 500), at=1))
    assert kept.picture_NSS.shape == (3, LARGEST_SIDE, LARGEST_SIDE)
    assert kept.true_NSS[1].any()


@pytest.mark.parametrize(
    ("slices", "lesion", "most", "expected"),
    [
        (5, [], 9, [0, 1, 2, 3, 4]),
        (9, [], 3, [3, 4, 5]),
        (9, [7], 3, [6, 7, 8]),
        (9, [1, 6], 4, [0, 1, 2, 6]),
        (100, range(20, 80), 20, range(20, 80, 3)),
    ],
)
def test_the_slices_nearest_to_a_lesion_are_kept(slices, lesion, most, expected):
    volume = np.zeros((slices, 2, 2), dtype=bool)
    volume[list(lesion)] = True
    found = slices_near(volume, most)
    assert len(found) <= most
    assert found == sorted(found)
    if len(list(lesion)) <= most:
        assert found == list(expected)
    else:
        assert set(found) <= set(range(slices))
        assert sum(z in lesion for z in found) >= most - 1


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "p.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"p\.png: no kept slices"):
        read_slices_of(tmp_path / "p.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "q.png")
    with pytest.raises(InputError, match=r"q\.png: no kept slices"):
        read_slices_of(tmp_path / "q.png")
