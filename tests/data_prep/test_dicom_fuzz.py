"""Damaged DICOM series and segmentations: whatever is wrong, a volume or one line, never a traceback."""

import random

import numpy as np
import pytest
from depth import cases
from dicom_files import SIZE, open_dicom, write_enhanced, write_jpeg_lossless, write_series
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from data_prep.common.errors import InputError
from data_prep.sources.dicom.seg import Author, read_seg, write_seg

pytestmark = pytest.mark.deeper
CASES = cases(15, 90)
MASK_CASES = cases(60, 300)
MAKERS = {
    "plain": lambda folder: write_series(folder, count=8),
    "RLE": lambda folder: write_series(folder, count=8, syntax=RLELossless),
    "JPEG 2000": lambda folder: write_series(folder, count=8, syntax=JPEG2000Lossless),
    "JPEG-LS": lambda folder: write_series(folder, count=8, syntax=JPEGLSLossless),
    "JPEG Lossless": lambda folder: write_jpeg_lossless(folder, count=8),
    "multi-frame": lambda folder: write_enhanced(folder / "f0.dcm", count=8).parent,
}


def flip(content, chance):
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 3, 30))):
        damaged[chance.randrange(132, len(damaged))] = chance.randrange(256)
    return bytes(damaged)


def flip_in_header(content, chance):
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 5))):
        damaged[chance.randrange(132, min(1300, len(damaged)))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def cut(content, chance):
    return content[: chance.randrange(len(content))]


def swap(content, chance):
    first, second = sorted(chance.sample(range(132, len(content)), 2))
    return content[:first] + content[second:] + content[first:second]


def repeat(content, chance):
    start = chance.randrange(132, len(content))
    return content[:start] + content[start - 40 : start] * 3 + content[start:]


def drop_a_tag(file, chance):
    made = dcmread(file)
    del made[chance.choice([element.tag for element in made])]
    made.save_as(file)


def blank_a_tag(file, chance):
    made = dcmread(file)
    chance.choice([element for element in made if element.keyword != "PixelData"]).value = None
    made.save_as(file)


BYTES = (flip, flip_in_header, cut, swap, repeat)
TAGS = (drop_a_tag, blank_a_tag)


def do_damage(file, chance):
    """Damage a file; what it was before."""
    whole = file.read_bytes()
    damage = chance.choice((*BYTES, *TAGS))
    if damage in TAGS:
        damage(file, chance)
    else:
        file.write_bytes(damage(whole, chance))
    return whole


def attempt(read):
    """What ``read`` returns, or None where it refuses in one line."""
    message = ""
    try:
        return read()
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


def outcome(folder):
    scan = attempt(lambda: open_dicom(folder))
    if scan is None:
        return "refused"
    assert scan.volume.values_ZHW.ndim == 3
    assert np.isfinite(scan.volume.values_ZHW).all()
    assert scan.volume.values_ZHW.min() >= -1024
    return "read"


@pytest.mark.parametrize("kind", MAKERS)
def test_every_damage_gives_a_volume_or_one_line(kind, tmp_path):
    folder = MAKERS[kind](tmp_path / "series")
    chance = random.Random(kind)
    files = sorted(folder.iterdir())
    outcomes = []
    for _ in range(CASES):
        file = chance.choice(files)
        whole = do_damage(file, chance)
        outcomes.append(outcome(folder))
        file.write_bytes(whole)
    assert outcome(folder) == "read"
    assert outcomes.count("refused") > CASES / 4
    assert len(outcomes) == CASES


def test_every_damaged_segmentation_gives_a_mask_or_one_line(tmp_path):
    scan = open_dicom(write_series(tmp_path / "ct", count=8))
    mask_ZHW = np.zeros((8, *SIZE), dtype=bool)
    mask_ZHW[2:5, 10:20, 5:12] = True
    file = tmp_path / "seg.dcm"
    write_seg(file, scan, mask_ZHW, Author("a program", "1"))
    chance = random.Random("segmentation")
    refused = 0
    for _ in range(MASK_CASES):
        whole = do_damage(file, chance)
        got_ZHW = attempt(lambda: read_seg(file, scan))
        refused += got_ZHW is None
        assert got_ZHW is None or (got_ZHW.shape, got_ZHW.dtype) == (mask_ZHW.shape, np.uint8)
        file.write_bytes(whole)
    assert MASK_CASES / 4 < refused < MASK_CASES
    np.testing.assert_array_equal(read_seg(file, scan), mask_ZHW)
