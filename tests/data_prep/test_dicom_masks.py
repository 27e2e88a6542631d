"""NIfTI masks drawn on the pictures of a DICOM series: whose they are, and where they lie."""

import nibabel
import numpy as np
import pytest
from dicom_files import open_dicom, write_series
from PIL import Image
from refusals import refusal
from scans import save_nifti

from data_prep.__main__ import main
from data_prep.common.errors import InputError
from data_prep.sources.case import SourceFormat
from data_prep.sources.dicom.masks import find_nifti_masks, pair_masks, read_drawn_mask
from data_prep.sources.dicom.stack import picture_grids
from data_prep.sources.naming.tree import Patterns
from data_prep.sources.recognise import recognise

NO_PATTERNS = Patterns()
PAIRED = {
    "in the study's folder": (["p1", "p2"], "p2/lesion.nii.gz", 1),
    "beside the series' folder": (["p1/ct", "p2/ct/a"], "p2/infarct_seg.nii", 1),
    "in a folder of masks beside it": (["p1/ct", "p2/ct"], "p2/masks/infarct_seg.nii.gz", 1),
    "in a tree of its own, by name": (["dicom/p1", "dicom/p2"], "masks/p2.nii.gz", 1),
    "in a tree of its own, by folder": (["dicom/p1/s", "dicom/p2/s"], "labels/p2/mask.nii.gz", 1),
    "beside the study's folder": (["p1_dicom", "p2_dicom"], "p2_mask.nii.gz", 1),
    "the only study": (["."], "seg.nii.gz", 0),
    "of a patient without DICOM": (["p1", "p2"], "p3/lesion.nii.gz", None),
    "of whom is not told": (["p1", "p2"], "lesion.nii.gz", None),
    "of another name": (["p1"], "p3/lesion.nii.gz", None),
}


@pytest.mark.parametrize("case", PAIRED.values(), ids=PAIRED)
def test_a_mask_is_of_the_study_in_its_folder_or_of_its_name(case, tmp_path):
    folders, mask, expected = case
    file = tmp_path / mask
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    patients = [{tmp_path / folder} for folder in folders]
    masks = find_nifti_masks(tmp_path, NO_PATTERNS)
    if expected is None:
        assert f"{file}: a mask, but of which" in refusal(lambda: pair_masks(tmp_path, masks, patients))
    else:
        assert pair_masks(tmp_path, masks, patients) == {file: expected}


def drawn(file, grid, turn=lambda image: image):
    """A block on the pictures, saved by a program that lays them as the grid; the block, (N, H, W)."""
    block_NHW = np.zeros(grid.shape, dtype=np.uint8)
    block_NHW[3:6, 10:20, 5:12] = 1
    nibabel.save(turn(nibabel.Nifti1Image(block_NHW, grid.affine)), file)
    return block_NHW.astype(bool)


TURNS = {
    "as the pictures lie": lambda image: image,
    "columns, rows, slices": lambda image: swap(image, "LPS"),
    "to the right, front and top": lambda image: swap(image, "RAS"),
    "from the top downward": lambda image: swap(image, "AIL"),
}


def swap(image, axes):
    wanted = nibabel.orientations.axcodes2ornt(axes)
    turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), wanted)
    return image.as_reoriented(turn)


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("grid", [0, 1, 2], ids=["sheared", "piled by planes", "piled by first pixels"])
def test_a_mask_lies_on_the_pictures_however_it_is_stored(grid, turn, tmp_path):
    scan = open_dicom(write_series(tmp_path / "ct", tilt_deg=15))
    block_NHW = drawn(tmp_path / "mask.nii", picture_grids(scan.stack.frames)[grid], turn)
    np.testing.assert_array_equal(read_drawn_mask(tmp_path / "mask.nii", scan, None), scan.to_volume(block_NHW))


def test_on_a_plain_series_a_mask_stays_as_it_is(tmp_path):
    scan = open_dicom(write_series(tmp_path / "ct", orientation=(-1, 0, 0, 0, 1, 0)))
    block_NHW = drawn(tmp_path / "mask.nii", scan.volume.grid)
    got_ZHW = read_drawn_mask(tmp_path / "mask.nii", scan, None)
    np.testing.assert_array_equal(scan.volume.grid.to_source(got_ZHW), block_NHW)
    np.testing.assert_array_equal(scan.to_pictures(got_ZHW), block_NHW)


def test_a_mask_on_another_grid_is_refused(tmp_path):
    scan = open_dicom(write_series(tmp_path / "ct"))
    affine = scan.volume.grid.affine.copy()
    affine[:3, 3] += 4
    save_nifti(tmp_path / "moved.nii", np.ones(scan.volume.grid.shape, np.uint8), affine)
    assert "lies up to 6.9 mm off its scan" in refusal(lambda: read_drawn_mask(tmp_path / "moved.nii", scan, None))
    save_nifti(tmp_path / "cut.nii", np.ones((11, 40, 36), np.uint8), scan.volume.grid.affine)
    assert "11 x 40 x 36 but 12 x 40 x 36" in refusal(lambda: read_drawn_mask(tmp_path / "cut.nii", scan, None))


def test_a_folder_of_dicom_with_nifti_masks_is_imported(tmp_path, capsys):
    scan = open_dicom(write_series(tmp_path / "in" / "p1" / "ct"))
    drawn(tmp_path / "in" / "p1" / "lesion.nii.gz", scan.volume.grid)
    write_series(tmp_path / "in" / "p2", study=2)
    drawn(tmp_path / "in" / "p2" / "Untitled.nii.gz", scan.volume.grid)
    with pytest.raises(InputError, match="several formats"):
        recognise(tmp_path / "in", NO_PATTERNS)
    source = recognise(tmp_path / "in", NO_PATTERNS, SourceFormat.DICOM)
    assert [len(case.masks) if case.mask else 0 for case in source.cases] == [1, 0]
    told = ["import", str(tmp_path / "in"), str(tmp_path / "out"), "--jobs", "1"]
    assert main([*told, "--mask-pattern", "*.nii.gz"]) == 0
    assert "DICOM, 2 patients, 2 with a mask" in capsys.readouterr().out
    for patient in ("patient_0001", "patient_0002"):
        masks = sorted((tmp_path / "out" / "masks" / patient).iterdir())
        assert [int((np.asarray(Image.open(file)) > 0).sum()) for file in masks] == [
            70 if n in (3, 4, 5) else 0 for n in range(12)
        ]
