"""DICOM segmentations: an annotator's lesion on a series' pictures, and a predicted one written for viewers.

Which picture a frame of a segmentation belongs to is given by the instance that it refers to, or else by its place in
the same frame of reference. A segmentation on pixels of its own is refused: to resample it would move the lesion's
border without a word.

Legend: N pictures of a series in order, Z slices, H rows, W columns, canonical; F frames of a segmentation.
"""

import io
import re
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.uid import UID
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.utils import pixel_array
from pydicom.sr.codedict import codes

from data_prep.common.errors import InputError
from data_prep.common.files import replacing
from data_prep.sources.dicom.headers import Frame, refusing
from data_prep.sources.dicom.study import DicomScan
from data_prep.volumes.mask import labelled

LESION_WORDS = re.compile("lesion|infarct|stroke|isch|h(a)?emorrh|h(a)?ematoma|(o)?edema|core|penumbra", re.IGNORECASE)
SAME_PLACE_MM = 0.1
DAMAGED = "the segmentation is damaged or incomplete; export it again"
SERIES_NUMBER = 900
"""Of a written segmentation, after those that scanners give."""


@dataclass(frozen=True)
class Author:
    """Who made a mask."""

    name: str
    version: str


@dataclass(frozen=True)
class _Segment:
    number: int
    meaning: str
    """The coded type's words, which are of a dictionary: a free label may hold anything."""
    is_lesion: bool

    def __str__(self) -> str:
        return f"{self.number}: {self.meaning}"


def read_seg(
    file: Path, scan: DicomScan, segments: Sequence[int] | None = None, ignored: Collection[int] = ()
) -> NDArray[np.uint8]:
    """A segmentation of a scan's series as `Label`, (Z, H, W) in the grid of its volume.

    Args:
        file: a DICOM-SEG file.
        scan: the scan whose series was segmented.
        segments: numbers of the segments that are lesion; None takes the only one, or the only
            one that is named as one.
        ignored: numbers of those that are neither learnt nor scored; a file need not have them.

    Raises:
        InputError: damaged, of another series or on other pixels, or which segment is lesion is not clear.
    """
    with refusing(file, DAMAGED):
        dataset = dcmread(file)
        every = _segments(dataset)
        scored = [segment for segment in every if segment.number not in ignored]
        lesion = _choose(scored, segments, file) if scored or not every else frozenset()
        values_FHW = np.asarray(pixel_array(dataset))
        size = scan.stack.frames[0].size
        values_FHW = values_FHW.reshape(-1, *values_FHW.shape[-2:])
        if values_FHW.shape[1:] != size:
            height, width = values_FHW.shape[1:]
            raise InputError(
                f"{file}: {width}x{height} pixels, but {size[1]}x{size[0]} in its series; draw it on the series' grid"
            )

        def within(chosen: frozenset[int]) -> NDArray[np.bool_]:
            return scan.to_volume(_on_pictures(dataset, values_FHW, chosen, scan, file))

        return labelled(within(lesion), within(frozenset(ignored)) if ignored else None)


def _segments(dataset: Dataset) -> list[_Segment]:
    segments = []
    for item in dataset.SegmentSequence:
        types = item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
        meaning = str(types[0].get("CodeMeaning", "") or "no type")
        words = f"{meaning} {item.get('SegmentLabel', '')}"
        segments.append(_Segment(int(item.SegmentNumber), meaning, LESION_WORDS.search(words) is not None))
    return segments


def _choose(segments: Sequence[_Segment], wanted: Sequence[int] | None, file: Path) -> frozenset[int]:
    listed = "; ".join(map(str, segments))
    if wanted is not None:
        absent = set(wanted) - {segment.number for segment in segments}
        if absent or not wanted:
            raise InputError(f"{file}: no segment {min(absent, default=0)}; there are {listed}")
        return frozenset(wanted)
    lesions = segments if len(segments) == 1 else [segment for segment in segments if segment.is_lesion]
    if len(lesions) != 1:
        raise InputError(f"{file}: which segment is the lesion is not clear; name it by number: {listed}")
    return frozenset({lesions[0].number})


def _on_pictures(
    dataset: Dataset, values_FHW: NDArray[np.generic], chosen: frozenset[int], scan: DicomScan, file: Path
) -> NDArray[np.bool_]:
    """The chosen segments on the series' pictures, (N, H, W)."""
    frames = scan.stack.frames
    places = {(frame.instance, frame.number): n for n, frame in enumerate(frames)}
    is_map = dataset.SegmentationType == "LABELMAP"
    least = dataset.MaximumFractionalValue / 2 if dataset.SegmentationType == "FRACTIONAL" else 1
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    mask_NHW = np.zeros((len(frames), *frames[0].size), dtype=np.bool_)
    for group, values_HW in zip(dataset.PerFrameFunctionalGroupsSequence, values_FHW, strict=True):
        if is_map:
            marked_HW = np.isin(values_HW, list(chosen))
        elif _segment_of(group, shared) in chosen:
            marked_HW = np.asarray(values_HW) >= least
        else:
            continue
        n = places.get(_source(group), -1)
        n = n if n >= 0 else _same_place(group, shared, dataset, scan)
        if n < 0:
            raise InputError(f"{file}: drawn on another series than the one taken; keep that one alone")
        mask_NHW[n] |= marked_HW
    return mask_NHW


def _segment_of(group: Dataset, shared: Dataset) -> int:
    items = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
    return int(items[0].ReferencedSegmentNumber)


def _source(group: Dataset) -> tuple[str, int]:
    """Instance and frame that a segmentation's frame refers to; empty where it names none."""
    derivations = group.get("DerivationImageSequence") or [Dataset()]
    sources = derivations[0].get("SourceImageSequence") or [Dataset()]
    number = sources[0].get("ReferencedFrameNumber") or 1
    return str(sources[0].get("ReferencedSOPInstanceUID", "")), int(number) - 1


def _same_place(group: Dataset, shared: Dataset, dataset: Dataset, scan: DicomScan) -> int:
    """The picture on which a frame lies by its position; -1 where there is none."""
    places, planes = (
        group.get(name) or shared.get(name) for name in ("PlanePositionSequence", "PlaneOrientationSequence")
    )
    if not places or not planes or str(dataset.get("FrameOfReferenceUID", "")) != scan.world or not scan.world:
        return -1
    position = np.array(places[0].ImagePositionPatient, dtype=float)
    orientation = np.array(planes[0].ImageOrientationPatient, dtype=float)
    frames = scan.stack.frames
    apart_N = np.linalg.norm(np.array([frame.position_mm for frame in frames]) - position, axis=1)
    nearest = int(apart_N.argmin())
    turned = np.abs(orientation - frames[nearest].orientation).max()
    return nearest if apart_N[nearest] <= SAME_PLACE_MM and turned < 1e-2 else -1


def write_seg(path: Path, scan: DicomScan, mask_ZHW: NDArray[np.bool_], author: Author) -> None:
    """Write a lesion mask as a DICOM-SEG that refers to the scan's series.

    The file keeps the patient and the study of its series, for it belongs to them: it identifies the patient as the
    series does.

    Args:
        path: the file to write.
        scan: what was segmented.
        mask_ZHW: in the grid of its volume.
        author: who made it.

    Raises:
        InputError: the series lacks what a segmentation has to repeat of it.
    """
    frames = scan.stack.frames
    sources, mask_MHW = _sources(frames, scan.to_pictures(mask_ZHW))
    place = frames[0].file.parent
    with refusing(place, "the series lacks tags that a DICOM-SEG has to repeat; export it again, with all its tags"):
        buffer = io.BytesIO()
        is_multi_frame = "NumberOfFrames" in sources[0]
        made = _segmentation([_joined(sources)] if is_multi_frame else sources, mask_MHW, author)
        if is_multi_frame:
            _refer_to(made, sources)
        made.save_as(buffer)
    with replacing(path) as partial:
        partial.write_bytes(buffer.getvalue())


def _sources(frames: Sequence[Frame], mask_NHW: NDArray[np.bool_]) -> tuple[Sequence[Dataset], NDArray[np.uint8]]:
    """The series' files without pixels, and the mask in their order; of multi-frame files all frames have one."""
    files = list(dict.fromkeys(frame.file for frame in frames))
    with refusing(files[0], "cannot be read again"):
        datasets = [dcmread(file, stop_before_pixels=True) for file in files]
    if "NumberOfFrames" not in datasets[0]:
        return datasets, mask_NHW.astype(np.uint8)
    counts = [int(dataset.NumberOfFrames) for dataset in datasets]
    starts = dict(zip(files, np.cumsum([0, *counts[:-1]]), strict=True))
    mask_MHW = np.zeros((sum(counts), *mask_NHW.shape[1:]), np.uint8)
    for frame, mask_HW in zip(frames, mask_NHW, strict=True):
        mask_MHW[starts[frame.file] + frame.number] = mask_HW
    return datasets, mask_MHW


def _joined(files: Sequence[Dataset]) -> Dataset:
    """Multi-frame files of one series as if they were one, for highdicom takes one only."""
    joined = deepcopy(files[0])
    groups = [group for file in files for group in file.PerFrameFunctionalGroupsSequence]
    joined.PerFrameFunctionalGroupsSequence, joined.NumberOfFrames = groups, len(groups)
    return joined


def _refer_to(made: Segmentation, files: Sequence[Dataset]) -> None:
    """Let a segmentation of joined files refer to each of them by its own frames."""
    places = [(file, number) for file in files for number in range(1, int(file.NumberOfFrames) + 1)]
    for group in made.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", []):
            for source in derivation.SourceImageSequence:
                file, source.ReferencedFrameNumber = places[int(source.ReferencedFrameNumber) - 1]
                source.ReferencedSOPInstanceUID = file.SOPInstanceUID
    (series,) = made.ReferencedSeriesSequence
    (first,) = series.ReferencedInstanceSequence
    others = [deepcopy(first) for _ in files[1:]]
    for item, file in zip(others, files[1:], strict=True):
        item.ReferencedSOPInstanceUID = file.SOPInstanceUID
    series.ReferencedInstanceSequence = [first, *others]


def _segmentation(sources: Sequence[Dataset], mask_MHW: NDArray[np.uint8], author: Author) -> Segmentation:
    algorithm = AlgorithmIdentificationSequence(author.name, codes.DCM.ArtificialIntelligence, author.version)
    lesion = SegmentDescription(
        segment_number=1,
        segment_label="lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    return Segmentation(
        source_images=sources,
        pixel_array=mask_MHW,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[lesion],
        series_instance_uid=UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=author.name,
        manufacturer_model_name=author.name,
        software_versions=author.version,
        device_serial_number="0",
        series_description="lesion mask, research only",
        omit_empty_frames=bool(mask_MHW.any()),
    )
