"""Writes real DICOM series: a head that is a function of the place in the patient, seen by any scanner."""

import base64
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, JPEGLosslessSV1

from data_prep.sources.dicom.studies import find_studies
from data_prep.sources.dicom.study import DicomScan, open_files

SUPINE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SIZE = (40, 36)
SPACING_MM = (4.0, 5.0)
STEP_MM = 5.0
UIDS = "1.2.826.0.1.3680043.8.498."
IDENTIFYING = {
    "PatientName": "Marker^Name",
    "PatientID": "MARKER-ID",
    "PatientBirthDate": "19010203",
    "OtherPatientIDs": "MARKER-OTHER",
    "PatientAddress": "Marker Street",
    "PatientComments": "marker comment",
    "InstitutionName": "Marker Hospital",
    "InstitutionAddress": "Marker Town",
    "ReferringPhysicianName": "Marker^Referrer",
    "OperatorsName": "Marker^Operator",
    "PerformingPhysicianName": "Marker^Performer",
    "AccessionNumber": "MARKERACC",
    "StudyID": "MARKERSTUDY",
    "StudyDate": "19020304",
    "SeriesDate": "19020305",
    "AcquisitionDate": "19020306",
    "StudyDescription": "marker study",
    "SeriesDescription": "marker series",
    "ProtocolName": "marker protocol",
    "StationName": "MARKERSTATION",
    "DeviceSerialNumber": "MARKERSERIAL",
    "ImageComments": "marker image",
    "RequestedProcedureDescription": "marker request",
}
"""Every identifying tag of a CT file with a value that can be searched for."""

Head = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def head(x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
    """HU at places in mm (left, posterior, superior): a skull with brain, brighter to the left, front and top."""
    radius = np.sqrt((x / 62) ** 2 + (y / 70) ** 2 + ((z - 20) / 60) ** 2)
    brain = 35 + 0.1 * x - 0.08 * y + 0.15 * z
    return np.where(radius < 0.85, brain, np.where(radius < 1, 900.0, -1000.0))


def positions(count: int, *, orientation: Sequence[float], tilt_deg: float = 0.0, step_mm: float = STEP_MM):
    """Places of the first pixels of slices that the table carries head first past a gantry, and its orientation.

    The middle of the pictures runs along the patient's axis; a tilt turns the pictures about the left-right axis.
    """
    turn = math.radians(tilt_deg)
    rotation = np.array(
        [[1, 0, 0], [0, math.cos(turn), -math.sin(turn)], [0, math.sin(turn), math.cos(turn)]], dtype=float
    )
    row, column = rotation @ np.array(orientation[:3]), rotation @ np.array(orientation[3:])
    half = column * SPACING_MM[0] * (SIZE[0] - 1) / 2 + row * SPACING_MM[1] * (SIZE[1] - 1) / 2
    centres = [np.array([0.0, 0.0, -30.0 + step_mm * n]) for n in range(count)]
    return [centre - half for centre in centres], (*row, *column)


def pixels_at(position, orientation, *, size=SIZE, spacing_mm=SPACING_MM, of: Head = head) -> NDArray[np.float64]:
    """HU of one picture."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    r, c = np.mgrid[: size[0], : size[1]]
    places = (
        np.asarray(position)[:, None, None]
        + column[:, None, None] * r * spacing_mm[0]
        + row[:, None, None] * c * spacing_mm[1]
    )
    return of(*places)


def dataset(storage: UID, number: int, *, series: int = 1, study: int = 1, world: int = 1) -> Dataset:
    """A CT file without its picture; the numbers become parts of its UIDs."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = storage
    made.SOPInstanceUID = f"{UIDS}{study}.{series}.{number + 1}"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.SeriesInstanceUID = f"{UIDS}{study}.{series}"
    made.StudyInstanceUID = f"{UIDS}{study}"
    made.FrameOfReferenceUID = f"{UIDS}{study}.900.{world}"
    made.Modality = "CT"
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "A^B", f"id{study}", "", ""
    made.StudyDate = made.StudyTime = made.AccessionNumber = made.ReferringPhysicianName = made.StudyID = ""
    made.SeriesNumber, made.InstanceNumber = series, number + 1
    made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.BodyPartExamined = "HEAD"
    made.ConvolutionKernel = "H31s"
    made.SliceThickness = STEP_MM
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    return made


def write_series(
    folder: Path,
    *,
    count: int = 12,
    orientation: Sequence[float] = SUPINE,
    tilt_deg: float = 0.0,
    heights: Sequence[int] | None = None,
    syntax: UID | None = None,
    slope: float = 1.0,
    intercept: float = -1024.0,
    series: int = 1,
    study: int = 1,
    tags: dict[str, object] | None = None,
    change: Callable[[Dataset, int], None] | None = None,
    first: int = 0,
) -> Path:
    """A series of single-frame files, whose names and instance numbers say nothing of their order.

    Args:
        folder: where to write.
        count: pictures.
        orientation: ImageOrientationPatient without tilt.
        tilt_deg: of the gantry.
        heights: which of the places 5 mm apart are scanned; None for the first ``count``.
        syntax: compressed transfer syntax; None leaves the pixels as they are.
        slope: of stored values to HU.
        intercept: of stored values to HU.
        series: becomes its series number and UID.
        study: becomes its study UID and patient ID.
        tags: values for all files.
        change: a last change to a file, told its place in the series.
        first: number of its first instance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = list(heights) if heights is not None else list(range(count))
    places, turned = positions(max(chosen) + 1, orientation=orientation, tilt_deg=tilt_deg)
    names = np.random.default_rng(7).permutation(len(chosen))
    for n, height in enumerate(chosen):
        made = dataset(CTImageStorage, first + int(names[n]), series=series, study=study)
        made.ImagePositionPatient = [f"{value:.5f}" for value in places[height]]
        made.ImageOrientationPatient = [f"{value:.9f}" for value in turned]
        made.PixelSpacing = list(SPACING_MM)
        made.Rows, made.Columns = SIZE
        made.RescaleSlope, made.RescaleIntercept = slope, intercept
        stored = np.round((pixels_at(places[height], turned) - intercept) / slope).astype(np.int16)
        made.PixelData = stored.tobytes()
        for keyword, value in (tags or {}).items():
            setattr(made, keyword, value)
        if change:
            change(made, n)
        if syntax:
            made.compress(syntax, generate_instance_uid=False)
        made.save_as(folder / f"f{first + int(names[n])}.dcm", enforce_file_format=True)
    return folder


def write_enhanced(file: Path, *, count: int = 12, only: Sequence[int] | None = None, number: int = 0) -> Path:
    """The same series as one multi-frame file, its frames in no order; or ``only`` some, as part ``number`` of it."""
    places, turned = positions(count, orientation=SUPINE)
    order = [n for n in np.random.default_rng(3).permutation(count) if only is None or n in only]
    made = dataset(EnhancedCTImageStorage, number)
    made.AcquisitionContextSequence, made.ImageComments = [], ""
    made.NumberOfFrames = len(order)
    made.Rows, made.Columns = SIZE
    shared, measures, orientation, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = list(SPACING_MM), STEP_MM
    orientation.ImageOrientationPatient = list(turned)
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
    shared.PixelMeasuresSequence = Items([measures])
    shared.PlaneOrientationSequence = Items([orientation])
    shared.PixelValueTransformationSequence = Items([values])
    made.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for n in order:
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = [f"{value:.5f}" for value in places[n]]
        group.PlanePositionSequence = Items([place])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Items(groups)
    pictures = [np.round(pixels_at(places[n], turned) + 1024).astype(np.int16) for n in order]
    made.PixelData = np.stack(pictures).tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(file, enforce_file_format=True)
    return file


JPEG_LOSSLESS = (
    "/9j/wwALEAAQABABAREA/8QAGQABAQEBAQEAAAAAAAAAAAAABAAGCwkP/9oACAEBAAEAAPvgBVVVVV60rWta1rWta1rWvSrWta1rWta1rWvSrWta"
    "1rWta1rWvSrWtfasqrjQLWtelWta+0PVXHFWta9Kta19mKquPUta16Va1r7HtVcg9a1r0q1rX2GKq5Gi1rXpVrWta1rWta1rXpVrWta1rWta1rXp"
    "VrWta1rWta1rXpVrWta1rWta1rXpVrWta1rWta1rXpVrWta1rWta1rXpVrWta1rWta1rX//Z"
)
"""`lossless_hu` as JPEG Lossless (process 14, selection value 1) of 16 bits, as GDCM 3.0 wrote it through SimpleITK."""


def lossless_hu() -> NDArray[np.int16]:
    """The picture in `JPEG_LOSSLESS`."""
    r, c = np.mgrid[:16, :16]
    values = (37 * r + 11 * c - 700).astype(np.int16)
    values[4:9, 5:11] = 1200
    values[0] = -1024
    return values


def write_jpeg_lossless(folder: Path, *, count: int = 12) -> Path:
    """A series of which every picture is `JPEG_LOSSLESS`; no library that is needed otherwise writes this syntax."""

    def pack(made: Dataset, _: int) -> None:
        made.Rows = made.Columns = 16
        made.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        made.PixelData = encapsulate([base64.b64decode(JPEG_LOSSLESS)])
        made["PixelData"].is_undefined_length = True
        made["PixelData"].VR = "OB"
        made.RescaleIntercept = 0

    return write_series(folder, count=count, change=pack)


def open_dicom(folder: Path, series: int | None = None) -> DicomScan:
    """The head CT of a folder that holds one study."""
    return open_files([file for study in find_studies(folder).complete() for file in study.files], series)


def edit(file: Path, change: Callable[[Dataset], None]) -> None:
    """Change a file in place."""
    made = pydicom.dcmread(file)
    change(made)
    made.save_as(file)
