"""Scans and masks whose names do not say the same: what is paired, and what a refusal shows."""

from pathlib import Path

import numpy as np
import pytest
from refusals import refusal
from scans import grey_slice, head_hu, save_nifti, save_png, spot

from data_prep.__main__ import main
from data_prep.sources.naming.tree import Patterns
from data_prep.sources.recognise import recognise

TWO = ("p1", "p2")
LAYOUTS: dict[str, tuple[list[str], list[str], list[Patterns]]] = {
    "a sibling folder": (
        [f"scans/{name}.nii.gz" for name in TWO],
        [f"ground truths/{name}.nii.gz" for name in TWO],
        [Patterns(), Patterns(mask="ground truths/*"), Patterns(mask="ground truths/"), Patterns("scans/*")],
    ),
    "a sibling folder of any name": (
        [f"images/{name}.nii.gz" for name in TWO],
        [f"experts/{name}.nii.gz" for name in TWO],
        [Patterns(), Patterns(mask="experts/*"), Patterns("images/*", "./experts/*.nii.gz")],
    ),
    "two folders of any name": (
        [f"A/{name}.nii.gz" for name in TWO],
        [f"B/{name}.nii.gz" for name in TWO],
        [Patterns(mask="B/*"), Patterns("A/*", "B/*"), Patterns("A/", "B/")],
    ),
    "two folders, one patient": (["A/p1.nii.gz"], ["B/p1.nii.gz"], [Patterns(mask="B/*")]),
    "deep below": (
        [f"data/set1/A/{name}.nii.gz" for name in TWO],
        [f"data/set1/B/{name}.nii.gz" for name in TWO],
        [Patterns(mask="B/*"), Patterns(mask="set1/B/*"), Patterns(mask="data/set1/B/*")],
    ),
    "folders in a patient's": (
        [f"{name}/axial/a.nii.gz" for name in TWO],
        [f"{name}/expert/a.nii.gz" for name in TWO],
        [Patterns("axial/*", "expert/*"), Patterns("*/axial/*", "*/expert/*")],
    ),
    "slices in folders of any name": (
        [f"A/{name}/{z}.png" for name in TWO for z in "12"],
        [f"B/{name}/{z}.png" for name in TWO for z in "12"],
        [Patterns(mask="B/*"), Patterns("A/*", "B/*")],
    ),
    "slices in a sibling folder": (
        [f"images/{name}/{z}.png" for name in TWO for z in "12"],
        [f"readers/{name}/{z}.png" for name in TWO for z in "12"],
        [Patterns()],
    ),
    "arrays": ([f"A/{name}.npz" for name in TWO], [f"B/{name}.npz" for name in TWO], [Patterns(mask="B/*")]),
    "words that run into numbers": (
        ["CT001.nii.gz", "CT002.nii.gz"],
        ["Mask001.nii.gz", "Mask002.nii.gz"],
        [Patterns(), Patterns(mask="Mask*"), Patterns("CT*", "Mask*"), Patterns("CT*")],
    ),
    "the same in folders": (
        ["scans/CT001.nii.gz", "scans/CT002.nii.gz"],
        ["masks/Mask001.nii.gz", "masks/Mask002.nii.gz"],
        [Patterns()],
    ),
    "slices that run into numbers": (
        ["p/image0.png", "p/image1.png"],
        ["p/label0.png", "p/label1.png"],
        [Patterns(), Patterns(mask="label*")],
    ),
    "patients' folders": (["CT001/1.png", "CT002/1.png"], ["Mask001/1.png", "Mask002/1.png"], [Patterns()]),
}


def written(root: Path, images: list[str], masks: list[str]) -> None:
    for name in (*images, *masks):
        path, is_mask = root / name, name in masks
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("png"):
            save_png(path, grey_slice() * (not is_mask))
        elif name.endswith("npz"):
            np.savez(path, **({"mask": spot()} if is_mask else {"image": head_hu()}))
        else:
            save_nifti(path, spot() if is_mask else head_hu())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_find_their_scans(tmp_path: Path, layout: str) -> None:
    images, masks, several = LAYOUTS[layout]
    written(tmp_path, images, masks)
    for patterns in several:
        source = recognise(tmp_path, patterns)
        found = {
            image.relative_to(tmp_path).as_posix(): mask and mask.relative_to(tmp_path).as_posix()
            for case in source.cases
            for image, mask in zip(case.images, case.masks, strict=True)
        }
        assert found == dict(zip(images, masks, strict=True)), patterns


def test_a_pattern_may_begin_with_the_source(tmp_path: Path) -> None:
    images, masks, _ = LAYOUTS["two folders of any name"]
    written(tmp_path, images, masks)
    cases = recognise(tmp_path, Patterns(mask=f"{tmp_path}/B/*")).cases
    assert [case.mask for case in cases] == [tmp_path / mask for mask in masks]


def test_names_that_paired_before_keep_their_patients(tmp_path: Path) -> None:
    """For the number of a patient in a cohort hangs on the name."""
    written(tmp_path, ["CT001.nii.gz", "lesion12_ct.nii.gz"], ["CT001_mask.nii.gz", "lesion12_seg.nii.gz"])
    with pytest.raises(ValueError, match="scan"):  # lesion is a word for masks, whole, and not in lesion12
        recognise(tmp_path, Patterns(mask="lesion12_ct*"))
    assert [case.name for case in recognise(tmp_path, Patterns()).cases] == ["ct001", "lesion12"]


NEVER: dict[str, tuple[list[str], list[str]]] = {
    "another patient's slices": (["A/p3/1.png", "A/p3/2.png"], ["masks/p9/1.png", "masks/p9/2.png"]),
    "another patient's folder": (["p3/1.png"], ["p9/1_mask.png"]),
    "another patient's volume": (["p3/ct.nii.gz"], ["p9/seg.nii.gz"]),
    "two scans that could be": (["A/CT1.nii.gz", "A/scan1.nii.gz"], ["B/Mask1.nii.gz"]),
    "one that is too many": (["scans/p1.nii.gz"], ["ground truths/p1.nii.gz", "ground truths/p7.nii.gz"]),
}


@pytest.mark.parametrize("case", NEVER)
def test_what_is_not_sure_is_not_paired(tmp_path: Path, case: str) -> None:
    images, masks = NEVER[case]
    written(tmp_path, images, masks)
    assert " with " in refusal(lambda: recognise(tmp_path, Patterns()))


def test_a_refused_pairing_shows_three_pairs_that_were_tried(tmp_path: Path) -> None:
    written(
        tmp_path,
        [f"scans/case_{letter}.nii.gz" for letter in "abcd"],
        [f"masks/case_{letter}_x.nii.gz" for letter in "abcd"],
    )
    said = refusal(lambda: recognise(tmp_path, Patterns()))
    assert said.startswith(f"{tmp_path}/masks/case_a_x.nii.gz: a mask whose scan is not found")
    tried = [f"masks/case_{letter}_x.nii.gz with scans/case_{letter}.nii.gz" for letter in "abc"]
    assert f"; tried {', '.join(tried)}" in said
    assert "case_d" not in said


@pytest.mark.parametrize("option", ["refuse", "empty"])
def test_a_pattern_that_fits_no_mask_is_refused(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or a typing error would make a cohort without lesions."""
    written(tmp_path / "src", ["scans/p1.nii.gz"], ["ground truths/p1.nii.gz"])
    place = [str(tmp_path / "src"), str(tmp_path / "dst")]
    for image_pattern in ([], ["--image-pattern", "scans/*"]):
        wrong = ["--mask-pattern", "groud truths/*", *image_pattern]
        assert main(["import", *place, *wrong, "--missing-masks", option]) == 2
        assert "--mask-pattern 'groud truths/*': fits no mask below" in capsys.readouterr().err


def test_some_without_masks_are_refused_with_those_that_were_paired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "src", ["scans/p1.nii.gz", "scans/p2.nii.gz"], ["truths/p1.nii.gz"])
    assert main(["import", str(tmp_path / "src"), str(tmp_path / "dst")]) == 2
    said = capsys.readouterr().err
    assert "p2.nii.gz: no mask for it; 1 of 2 patients lack masks; paired truths/p1.nii.gz with scans/p1" in said


def test_what_was_paired_by_a_guess_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, masks, _ = LAYOUTS["a sibling folder of any name"]
    written(tmp_path / "src", images, masks)
    assert main(["import", str(tmp_path / "src"), str(tmp_path / "dst"), "--jobs", "1"]) == 0
    assert "masks: experts/p1.nii.gz for images/p1.nii.gz, and so on" in capsys.readouterr().out
