"""Readers of scans and masks: what they give, and what they refuse."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from PIL import Image
from refusals import refusal
from scans import RAS, grey_slice, head_hu, nifti_patients, picture_patients, save_nifti, save_png, spot

from data_prep.cohort.pixels import Pixels
from data_prep.intensity.window import HU_OFFSET, WINDOWS, to_pixels
from data_prep.sources.case import SourceFormat
from data_prep.sources.formats.nifti import read_nifti, read_nifti_mask
from data_prep.sources.formats.npz import read_npz, read_npz_mask
from data_prep.sources.formats.pictures import read_picture_files, read_pixels
from data_prep.sources.naming.tree import Patterns, files_below
from data_prep.sources.recognise import recognise

NO_PATTERNS = Patterns()

# NIfTI


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "SPL", "ARI"])
def test_a_volume_is_the_same_however_its_axes_are_stored(tmp_path: Path, axes: str) -> None:
    turn = ornt_transform(io_orientation(RAS), axcodes2ornt(axes))
    affine = RAS @ inv_ornt_aff(turn, (24, 20, 4))
    scan = save_nifti(tmp_path / "ct.nii.gz", apply_orientation(head_hu(), turn), affine)
    mask = save_nifti(tmp_path / "mask.nii", spot())  # always stored in RAS
    volume = read_nifti(scan)
    # By hand: slices upward, rows from the front, columns from the patient's right.
    expected_ZHW = head_hu().transpose(2, 1, 0)[:, ::-1, ::-1]
    assert np.array_equal(volume.values_ZHW, expected_ZHW)
    assert volume.spacing_mm == pytest.approx((5.0, 0.6, 0.5))
    lesion_ZHW = read_nifti_mask(mask, volume.grid, None)
    assert np.array_equal(np.argwhere(lesion_ZHW).min(axis=0), [2, 4, 5])
    assert lesion_ZHW.sum() == 12


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image((head_hu() + 1024).astype(np.int16), RAS)
    image.header.set_slope_inter(1, -1024)
    nibabel.save(image, tmp_path / "ct.nii")
    assert read_nifti(tmp_path / "ct.nii").values_ZHW.min() == -1000


def test_a_fourth_dimension_of_one_is_taken(tmp_path: Path) -> None:
    save_nifti(tmp_path / "ct.nii", head_hu()[..., None])
    assert read_nifti(tmp_path / "ct.nii").values_ZHW.shape == (4, 20, 24)


def with_nan() -> np.ndarray:
    values = head_hu()
    values[0, 0, 0] = np.nan
    return values


def sheared() -> np.ndarray:
    affine = RAS.copy()
    affine[1, 2] = 1.0  # 11 degrees
    return affine


BAD_NIFTI: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (lambda p: p.write_bytes(b""), "not a readable NIfTI file"),
    "text": (lambda p: p.write_text("no scan"), "not a readable NIfTI file"),
    "truncated": (lambda p: p.write_bytes(save_nifti(p, head_hu()).read_bytes()[:2000]), "not a readable NIfTI file"),
    "nan": (lambda p: save_nifti(p, with_nan()), "1 of 1920 voxels are NaN"),
    "4D": (lambda p: save_nifti(p, np.stack([head_hu()] * 2, -1)), "4-dimensional .24 x 20 x 4 x 2.*; save the one"),
    "2D": (lambda p: save_nifti(p, head_hu()[..., 0]), "2-dimensional"),
    "sheared": (lambda p: save_nifti(p, head_hu(), sheared()), "sheared by 11.3 degrees"),
    "flat": (lambda p: save_nifti(p, np.zeros((24, 20, 4), np.float32)), "no Hounsfield units"),
    "scaled": (lambda p: save_nifti(p, (head_hu() + 1000) / 2000), "no Hounsfield units; export the scan without"),
    "small": (lambda p: save_nifti(p, head_hu()[:1, :1]), "4 x 1 x 1 voxels; a slice has at least 16 x 16"),
    "no place": (lambda p: nibabel.save(nibabel.Nifti1Image(head_hu(), None), p), "does not say how the head lies"),
    "metres": (lambda p: save_nifti(p, head_hu(), np.diag([0.0005, 0.0005, 0.005, 1])), "voxels of 0.0005 x"),
    "complex": (lambda p: save_nifti(p, head_hu().astype(np.complex64)), "complex numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NIFTI)
def test_bad_nifti_is_refused_in_one_line_that_names_it(tmp_path: Path, case: str) -> None:
    spoil, words = BAD_NIFTI[case]
    path = tmp_path / "Kopf–ü.nii"
    spoil(path)
    message = refusal(lambda: read_nifti(path))
    assert message.startswith(f"{path}: ")
    assert_matches(message, words)


def assert_matches(message: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(message)


BAD_MASKS = {
    "shape": (spot((24, 20, 5)), RAS, "5 x 20 x 24 but 4 x 20 x 24 voxels in its scan; resample"),
    "place": (spot(), RAS + np.array([[0, 0, 0, 2.0], *[[0] * 4] * 3]), "lies up to 2.0 mm off its scan"),
    "labels": (spot() + spot()[::-1] * 2, RAS, "mask values 1, 2 beside 0; say which are lesion by --lesion-labels"),
    "shares": (spot() * np.float32(0.4), RAS, "mask values such as 0.4; cut"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, case: str) -> None:
    values, affine, words = BAD_MASKS[case]
    scan = read_nifti(save_nifti(tmp_path / "ct.nii", head_hu()))
    mask = save_nifti(tmp_path / "mask.nii", values, affine)
    assert words in refusal(lambda: read_nifti_mask(mask, scan.grid, None))


def test_lesion_labels_choose(tmp_path: Path) -> None:
    scan = read_nifti(save_nifti(tmp_path / "ct.nii", head_hu()))
    mask = save_nifti(tmp_path / "mask.nii", spot() + spot()[::-1] * 2)
    assert read_nifti_mask(mask, scan.grid, {2}).sum() == 12
    assert read_nifti_mask(mask, scan.grid, {1, 2}).sum() == 24


# Which mask belongs to which scan

LAYOUTS = {
    "nnU-Net": [("imagesTr/p1_0000.nii.gz", "labelsTr/p1.nii.gz"), ("imagesTr/p2_0000.nii.gz", "labelsTr/p2.nii.gz")],
    "BIDS": [
        ("sub-1/ct/sub-1_ct.nii.gz", "derivatives/lesion_masks/sub-1/sub-1_label-lesion_mask.nii.gz"),
        ("sub-2/ct/sub-2_ct.nii.gz", "derivatives/lesion_masks/sub-2/sub-2_label-lesion_mask.nii.gz"),
    ],
    "folders": [("p1/ct.nii.gz", "p1/lesion.nii.gz"), ("p2/ct.nii.gz", "p2/lesion.nii.gz")],
    "folders, other names": [("p1/axial7.nii", "p1/seg_final.nii"), ("p2/axial9.nii", "p2/seg_first.nii")],
    "flat": [("p1.nii.gz", "p1_mask.nii.gz"), ("p2.nii.gz", "p2_mask.nii.gz")],
    "names that only begin like BIDS": [
        ("sub-O_Brien/O_Brien_ct.nii.gz", "sub-O_Brien/O_Brien_lesion.nii.gz"),
        ("sub-O_Neill/O_Neill_ct.nii.gz", "sub-O_Neill/O_Neill_lesion.nii.gz"),
    ],
    "flat, with such names": [
        ("sub-stroke_01_ct.nii.gz", "sub-stroke_01_mask.nii.gz"),
        ("sub-stroke_02_ct.nii.gz", "sub-stroke_02_mask.nii.gz"),
    ],
    "two trees": [("site/CT/p1.nii", "site/GT/p1_gt.nii"), ("site/CT/p2.nii", "site/GT/p2_gt.nii")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scans_and_masks_are_paired_by_name(tmp_path: Path, layout: str) -> None:
    for files in LAYOUTS[layout]:
        for file in files:
            save_nifti(tmp_path / file, head_hu())
    source = recognise(tmp_path, NO_PATTERNS)
    assert source.kind == SourceFormat.NIFTI
    found = [(case.images[0].relative_to(tmp_path).as_posix(), case.mask) for case in source.cases]
    assert found == [(scan, tmp_path / mask) for scan, mask in LAYOUTS[layout]]
    assert source.without_mask == ()


UNCLEAR = {
    "two scans": (["p/ct1.nii", "p/ct1_0000.nii"], "2 scans of one patient (p/ct1.nii, p/ct1_0000.nii); choose by"),
    "two scans in a session": (["sub-1_ses-1_ct.nii", "sub-1_ses-1_run-2_ct.nii"], "2 scans of one patient"),
    "a mask of another session": (["sub-1_ses-1_ct.nii", "sub-1_ses-2_mask.nii"], "a mask whose scan is not found"),
    "a mask of one of two sessions": (["sub-1_ses-1_ct.nii", "sub-1_ses-2_ct.nii", "sub-1_mask.nii"], "a mask whose"),
    "two masks": (["p/ct.nii", "p/mask.nii", "p/seg.nii"], "2 masks of one patient (p/mask.nii, p/seg.nii)"),
    "orphan": (["a.nii", "b_mask.nii"], "b_mask.nii: a mask whose scan is not found"),
    "masks only": (["a_mask.nii"], "1 masks (a_mask.nii) and no scan; say which by --image-pattern"),
    "nothing": ([], "nothing to import; looked for .nii .nii.gz .npz .png"),
    "mixed": (["a.nii", "p/1.png"], "several formats (1 files of NIfTI, 1 files of pictures); choose one by --format"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_unclear_folders_are_asked_about(tmp_path: Path, case: str) -> None:
    files, words = UNCLEAR[case]
    for file in files:
        (save_nifti if file.endswith("nii") else save_png)(tmp_path / file, grey_slice()[..., None][..., 0])
    assert words in refusal(lambda: recognise(tmp_path, NO_PATTERNS))


SESSIONS = {
    "folders": [
        ("sub-1/ses-1/ct/a_ct.nii", "derivatives/masks/sub-1/ses-1/a_mask.nii"),
        ("sub-1/ses-2/ct/a_ct.nii", "derivatives/masks/sub-1/ses-2/a_mask.nii"),
        ("sub-2/ses-1/ct/a_ct.nii", "derivatives/masks/sub-2/a_mask.nii"),
    ],
    "names": [
        ("sub-1_ses-1_ct.nii", "sub-1_ses-1_mask.nii"),
        ("sub-1_ses-2_ct.nii", "sub-1_ses-2_mask.nii"),
        ("sub-2_ses-1_ct.nii", "sub-2_mask.nii"),
    ],
}


@pytest.mark.parametrize("layout", SESSIONS)
def test_sessions_are_scans_of_one_subject(tmp_path: Path, layout: str) -> None:
    for files in SESSIONS[layout]:
        for file in files:
            save_nifti(tmp_path / file, head_hu())
    cases = recognise(tmp_path, NO_PATTERNS).cases
    assert [(case.images[0].relative_to(tmp_path).as_posix(), case.mask) for case in cases] == [
        (scan, tmp_path / mask) for scan, mask in SESSIONS[layout]
    ]
    # A patient of one session keeps the name that lists and registers of earlier versions know.
    assert [case.name for case in cases] == ["sub-1/ses-1", "sub-1/ses-2", "sub-2"]
    assert [case.patient for case in cases] == ["sub-1", "sub-1", "sub-2"]


def test_slices_of_sessions_are_scans_of_one_subject_too(tmp_path: Path) -> None:
    for folder in ("sub-1/ses-1", "sub-1/ses-2", "sub-acute/p1"):
        for part in ("images", "masks"):
            save_png(tmp_path / part / folder / "1.png", grey_slice())
    assert {case.name: case.patient for case in recognise(tmp_path, NO_PATTERNS).cases} == {
        "sub-1/ses-1": "sub-1", "sub-1/ses-2": "sub-1", "sub-acute/p1": None,
    }  # fmt: skip


def test_patterns_choose(tmp_path: Path) -> None:
    for name in ("p_ncct.nii", "p_cta.nii", "p_truth.nii"):
        save_nifti(tmp_path / name, head_hu())
    (case,) = recognise(tmp_path, Patterns(image="*_ncct.nii", mask="*_truth.nii")).cases
    assert [file.name for file in case.files] == ["p_ncct.nii", "p_truth.nii"]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    nifti_patients(tmp_path / "src", 2)
    (tmp_path / "src" / "sub-Doe0" / "again").symlink_to(tmp_path / "src")
    (tmp_path / "src" / "itself").symlink_to("itself")
    assert len(files_below(tmp_path / "src", (".nii.gz",))) == 4


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "ct.nii").symlink_to(tmp_path / "gone.nii")
    assert "ct.nii: not a readable" in refusal(lambda: read_nifti(files_below(tmp_path, (".nii",))[0]))


# Pictures


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_is_grey_in_any_mode(tmp_path: Path, mode: str, ending: str) -> None:
    path = tmp_path / f"1.{ending}"
    Image.fromarray(grey_slice()).convert(mode).save(path)
    volume = read_picture_files([path])
    assert volume.is_windowed
    assert np.array_equal(volume.values_ZHW[0], grey_slice())


def test_jpeg_in_colour_is_taken_where_it_is_grey(tmp_path: Path) -> None:
    Image.fromarray(grey_slice()).convert("RGB").save(tmp_path / "1.jpg", quality=80)
    assert read_pixels(tmp_path / "1.jpg").shape == (24, 24)


def test_16_bits_are_hu_where_the_offset_is_told(tmp_path: Path) -> None:
    stored_HW = (head_hu()[..., 0] + 1024).astype(np.uint16)
    path = save_png(tmp_path / "1.png", stored_HW)
    volume = read_picture_files([path], hu_offset=1024)
    assert not volume.is_windowed
    assert np.array_equal(volume.values_ZHW[0], head_hu()[..., 0])
    assert "say by --hu-offset what was added" in refusal(lambda: read_picture_files([path]))


def pages(path: Path) -> None:
    first, second = (Image.fromarray(grey_slice(seed)) for seed in range(2))
    first.save(path, format="TIFF", save_all=True, append_images=[second])


BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (lambda p: p.write_bytes(b""), "cannot be decoded"),
    "truncated": (lambda p: p.write_bytes(save_png(p, grey_slice()).read_bytes()[:300]), "cannot be decoded"),
    "1x1": (lambda p: save_png(p, grey_slice()[:1, :1]), "1 x 1 x 1 voxels; a slice has at least 16 x 16"),
    "colour": (lambda p: save_png(p, np.dstack([grey_slice(seed) for seed in range(3)])), "in colour"),
    "pages": (pages, "2 pages in one file"),
    "huge": (lambda p: Image.new("1", (9000, 9000)).save(p, format="PNG"), "9000x9000 pixels, more than any slice"),
    "bomb": (lambda p: Image.new("1", (14000, 14000)).save(p, format="PNG"), "cannot be decoded"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_bad_pictures_are_refused_in_one_line_that_names_them(tmp_path: Path, case: str) -> None:
    spoil, words = BAD_PICTURES[case]
    path = tmp_path / ("ü" * 60) / "1.png"
    path.parent.mkdir()
    spoil(path)
    message = refusal(lambda: read_picture_files([path]))
    assert message.startswith(f"{path}: ")
    assert words in message


def test_slices_of_a_patient_are_of_one_size(tmp_path: Path) -> None:
    files = [save_png(tmp_path / f"{size}.png", grey_slice(size=size)) for size in (20, 24)]
    assert "24x24 pixels, but 20x20 in 20.png" in refusal(lambda: read_picture_files(files))


@pytest.mark.parametrize(
    "names", [("images/p/1.png", "masks/p/1.png"), ("p/images/1.png", "p/masks/1.png"), ("p/1.png", "p/1_mask.png")]
)
def test_pictures_and_masks_are_paired(tmp_path: Path, names: tuple[str, str]) -> None:
    files = [save_png(tmp_path / name, grey_slice()) for name in names]
    (case,) = recognise(tmp_path, NO_PATTERNS).cases
    assert (case.name, case.images, case.masks) == ("p", (files[0],), (files[1],))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ((1, 4), SourceFormat.AISD),
        ((5, 1), SourceFormat.AISD),
        ((1, 1), SourceFormat.PICTURES),
        ((255, 3), SourceFormat.PICTURES),
    ],
)
def test_aisd_is_known_by_its_labels(tmp_path: Path, labels: tuple[int, ...], kind: SourceFormat) -> None:
    assert recognise(picture_patients(tmp_path, labels), NO_PATTERNS).kind == kind


# npz


@pytest.mark.parametrize("layout", ["a slice a folder", "a slice a file", "a volume"])
def test_archives_of_any_layout_give_the_same_volume(tmp_path: Path, layout: str) -> None:
    image_ZHW, mask_ZHW = head_hu().transpose(2, 1, 0), spot().transpose(2, 1, 0)
    (tmp_path / "p").mkdir()
    if layout == "a volume":
        np.savez(tmp_path / "p.npz", image=image_ZHW, mask=mask_ZHW)
    for z in range(len(image_ZHW) if layout != "a volume" else 0):
        if layout == "a slice a file":
            np.savez_compressed(tmp_path / "p" / f"{z + 8}.npz", image=image_ZHW[z], mask=mask_ZHW[z])
        else:
            folder = tmp_path / "p" / f"{z + 8}"
            folder.mkdir()
            np.savez_compressed(folder / "image.npz", image_ZHW[z])
            np.savez_compressed(folder / "mask.npz", mask_ZHW[z])
    source = recognise(tmp_path, NO_PATTERNS)
    (case,) = source.cases
    assert (case.name, source.without_mask) == ("p", ())
    volume = read_npz(case.images)
    assert not volume.is_windowed
    assert np.array_equal(volume.values_ZHW, image_ZHW)
    masks = [mask for mask in case.masks if mask] or list(case.images)
    assert np.array_equal(read_npz_mask(masks, volume.values_ZHW.shape, None), mask_ZHW > 0)


def bomb(path: Path) -> None:
    """A header that claims 8 TB."""
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2000000, 1000, 1000), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", header.ljust(127) + b"\n")


BAD_NPZ: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero bytes": (lambda p: p.write_bytes(b""), "not a readable archive"),
    "pickle": (lambda p: np.savez(p, image=np.array([{}], dtype=object)), "holds object, not numbers"),
    "bomb": (bomb, "more than any head CT"),
    "4D": (lambda p: np.savez(p, image=np.zeros((2, 2, 20, 20))), "4-dimensional"),
    "nan": (lambda p: np.savez(p, image=with_nan().transpose(2, 1, 0)), "NaN"),
    "names": (lambda p: np.savez(p, one=head_hu(), two=head_hu()), "no array named image or img or ct or volume (but"),
    "too large numbers": (lambda p: np.savez(p, image=np.full((20, 20), 1e300)), "NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_archives_are_refused_in_one_line_that_names_them(tmp_path: Path, case: str) -> None:
    spoil, words = BAD_NPZ[case]
    path = tmp_path / "p.npz"
    spoil(path)
    message = refusal(lambda: read_npz([path]))
    assert message.startswith(f"{path}: ")
    assert words in message


# Windows


@pytest.mark.parametrize(("name", "black", "white"), [("brain", 0, 80), ("stroke", 20, 60), ("wide", -60, 140)])
def test_windows_end_where_they_say(name: str, black: int, white: int) -> None:
    grey = WINDOWS[name].to_grey(np.array([-1000, black, (black + white) / 2, white, 3000]))
    assert grey.tolist() == [0, 0, 128, 255, 255]
    hu = np.arange(-1024, 3071, dtype=np.float32)[None]
    windows = (WINDOWS[name],)
    with io.BytesIO() as file:
        Image.fromarray(to_pixels(hu, windows, keeps_hu=True)).save(file, "PNG")
        with Image.open(file) as picture:
            kept = Pixels(windows, hu_offset=HU_OFFSET).to_grey(picture, Path("p.png"))
    assert np.array_equal(kept[0], to_pixels(hu, windows, keeps_hu=False))
