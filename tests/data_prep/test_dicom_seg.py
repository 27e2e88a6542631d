"""DICOM segmentations, written by highdicom as viewers write them, in and out."""

import highdicom
import numpy as np
import pytest
from dicom_files import SIZE, edit, open_dicom, write_enhanced, write_series
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from refusals import refusal

from data_prep.sources.dicom.seg import Author, read_seg, write_seg
from data_prep.sources.dicom.studies import find_studies

AUTHOR = Author("LCNN", "1")
INFARCT = Code("55641003", "SCT", "Infarct")
HEMORRHAGE = Code("50960005", "SCT", "Hemorrhage")
BRAIN = Code("12738006", "SCT", "Brain")


@pytest.fixture
def scan(tmp_path):
    return open_dicom(write_series(tmp_path / "ct"))


@pytest.fixture
def mask_ZHW():
    mask_ZHW = np.zeros((12, *SIZE), dtype=bool)
    mask_ZHW[4:7, 10:20, 5:12] = True
    mask_ZHW[8, 30, 30] = True
    return mask_ZHW


def by_hand(scan, masks, meanings, path, kind=SegmentationTypeValues.BINARY):
    """A segmentation of several segments, as an annotator's program makes it; values (N, H, W, segments)."""
    files = [frame.file for frame in scan.stack.frames]
    described = [
        SegmentDescription(n, f"segment {n}", codes.SCT.MorphologicallyAbnormalStructure, meaning,
                           SegmentAlgorithmTypeValues.MANUAL)
        for n, meaning in enumerate(meanings, start=1)
    ]  # fmt: skip
    Segmentation(
        [dcmread(file) for file in files], masks, kind, described, highdicom.UID(), 7, highdicom.UID(), 1, "maker",
        "model", "1", "2",
    ).save_as(path)  # fmt: skip
    return path


def test_a_mask_comes_back_as_it_was_written(scan, mask_ZHW, tmp_path):
    write_seg(tmp_path / "mask.dcm", scan, mask_ZHW, AUTHOR)
    np.testing.assert_array_equal(read_seg(tmp_path / "mask.dcm", scan), mask_ZHW)
    written = dcmread(tmp_path / "mask.dcm")
    source = dcmread(scan.stack.frames[0].file)
    assert written.StudyInstanceUID == source.StudyInstanceUID
    assert written.PatientID == source.PatientID
    assert written.FrameOfReferenceUID == source.FrameOfReferenceUID
    (series,) = written.ReferencedSeriesSequence
    referenced = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referenced <= {frame.instance for frame in scan.stack.frames}


def test_highdicom_reads_the_mask_on_the_right_instances(scan, mask_ZHW, tmp_path):
    write_seg(tmp_path / "mask.dcm", scan, mask_ZHW, AUTHOR)
    read = highdicom.seg.segread(tmp_path / "mask.dcm").get_pixels_by_source_instance(
        [frame.instance for frame in scan.stack.frames], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(read.astype(bool), mask_ZHW)


def test_an_empty_mask_is_a_file_too(scan, mask_ZHW, tmp_path):
    write_seg(tmp_path / "mask.dcm", scan, np.zeros_like(mask_ZHW), AUTHOR)
    assert not read_seg(tmp_path / "mask.dcm", scan).any()


@pytest.mark.parametrize("parts", [[range(12)], [range(5), range(5, 12)]], ids=["one file", "two files"])
def test_a_multi_frame_series_has_its_mask_too(parts, mask_ZHW, tmp_path):
    for number, only in enumerate(parts):
        write_enhanced(tmp_path / "ct" / f"{number}.dcm", only=only, number=number)
    scan = open_dicom(tmp_path / "ct")
    write_seg(tmp_path / "mask.dcm", scan, mask_ZHW, AUTHOR)
    np.testing.assert_array_equal(read_seg(tmp_path / "mask.dcm", scan), mask_ZHW)
    made = dcmread(tmp_path / "mask.dcm")
    sources = [
        group.DerivationImageSequence[0].SourceImageSequence[0] for group in made.PerFrameFunctionalGroupsSequence
    ]
    drawn_on = {(frame.instance, frame.number + 1) for frame in np.array(scan.stack.frames)[[4, 5, 6, 8]]}
    assert {(item.ReferencedSOPInstanceUID, item.ReferencedFrameNumber) for item in sources} == drawn_on
    (series,) = made.ReferencedSeriesSequence
    referenced = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referenced == {frame.instance for frame in scan.stack.frames}


def test_a_tilted_series_has_its_mask_on_its_own_pictures(tmp_path):
    scan = open_dicom(write_series(tmp_path / "ct", count=16, tilt_deg=15))
    mask_ZHW = np.zeros(scan.volume.values_ZHW.shape, dtype=bool)
    mask_ZHW[4:8, 14:24, 8:20] = True
    write_seg(tmp_path / "mask.dcm", scan, mask_ZHW, AUTHOR)
    assert tuple(dcmread(tmp_path / "mask.dcm").pixel_array.shape[1:]) == SIZE
    back_ZHW = read_seg(tmp_path / "mask.dcm", scan)
    assert 2 * (back_ZHW & mask_ZHW).sum() / (back_ZHW.sum() + mask_ZHW.sum()) > 0.9


def test_the_lesion_is_chosen_among_segments(scan, mask_ZHW, tmp_path):
    masks = np.stack([~mask_ZHW, mask_ZHW], axis=-1).astype(np.uint8)
    file = by_hand(scan, masks, [BRAIN, INFARCT], tmp_path / "mask.dcm")
    np.testing.assert_array_equal(read_seg(file, scan), mask_ZHW)
    np.testing.assert_array_equal(read_seg(file, scan, [1]), ~mask_ZHW)
    assert read_seg(file, scan, [1, 2]).all()
    assert "no segment 3; there are 1: Brain; 2: Infarct" in refusal(lambda: read_seg(file, scan, [3]))


def test_several_lesions_are_asked_for(scan, mask_ZHW, tmp_path):
    masks = np.stack([~mask_ZHW, mask_ZHW], axis=-1).astype(np.uint8)
    file = by_hand(scan, masks, [HEMORRHAGE, INFARCT], tmp_path / "mask.dcm")
    assert "is not clear; name it by number: 1:" in refusal(lambda: read_seg(file, scan))


def test_shares_count_from_a_half(scan, mask_ZHW, tmp_path):
    shares = np.where(mask_ZHW, 0.6, 0.3).astype(np.float32)
    file = by_hand(scan, shares, [INFARCT], tmp_path / "mask.dcm", SegmentationTypeValues.FRACTIONAL)
    np.testing.assert_array_equal(read_seg(file, scan), mask_ZHW)


def test_without_references_the_place_tells_the_picture(scan, mask_ZHW, tmp_path):
    def forget(made):
        for group in made.PerFrameFunctionalGroupsSequence:
            del group.DerivationImageSequence

    write_seg(tmp_path / "mask.dcm", scan, mask_ZHW, AUTHOR)
    edit(tmp_path / "mask.dcm", forget)
    np.testing.assert_array_equal(read_seg(tmp_path / "mask.dcm", scan), mask_ZHW)


def test_a_mask_of_another_series_is_refused(scan, mask_ZHW, tmp_path):
    write_seg(tmp_path / "mask.dcm", scan, mask_ZHW, AUTHOR)
    other = open_dicom(write_series(tmp_path / "other", study=2))
    assert "drawn on another series" in refusal(lambda: read_seg(tmp_path / "mask.dcm", other))


def test_damaged_segmentations_are_refused(scan, mask_ZHW, tmp_path):
    write_seg(tmp_path / "mask.dcm", scan, mask_ZHW, AUTHOR)
    whole = (tmp_path / "mask.dcm").read_bytes()
    for stop in (0, 100, 400, len(whole) // 2, len(whole) - 100):
        (tmp_path / "mask.dcm").write_bytes(whole[:stop])
        assert "segmentation is damaged" in refusal(lambda: read_seg(tmp_path / "mask.dcm", scan))


def test_a_study_names_its_masks(scan, mask_ZHW, tmp_path):
    write_seg(tmp_path / "ct" / "mask.dcm", scan, mask_ZHW, AUTHOR)
    (study,) = find_studies(tmp_path).found
    assert study.masks == (tmp_path / "ct" / "mask.dcm",)
