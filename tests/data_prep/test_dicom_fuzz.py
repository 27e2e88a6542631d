"""Damaged DICOM series: whatever is wrong, a volume or one line, never a traceback."""

import random

import numpy as np
import pytest
from dicom_files import write_enhanced, write_series
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from data_prep.errors import InputError
from data_prep.sources.dicom import open_dicom
from data_prep.volume import Volume

CASES = 110
MAKERS = {
    "plain": lambda folder: write_series(folder, count=8),
    "RLE": lambda folder: write_series(folder, count=8, syntax=RLELossless),
    "JPEG 2000": lambda folder: write_series(folder, count=8, syntax=JPEG2000Lossless),
    "JPEG-LS": lambda folder: write_series(folder, count=8, syntax=JPEGLSLossless),
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


def outcome(folder):
    message = ""
    try:
        volume = open_dicom(folder).volume
    except InputError as error:
        message = str(error)
    if message:
        assert len(message.splitlines()) == 1
        return "refused"
    assert isinstance(volume, Volume)
    assert volume.values_ZHW.ndim == 3
    assert np.isfinite(volume.values_ZHW).all()
    assert volume.values_ZHW.min() >= -1024
    return "read"


@pytest.mark.parametrize("kind", MAKERS)
def test_every_damage_gives_a_volume_or_one_line(kind, tmp_path):
    folder = MAKERS[kind](tmp_path / "series")
    chance = random.Random(kind)
    files = sorted(folder.iterdir())
    outcomes = []
    for _ in range(CASES):
        file = chance.choice(files)
        whole = file.read_bytes()
        damage = chance.choice((*BYTES, *TAGS))
        if damage in TAGS:
            damage(file, chance)
        else:
            file.write_bytes(damage(whole, chance))
        outcomes.append(outcome(folder))
        file.write_bytes(whole)
    assert outcome(folder) == "read"
    assert outcomes.count("refused") > CASES / 4
    assert len(outcomes) == CASES
