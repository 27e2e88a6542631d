"""Damaged files: whatever was done to one, it is a volume or one line that names it."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from depth import cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scans import RAS, grey_slice, head_hu

from data_prep.common.errors import InputError
from data_prep.sources.formats.nifti import read_nifti
from data_prep.sources.formats.npz import read_npz
from data_prep.sources.formats.pictures import read_picture_files
from data_prep.volumes.volume import Volume

pytestmark = pytest.mark.deeper
CASES = cases(60, 350)
"""A format; four of them."""
quick = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Some bytes changed, cut off, put in or repeated; the beginning, where headers are, more often than the rest."""
    kind = draw(st.sampled_from(["set", "set", "word", "cut", "insert", "repeat"]))
    place = draw(st.one_of(st.integers(0, 400), st.integers(0, 2**20)))
    content = draw(st.binary(min_size=1, max_size=8))
    word = draw(st.sampled_from([0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800000]))

    def damage(whole: bytes) -> bytes:
        at = place % len(whole)
        match kind:
            case "set":
                return whole[:at] + content + whole[at + len(content) :]
            case "word":
                return whole[:at] + struct.pack("<I", word) + whole[at + 4 :]
            case "cut":
                return whole[:at]
            case "insert":
                return whole[:at] + content + whole[at:]
            case _:
                return whole[:at] + whole[at // 2 : at] + whole[at:]

    return damage


several = st.lists(damages(), min_size=1, max_size=4)


def check(path: Path, content: bytes, read: Callable[[Path], Volume]) -> None:
    path.write_bytes(content)
    try:
        volume = read(path)
    except InputError as error:
        message = str(error)
    else:
        assert volume.values_ZHW.ndim == 3
        assert np.isfinite(volume.values_ZHW).all()
        return
    assert len(message.splitlines()) == 1
    assert path.name in message


def damaged(whole: bytes, damage: list[Callable[[bytes], bytes]]) -> bytes:
    for step in damage:
        whole = step(whole) or b""
        if not whole:
            break
    return whole


def picture(mode: str, kind: str) -> bytes:
    stream = io.BytesIO()
    plain = Image.fromarray(grey_slice())
    (plain.convert("I").convert(mode) if mode == "I;16" else plain.convert(mode)).save(stream, format=kind)
    return stream.getvalue()


KINDS = [("L", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("I;16", "PNG"), ("L", "TIFF"), ("F", "TIFF"), ("RGB", "JPEG")]
PICTURES = [picture(mode, kind) for mode, kind in KINDS]


def volume_files() -> list[bytes]:
    """Of float and of scaled integers, in NIfTI-1 and NIfTI-2."""
    scaled = nibabel.Nifti2Image(head_hu().astype(np.int16), RAS)
    scaled.header.set_slope_inter(1.5, -10)
    return [nibabel.Nifti1Image(head_hu(), RAS).to_bytes(), scaled.to_bytes()]


VOLUMES = volume_files()


def archive(compression: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as writer:
        for name in ("image", "mask"):
            array = io.BytesIO()
            np.save(array, head_hu().transpose(2, 1, 0))
            writer.writestr(f"{name}.npy", array.getvalue())
    return stream.getvalue()


ARCHIVES = [archive(kind) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


@quick
@given(damage=several, which=st.integers(0, len(PICTURES) - 1))
def test_damaged_pictures(tmp_path: Path, damage: list[Callable[[bytes], bytes]], which: int) -> None:
    check(tmp_path / "1.png", damaged(PICTURES[which], damage), lambda path: read_picture_files([path], 1024))


@quick
@given(damage=several, which=st.integers(0, 1))
def test_damaged_volumes(tmp_path: Path, damage: list[Callable[[bytes], bytes]], which: int) -> None:
    check(tmp_path / "ct.nii", damaged(VOLUMES[which], damage), read_nifti)


@quick
@given(damage=several)
def test_damaged_compressed_volumes(tmp_path: Path, damage: list[Callable[[bytes], bytes]]) -> None:
    check(tmp_path / "ct.nii.gz", damaged(gzip.compress(VOLUMES[0], mtime=0), damage), read_nifti)


@quick
@given(damage=several, which=st.integers(0, 1))
def test_damaged_archives(tmp_path: Path, damage: list[Callable[[bytes], bytes]], which: int) -> None:
    check(tmp_path / "p.npz", damaged(ARCHIVES[which], damage), lambda path: read_npz([path]))
