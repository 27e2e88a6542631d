"""What the headers of DICOM files say of their pictures: where each lies, how its values become HU, how it was made.

Only the tags that are needed are read, so names, dates and institutions never come into memory. The identifiers that
join files (series, study, instance, patient) stay inside and are in no text: two of them are kept as hashes only.

Files are read twice: for its mark, which tells what a file belongs to, and, a study at a time, for all of its header.

World: DICOM's, in mm; left, posterior and superior are positive.
"""

import hashlib
import logging
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, uid
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from data_prep.cohort.layout import natural_key
from data_prep.common.errors import InputError
from data_prep.volumes.checks import LEAST_SIDE

SUFFIXES = (".dcm", ".dicom", ".ima")
"""Endings that promise DICOM: such a file without its mark is a fault, any other is passed over."""
CT_CLASSES = (uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage)
SEG_CLASSES = (uid.SegmentationStorage, uid.UID("1.2.840.10008.5.1.4.1.1.66.7"))
"""Segmentations of bits or shares, and label maps."""
SIDES_PX = (LEAST_SIDE, 4096)
SPACINGS_MM = (0.05, 5.0)
POSITION_LIMIT_MM = 1e5
OTHER_PARTS = re.compile("CHEST|THORAX|ABDOMEN|PELVIS|LUNG|HEART|LIVER|KIDNEY|KNEE|SHOULDER|[CTL]SPINE|EXTREMITY")
BONE_NAMES = re.compile(r"BONE|EDGE|LUNG|SHARP|^FC(3|5|8)\d|^Y[B-E]$|^[DEL]$")
NUMBERED_KERNEL = re.compile(r"^[BHJTU][A-Z]?(\d\d)")
FIRST_SHARP = 50
"""Siemens numbers kernels by sharpness: below this for soft tissue."""
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID",
    "SeriesNumber", "AcquisitionNumber", "ImageType", "BodyPartExamined", "ConvolutionKernel", "ContrastBolusAgent",
    "SliceThickness", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PixelRepresentation", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope",
    "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
MARK_TAGS: list[BaseTag | int] = [
    Tag("SOPClassUID"), Tag("SOPInstanceUID"), Tag("PatientID"), Tag("StudyInstanceUID"), Tag("SeriesInstanceUID"),
]  # fmt: skip
"""Tags are in ascending order, so what follows the last of these is left unread."""
DAMAGED = "the DICOM header is damaged; copy the file again from its source"
LIBRARY_FAULTS = (
    InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, TypeError, LookupError, AttributeError,
    ArithmeticError, AssertionError, MemoryError, NotImplementedError, RuntimeError, struct.error,
)  # fmt: skip
"""What pydicom and its decoders are known to raise on damaged files."""

Vector = tuple[float, float, float]


class Kernel(Enum):
    """What a reconstruction is made to show."""

    SOFT = "soft kernel"
    UNKNOWN = "unknown kernel"
    BONE = "bone kernel"


class ObjectKind(Enum):
    """What a file is to us."""

    CT = "CT"
    MASK = "segmentation"
    OTHER = "other"


@dataclass(frozen=True)
class AcquisitionInfo:
    """How a picture was made, as far as it decides which series is taken."""

    kernel: Kernel
    kernel_name: str = field(repr=False)
    has_contrast: bool
    acquisition: int | None
    thickness_mm: float | None
    is_localizer: bool
    is_other_part: bool
    """Another part of the body than the head, by the header's own word."""


@dataclass(frozen=True)
class Frame:
    """One picture of a file."""

    file: Path
    number: int
    """Its place in the file, from 0."""
    instance: str = field(repr=False)
    """SOPInstanceUID of the file, which segmentations refer to."""
    position_mm: Vector
    """Centre of the first pixel."""
    orientation: tuple[float, ...]
    """Direction cosines along a row, then down a column."""
    spacing_mm: tuple[float, float]
    """Distance between rows, between columns."""
    size: tuple[int, int]
    slope: float
    intercept: float
    padding: tuple[float, float] | None
    """Lowest and highest stored value that stand for no measurement."""
    acquisition: AcquisitionInfo


@dataclass(frozen=True)
class Mark:
    """What a DICOM file is, and of whom."""

    kind: ObjectKind
    study: str = field(repr=False)
    """Hash over patient and study."""
    person: str = field(repr=False)
    """Hash of the patient, or of the study where the file names no patient."""


@dataclass(frozen=True)
class Header:
    """One CT file."""

    file: Path
    series: str = field(repr=False)
    series_number: int
    world: str = field(repr=False)
    """Frame of reference."""
    frames: tuple[Frame, ...]
    fault: str | None
    """Why a CT file's pictures cannot be placed or scaled, as a whole line; it matters where its series is taken."""


@contextmanager
def refusing(file: Path, what: str) -> Iterator[None]:
    """Turn what DICOM libraries raise on a damaged file into one line.

    Their words and warnings are not quoted: they may hold values of the header, such as a name.

    Raises:
        InputError: the block failed.
    """
    logs = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except LIBRARY_FAULTS:
        raise InputError(f"{file}: {what}") from None
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def files_below(path: Path) -> Iterator[Path]:
    """All files of a folder and its folders, or the file itself; links to folders are not followed.

    A folder's own files come before those of its folders, each in natural order.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from error

    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path, onerror=refuse):
        folders.sort(key=natural_key)
        for name in sorted(names, key=natural_key):
            if not name.startswith("."):
                yield Path(folder, name)


def has_mark(file: Path) -> bool:
    """Whether a file begins as DICOM files do.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None


def read_mark(file: Path) -> Mark | None:
    """What a file is and of whom; None where it is an index of others, or not DICOM and does not claim to be.

    Raises:
        InputError: the file is damaged, or is named as DICOM and is none.
    """
    if not has_mark(file):
        if file.suffix.lower() in SUFFIXES or _is_blank(file):
            raise InputError(f"{file}: not a DICOM file, or cut off; copy it again from its source")
        return None
    with refusing(file, DAMAGED), file.open("rb") as stream:
        dataset = read_partial(stream, stop_when=_is_past_mark, specific_tags=MARK_TAGS)
        if dataset.file_meta.get("MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage:
            return None
        _check_whole(dataset, file)
        return Mark(_kind(dataset), _study(dataset), _hash(str(dataset.get("PatientID") or dataset.StudyInstanceUID)))


def read_header(file: Path) -> Header:
    """The header of a CT file.

    Raises:
        InputError: the file is damaged, or no CT.
    """
    if not has_mark(file):
        raise InputError(f"{file}: not a DICOM file, or cut off; copy it again from its source")
    with refusing(file, DAMAGED):
        dataset = dcmread(file, stop_before_pixels=True, specific_tags=list(TAGS))
        _check_whole(dataset, file)
        if _kind(dataset) is not ObjectKind.CT:
            raise InputError(f"{file}: holds no CT pictures; leave it out")
        return _header(dataset, file)


def _is_blank(file: Path) -> bool:
    """Whether a file without an ending, or named by a UID, as DICOM files often are, holds nothing: a failed copy."""
    if not re.fullmatch(r"(\.\d+)?", file.suffix):
        return False
    with refusing(file, "cannot be read; copy it again from its source"), file.open("rb") as stream:
        return not stream.read(132).strip(b"\0")


def _is_past_mark(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag > MARK_TAGS[-1]


def _check_whole(dataset: Dataset, file: Path) -> None:
    """A file without these was cut off, and a slice that is lost at the end of a series leaves no gap to be seen."""
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not dataset.get(keyword):
            raise InputError(f"{file}: no {keyword}, so it is cut off or damaged; copy the file again from its source")


def _header(dataset: Dataset, file: Path) -> Header:
    frames: tuple[Frame, ...] = ()
    fault = None
    try:
        with refusing(file, DAMAGED):
            frames = tuple(_frames(dataset, file))
    except InputError as error:
        fault = str(error)
    return Header(
        file=file,
        series=str(dataset.SeriesInstanceUID),
        series_number=_whole(dataset.get("SeriesNumber")) or 0,
        world=str(dataset.get("FrameOfReferenceUID") or ""),
        frames=frames,
        fault=fault,
    )


def _study(dataset: Dataset) -> str:
    return _hash(f"{dataset.get('PatientID') or ''}\0{dataset.StudyInstanceUID}")


def _kind(dataset: Dataset) -> ObjectKind:
    storage = dataset.get("SOPClassUID")
    if storage in CT_CLASSES:
        return ObjectKind.CT
    return ObjectKind.MASK if storage in SEG_CLASSES else ObjectKind.OTHER


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _whole(value: object) -> int | None:
    text = str(value).strip()
    return int(text) if re.fullmatch(r"-?\d{1,12}", text) else None


def _frames(dataset: Dataset, file: Path) -> Iterator[Frame]:
    size = _size(dataset, file)
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    count = _whole(dataset.get("NumberOfFrames")) or 1
    if count > 1 and len(groups) != count:
        raise InputError(f"{file}: {count} frames, but the places of {len(groups)}; export the series again")
    shared = [*(dataset.get("SharedFunctionalGroupsSequence") or [])][:1]
    for number in range(count):
        places = [*groups[number : number + 1], *shared]
        yield _frame(_Lookup(dataset, places, file), file, number, size)


@dataclass(frozen=True)
class _Lookup:
    """A tag's value for one frame: the frame's own, one that all frames share, or the file's."""

    dataset: Dataset
    places: list[Dataset]
    file: Path

    def get(self, group: str, keyword: str) -> object:
        for place in self.places:
            items = place.get(group)
            if items and keyword in items[0]:
                return items[0].get(keyword)
        return self.dataset.get(keyword)

    def numbers(self, group: str, keyword: str, count: int) -> tuple[float, ...]:
        value = self.get(group, keyword)
        if value in (None, ""):
            raise InputError(f"{self.file}: no {keyword}; export the series again, with all its tags")
        listed = value if isinstance(value, (list, tuple)) or hasattr(value, "__iter__") else [value]
        numbers = tuple(float(number) for number in listed)
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise InputError(f"{self.file}: {keyword} is not {count} number(s); export the series again")
        return numbers


def _size(dataset: Dataset, file: Path) -> tuple[int, int]:
    if dataset.get("SamplesPerPixel", 1) != 1 or dataset.get("PhotometricInterpretation") != "MONOCHROME2":
        raise InputError(f"{file}: colour or inverted pixels, which hold no HU; take the original CT series")
    sides = (_whole(dataset.get("Rows")) or 0, _whole(dataset.get("Columns")) or 0)
    if not all(SIDES_PX[0] <= side <= SIDES_PX[1] for side in sides):
        raise InputError(f"{file}: {sides[1]}x{sides[0]} pixels; {SIDES_PX[0]} to {SIDES_PX[1]} a side are taken")
    return sides


def _frame(lookup: _Lookup, file: Path, number: int, size: tuple[int, int]) -> Frame:
    x, y, z = lookup.numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    if max(abs(x), abs(y), abs(z)) > POSITION_LIMIT_MM:
        raise InputError(f"{file}: ImagePositionPatient lies {POSITION_LIMIT_MM / 1000:.0f} m away; export it again")
    rows_mm, columns_mm = lookup.numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if not all(SPACINGS_MM[0] <= spacing <= SPACINGS_MM[1] for spacing in (rows_mm, columns_mm)):
        raise InputError(f"{file}: PixelSpacing of {rows_mm:g} and {columns_mm:g} mm; export the series again")
    (slope,) = lookup.numbers("PixelValueTransformationSequence", "RescaleSlope", 1)
    (intercept,) = lookup.numbers("PixelValueTransformationSequence", "RescaleIntercept", 1)
    if slope <= 0:
        raise InputError(f"{file}: RescaleSlope {slope:g}, so no HU can be had; export the series again")
    return Frame(
        file=file,
        number=number,
        instance=str(lookup.dataset.SOPInstanceUID),
        position_mm=(x, y, z),
        orientation=_orientation(lookup, file),
        spacing_mm=(rows_mm, columns_mm),
        size=size,
        slope=slope,
        intercept=intercept,
        padding=_padding(lookup.dataset),
        acquisition=_making(lookup),
    )


def _orientation(lookup: _Lookup, file: Path) -> tuple[float, ...]:
    cosines = lookup.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > 0.01:
        raise InputError(f"{file}: ImageOrientationPatient holds no right angle; export the series again")
    return cosines


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = (value, limit if isinstance(limit, int) else value)
    return float(min(ends)), float(max(ends))


def _making(lookup: _Lookup) -> AcquisitionInfo:
    dataset = lookup.dataset
    name = str(lookup.get("CTReconstructionSequence", "ConvolutionKernel") or "").upper()
    thickness = lookup.get("PixelMeasuresSequence", "SliceThickness")
    image_type = str(lookup.get("CTImageFrameTypeSequence", "FrameType") or dataset.get("ImageType") or "").upper()
    return AcquisitionInfo(
        kernel=kernel_of(name),
        kernel_name=name,
        has_contrast=bool(dataset.get("ContrastBolusAgent")),
        acquisition=_whole(dataset.get("AcquisitionNumber")),
        thickness_mm=float(str(thickness)) if thickness not in (None, "") else None,
        is_localizer="LOCALIZER" in image_type,
        is_other_part=_is_other_part(str(dataset.get("BodyPartExamined") or "").upper().replace(" ", "")),
    )


def _is_other_part(part: str) -> bool:
    return "HEAD" not in part and OTHER_PARTS.search(part) is not None


def kernel_of(name: str) -> Kernel:
    """What a ConvolutionKernel is for, by the names that the large makers give; the first of several counts."""
    first = re.sub(r"[\[\]' ]", "", name.upper()).split(",")[0]
    if not first:
        return Kernel.UNKNOWN
    if BONE_NAMES.search(first):
        return Kernel.BONE
    numbered = NUMBERED_KERNEL.match(first)
    if numbered and int(numbered.group(1)) >= FIRST_SHARP:
        return Kernel.BONE
    return Kernel.SOFT
