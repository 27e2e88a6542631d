"""Masks as pictures, in every way that tools save them, read by the search and by the import alike."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from refusals import refusal
from scans import RAS, grey_slice, head_hu, save_nifti, save_png

from data_prep.__main__ import main
from data_prep.cohort.layout import open_cohort, scan_cohort
from data_prep.cohort.store import read_patient
from data_prep.quality.cohort_check import check_cohort
from data_prep.quality.findings import Finding, FindingKind, Fix, Severity
from data_prep.quality.fixes import apply_fixes
from data_prep.sources.formats.nifti import read_nifti, read_nifti_mask
from data_prep.sources.formats.npz import read_npz_mask
from data_prep.sources.formats.pictures import read_picture_masks
from data_prep.volumes.mask import Label, NoMask, lesion_in
from data_prep.volumes.mask_picture import mask_values

SIZE = 24
LESION_HW = np.zeros((SIZE, SIZE), dtype=bool)
LESION_HW[5:9, 3:12] = True
NOISE_HW = grey_slice(size=SIZE)
WHITE, BLACK, RED, GREEN = (255, 255, 255), (0, 0, 0), (200, 0, 0), (0, 200, 0)
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128, 128, 128, 128]
"""The first colours of the palette that VOC and labelme use; the last of them is grey."""


def chosen(inside: object, outside: object) -> NDArray[np.uint8]:
    """Pixels of the lesion and around it."""
    return np.where(LESION_HW[..., None], inside, outside).astype(np.uint8)


def rgba(lesion: tuple[int, ...], rest: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(chosen(lesion, rest))


def grey_alpha(lesion: tuple[int, int], rest: tuple[int, int]) -> Image.Image:
    return Image.fromarray(chosen(lesion, rest), "LA")


def indexed(labels_HW: NDArray[np.uint8], palette: list[int], transparent: int | None = None) -> Image.Image:
    picture = Image.fromarray(labels_HW, "P")
    picture.putpalette(palette)
    if transparent is not None:
        picture.info["transparency"] = transparent
    return picture


def painted_over(alpha_HW: NDArray[np.uint8], colours_HW: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.dstack([colours_HW] * 3 + [alpha_HW]))


ONE = LESION_HW.astype(np.uint8)
EMPTY = np.zeros_like(ONE)
MARGIN_HW = np.pad(np.full((16, 16), 255, np.uint8), 4)
INNER = ONE * (MARGIN_HW > 0)
TAKEN: dict[str, tuple[Image.Image, NDArray[np.uint8]]] = {
    "white, lesion in the transparency": (rgba((*WHITE, 255), (*WHITE, 0)), 255 * ONE),
    "the same, no lesion": (rgba((*WHITE, 0), (*WHITE, 0)), EMPTY),
    "grey and transparency": (grey_alpha((255, 255), (255, 0)), 255 * ONE),
    "black, lesion in the transparency": (grey_alpha((0, 255), (0, 0)), 255 * ONE),
    "half transparent": (rgba((*WHITE, 120), (*WHITE, 0)), 255 * ONE),
    "red on nothing": (rgba((*RED, 255), (*BLACK, 0)), 255 * ONE),
    "red on transparent white": (rgba((*RED, 200), (*WHITE, 0)), 255 * ONE),
    "opaque": (rgba((*WHITE, 255), (*BLACK, 255)), 255 * ONE),
    "opaque labels": (rgba((3, 3, 3, 255), (*BLACK, 255)), 3 * ONE),
    "labels on nothing": (rgba((4, 4, 4, 255), (*BLACK, 0)), 4 * ONE),
    "a transparent margin": (painted_over(MARGIN_HW, 255 * INNER), 255 * INNER),
    "indices, dark red": (indexed(ONE, VOC), ONE),
    "indices, no lesion": (indexed(EMPTY, VOC), EMPTY),
    "indices, the grey one": (indexed(7 * ONE, VOC), 7 * ONE),
    "indices, white background": (indexed(ONE, [*WHITE, *RED]), ONE),
    "indices, transparent background": (indexed(ONE, [*GREEN, *RED], transparent=0), ONE),
    "indices the other way round, transparent": (indexed(1 - ONE, [*RED, *BLACK], transparent=1), 255 * ONE),
    "grey palette": (indexed(1 - ONE, [*WHITE, *BLACK]), 255 * ONE),
    "white palette, lesion in the transparency": (indexed(ONE, [*WHITE, *WHITE], transparent=0), 255 * ONE),
    "black and white": (Image.fromarray(LESION_HW), 255 * ONE),
    "16 bits": (Image.fromarray(ONE.astype(np.uint16)), ONE),
}  # fmt: skip
AMBIGUOUS: dict[str, tuple[Image.Image, str]] = {
    "a picture and a lesion in the transparency": (painted_over(255 * ONE, NOISE_HW), "do not say the same"),
    "a lesion, transparent elsewhere": (painted_over(NOISE_HW, 255 * ONE), "do not say the same"),
    "the lesion is the hole": (rgba((*WHITE, 0), (*WHITE, 255)), "do not say the same"),
    "all of it": (rgba((*WHITE, 255), (*WHITE, 255)), "do not say the same"),
    "black on transparent white": (rgba((*BLACK, 255), (*WHITE, 0)), "do not say the same"),
    "colours": (Image.fromarray(chosen(RED, GREEN)), "in colour"),
    "opaque colours": (rgba((*RED, 255), (*GREEN, 255)), "in colour"),
    "indices the other way round": (indexed(1 - ONE, [*RED, *BLACK]), "in colour"),
    "shares": (Image.fromarray(np.where(LESION_HW, np.float32(0.4), np.float32(0))), "mask values such as 0.4;"),
    "erased by its scale": (Image.fromarray(ONE / np.float32(255)), "mask values such as 0 and 0.003922;"),
}  # fmt: skip


def saved(picture: Image.Image, root: Path) -> Path:
    """A cohort of one patient and one slice."""
    ending = "tif" if picture.mode == "F" else "png"
    save_png(root / "images" / "p" / "1.png", NOISE_HW)
    path = root / "masks" / "p" / f"1.{ending}"
    path.parent.mkdir(parents=True)
    picture.save(path, **({"transparency": picture.info["transparency"]} if "transparency" in picture.info else {}))
    return path


@pytest.mark.parametrize("case", TAKEN)
def test_what_a_picture_says_is_taken(tmp_path: Path, case: str) -> None:
    picture, expected_HW = TAKEN[case]
    path = saved(picture, tmp_path)
    with Image.open(path) as opened:
        assert np.array_equal(mask_values(opened, path), expected_HW)
    found = read_picture_masks([path], (1, SIZE, SIZE), None)
    assert np.array_equal(lesion_in(found[0]), expected_HW > 0)


@pytest.mark.parametrize("case", [case for case in TAKEN if TAKEN[case][1].max() in (0, 1, 255)])
def test_the_search_takes_it_as_the_import_does(tmp_path: Path, case: str) -> None:
    saved(TAKEN[case][0], tmp_path)
    (patient,) = scan_cohort(tmp_path).patients
    assert np.array_equal(read_patient(patient, tmp_path)[1][0], (TAKEN[case][1] > 0).astype(np.uint8))
    assert not [
        f for f in check_cohort(tmp_path, jobs=1).findings if f.kind in (FindingKind.NOT_BINARY, FindingKind.UNREADABLE)
    ]


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_is_ambiguous_is_refused_with_its_file(tmp_path: Path, case: str) -> None:
    picture, words = AMBIGUOUS[case]
    path = saved(picture, tmp_path)
    (patient,) = scan_cohort(tmp_path).patients
    for said in (
        refusal(lambda: read_patient(patient, tmp_path)),
        refusal(lambda: read_picture_masks([path], (1, SIZE, SIZE), None)),
    ):
        assert said.startswith(f"{path}: ")
        assert words in said
        assert "HU" not in said
    (found,) = [f for f in check_cohort(tmp_path, jobs=1).findings if f.kind is FindingKind.NOT_BINARY]
    assert words in found.detail


def test_soft_edges_are_split_where_jpeg_is(tmp_path: Path) -> None:
    soft_HW = np.asarray(Image.fromarray(255 * ONE).resize((48, 48), Image.Resampling.BILINEAR).resize((24, 24)))
    path = saved(painted_over(soft_HW, np.full_like(soft_HW, 255)), tmp_path)
    assert np.array_equal(read_picture_masks([path], (1, SIZE, SIZE), None)[0], (soft_HW >= 128).astype(np.uint8))
    (found,) = [f for f in check_cohort(tmp_path, jobs=1).findings if f.kind is FindingKind.NOT_BINARY]
    assert found.fix is Fix.BINARISE
    apply_fixes(tmp_path, [found])
    (patient,) = scan_cohort(tmp_path).patients
    assert np.array_equal(read_patient(patient, tmp_path)[1][0], (soft_HW >= 128).astype(np.uint8))


@pytest.mark.parametrize("case", ["white, lesion in the transparency", "indices, dark red", "half transparent"])
def test_a_turn_keeps_what_a_mask_says(tmp_path: Path, case: str) -> None:
    saved(TAKEN[case][0], tmp_path)
    apply_fixes(tmp_path, [Finding(Severity.WARNING, FindingKind.TURNED, "p", "", "", Fix.TURN)])
    (patient,) = scan_cohort(tmp_path).patients
    assert np.array_equal(read_patient(patient, tmp_path)[1][0], np.rot90(ONE, 2))


@pytest.mark.parametrize("value", [300, 65535])
def test_a_mask_of_16_bits_is_refused_as_a_mask(tmp_path: Path, value: int) -> None:
    saved(Image.fromarray((LESION_HW * np.uint16(value)).astype(np.uint16)), tmp_path)
    (patient,) = scan_cohort(tmp_path).patients
    said = refusal(lambda: read_patient(patient, tmp_path))
    assert f"1.png: mask values 0, {value}...; a mask holds 0 and 255, or 0 and 1" in said
    assert not any(word in said for word in ("window", "HU", "hu-offset"))


def test_pictures_that_an_earlier_version_imported_are_imported_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For it took the white of a transparent mask for lesion."""
    saved(TAKEN["white, lesion in the transparency"][0], tmp_path / "src")
    command = ["import", str(tmp_path / "src"), str(tmp_path / "dst"), "--jobs", "1"]
    monkeypatch.setattr("data_prep.importing.patients.PICTURE_READING", ())
    assert main(command) == 0
    wrong = save_png(tmp_path / "dst" / "masks" / "patient_0001" / "001.png", np.full((SIZE, SIZE), 255, np.uint8))
    assert main(command) == 0
    assert np.asarray(Image.open(wrong)).min() == 255
    monkeypatch.undo()
    assert main(command) == 0
    cohort = open_cohort(tmp_path / "dst", tmp_path / "cache")
    assert np.array_equal(read_patient(cohort.patients[0], tmp_path / "dst")[1][0], ONE)


# Values of floating point


def rescaled(path: Path, values: NDArray[np.floating], slope: float) -> Path:
    image = nibabel.Nifti1Image(values.astype(np.uint8), RAS)
    image.header.set_slope_inter(slope, 0)
    nibabel.save(image, path)
    return path


NEARLY_ONE = 1 - 2**-24


@pytest.mark.parametrize("value", [NEARLY_ONE, 1.0000001, 0.9961])
def test_rounding_does_not_make_a_mask_of_shares(tmp_path: Path, value: float) -> None:
    volume = np.zeros((24, 20, 4), dtype=np.float32)
    volume[5:9, 5:9, 2] = value
    scan = read_nifti(save_nifti(tmp_path / "ct.nii", head_hu()))
    mask_ZHW = read_nifti_mask(save_nifti(tmp_path / "mask.nii", volume), scan.grid, None)
    assert (mask_ZHW == Label.LESION).sum() == 16
    np.savez(tmp_path / "mask.npz", mask=volume.T)
    assert (read_npz_mask([tmp_path / "mask.npz"], volume.T.shape, {1}) == Label.LESION).sum() == 16
    path = saved(Image.fromarray(LESION_HW * np.float32(value)), tmp_path)
    assert np.array_equal(read_picture_masks([path], (1, SIZE, SIZE), None)[0], ONE)
    (patient,) = scan_cohort(tmp_path).patients
    assert np.array_equal(read_patient(patient, tmp_path)[1][0], ONE)


def test_labels_under_a_scaled_integer_header_come_back(tmp_path: Path) -> None:
    scan = read_nifti(save_nifti(tmp_path / "ct.nii", head_hu()))
    stored = np.zeros((24, 20, 4))
    stored[5:9, 5:9, 2], stored[5:9, 5:9, 3] = 254, 36
    path = rescaled(tmp_path / "one.nii", np.where(stored == 254, stored, 0), 1 / 255)  # label 1 as 0.996
    assert read_nifti_mask(path, scan.grid, None).sum() == 16
    path = rescaled(tmp_path / "two.nii", stored, 7 / 255)  # labels 7 and 1, as 6.97 and 0.988
    assert read_nifti_mask(path, scan.grid, {1}).sum() == 16
    assert "mask values 1, 7 beside 0" in refusal(lambda: read_nifti_mask(path, scan.grid, None))


def test_labels_that_a_scale_has_erased_are_refused(tmp_path: Path) -> None:
    scan = read_nifti(save_nifti(tmp_path / "ct.nii", head_hu()))
    stored = np.zeros((24, 20, 4))
    stored[5:9, 5:9, 2] = 1
    path = rescaled(tmp_path / "mask.nii", stored, 1 / 255)
    with pytest.raises(NoMask, match=r"mask\.nii: mask values such as 0 and 0\.003922; cut"):
        read_nifti_mask(path, scan.grid, None)


def with_nan(shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.zeros(shape, dtype=np.float32)
    values[0] = np.nan
    return values


def test_what_is_said_of_masks_never_speaks_of_hu(tmp_path: Path) -> None:
    scan = read_nifti(save_nifti(tmp_path / "ct.nii", head_hu()))
    nan = save_nifti(tmp_path / "nan.nii", with_nan((24, 20, 4)))
    colour = save_nifti(tmp_path / "complex.nii", head_hu().astype(np.complex64))
    np.savez(tmp_path / "nan.npz", mask=with_nan((4, 20, 24)))
    flat = tmp_path / "nan.tif"
    Image.fromarray(with_nan((SIZE, SIZE))).save(flat)
    for action in (
        lambda: read_nifti_mask(nan, scan.grid, None),
        lambda: read_nifti_mask(colour, scan.grid, None),
        lambda: read_npz_mask([tmp_path / "nan.npz"], (4, 20, 24), None),
        lambda: read_picture_masks([flat], (1, SIZE, SIZE), None),
    ):
        said = refusal(action)
        assert "HU" not in said
        assert "Hounsfield" not in said
