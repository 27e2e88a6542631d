"""``check``: finds what is wrong, nothing where nothing is, and mends only what is safe."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from data_prep.__main__ import main
from data_prep.cohort.layout import open_cohort, scan_cohort, write_manifest
from data_prep.common.files import write_png
from data_prep.intensity.window import HU_OFFSET, KeptHu, Window
from data_prep.quality.cohort_check import CohortReport, check_cohort
from data_prep.quality.findings import FindingKind, Severity
from data_prep.quality.fixes import BACKUP, apply_fixes, undo_unfinished
from data_prep.quality.orientation import AREA_PROFILE, find_turns, is_shuffled, mean_pictures, upward_score
from data_prep.volumes.mask import is_blurred

SIDE, SLICES, PATIENTS = 96, 12, "abcdef"
SPACING = ["--spacing-mm", "5", "0.5", "0.5"]


def head(seed: int, place: int) -> NDArray[np.uint8]:
    """An egg with its narrow end up and a nose below the middle slice, as large as heads are there, with own folds."""
    rng = np.random.default_rng(100 * seed + place)
    row, column = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    scale = np.sqrt(np.interp(place / (SLICES - 1), np.linspace(0, 1, len(AREA_PROFILE)), AREA_PROFILE))
    width = 0.36 + 0.10 * row / SIDE
    radius = np.hypot(row / 0.44, column / width) / (SIDE * scale)
    folds = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), 2)
    brain = 120 + 50 * folds / folds.std()
    return np.clip(np.where(radius < 0.9, brain, np.where(radius < 1, 255, 0)), 0, 255).astype(np.uint8)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cohort"
    for seed, patient in enumerate(PATIENTS):
        for place in range(SLICES):
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            if place in (4, 5):
                mask[40:48, 30:38] = 255
            save(folder / "images" / patient / f"{place + 1}.png", head(seed, place))
            save(folder / "masks" / patient / f"{place + 1}.png", mask)
    assert main(["index", str(folder), *SPACING]) == 0
    return folder


def change(file: Path, how: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> None:
    with Image.open(file) as image:
        pixels = np.asarray(image)
    save(file, np.ascontiguousarray(how(pixels)))


def turn(root: Path, patient: str, quarters: int) -> None:
    for part in ("images", "masks"):
        for file in (root / part / patient).iterdir():
            change(file, lambda pixels: np.rot90(pixels, quarters))


def number_anew(root: Path, patient: str, order: list[int]) -> None:
    for part in ("images", "masks"):
        files = [root / part / patient / f"{place + 1}.png" for place in range(SLICES)]
        contents = [file.read_bytes() for file in files]
        for file, place in zip(files, order, strict=True):
            file.write_bytes(contents[place])


def checked(root: Path) -> CohortReport:
    return check_cohort(root, jobs=1)


def kinds(root: Path) -> set[FindingKind]:
    """What is found, besides that no couch shows which way up these heads lie."""
    return {finding.kind for finding in checked(root).findings} - {FindingKind.NOT_COMPARED}


NO_COUCH = "orientation compared only within the cohort, as no couch shows which way up"


def test_a_sound_cohort_has_no_findings_but_that_no_couch_tells_which_way_up(root: Path) -> None:
    report = checked(root)
    assert [finding.kind for finding in report.findings] == [FindingKind.NOT_COMPARED]
    assert NO_COUCH in report.findings[0].detail
    assert (report.patients, report.slices, len(report.tiles)) == (6, 72, 6)


def truncate(root: Path) -> None:
    file = root / "images" / "b" / "3.png"
    file.write_bytes(file.read_bytes()[:300])


def crop(root: Path) -> None:
    for part in ("images", "masks"):
        change(root / part / "b" / "4.png", lambda pixels: pixels[:50])


def shrink(root: Path) -> None:
    for part in ("images", "masks"):
        for file in (root / part / "b").iterdir():
            change(file, lambda pixels: pixels[::8, ::8])


def empty_patient(root: Path) -> None:
    for part in ("images", "masks"):
        shutil.rmtree(root / part / "b")
        (root / part / "b").mkdir()


def move_lesion(root: Path) -> None:
    for place in (5, 6):
        change(root / "masks" / "b" / f"{place}.png", lambda mask: np.roll(mask, (-40, -30), (0, 1)))


def share_slice(root: Path) -> None:
    shutil.copy(root / "images" / "a" / "4.png", root / "images" / "b" / "4.png")


def share_noisy_slice(root: Path) -> None:
    noise = np.random.default_rng(0).integers(-4, 5, (SIDE, SIDE))
    share_slice(root)
    change(root / "images" / "b" / "4.png", lambda image: np.clip(image + noise, 0, 255).astype(np.uint8))


def with_couch(root: Path, patients: str = PATIENTS) -> None:
    """Pictures with room around the head, and a couch below it; the others are removed."""
    for folder in [*(root / "images").iterdir(), *(root / "masks").iterdir()]:
        if folder.name not in patients:
            shutil.rmtree(folder)
        for file in folder.glob("*.png"):
            change(file, lambda pixels: np.pad(pixels, 24))
            if folder.parent.name == "images":
                change(
                    file, lambda pixels: np.maximum(pixels, np.pad(np.full((4, 144), 40, np.uint8), ((138, 2), (0, 0))))
                )
    (root / "cohort.json").unlink()
    assert main(["index", str(root), *SPACING]) == 0


def turned_findings(root: Path) -> list[tuple[str, str]]:
    return [(f.patient, f.kind.value) for f in checked(root).findings if f.kind is not FindingKind.MANIFEST]


@pytest.mark.parametrize("patients", [PATIENTS, "a"])
def test_the_couch_tells_which_way_up_a_whole_cohort_or_one_patient_lies(root: Path, patients: str) -> None:
    with_couch(root, patients)
    assert turned_findings(root) == []
    for patient in patients:
        turn(root, patient, 2)
    assert turned_findings(root) == [("" if len(patients) > 1 else "a", FindingKind.TURNED.value)]


def test_a_patient_without_a_couch_is_not_compared(root: Path) -> None:
    for patient in PATIENTS[1:]:
        for part in ("images", "masks"):
            shutil.rmtree(root / part / patient)
    (found,) = (f for f in checked(root).findings if f.kind is FindingKind.NOT_COMPARED)
    assert "1 of 1 show no couch" in found.detail


def respaced(root: Path, spacing: list[float] | None) -> None:
    file = root / "cohort.json"
    manifest = json.loads(file.read_text())
    for patient in manifest["patients"]:
        patient["spacing_mm"] = spacing
    file.write_text(json.dumps(manifest))


GREY_IS_HU = Window(name="plain", level_hu=127.5, width_hu=255)


def deepen(root: Path) -> None:
    """The same slices in 16 bits that hold HU, and a window in which they look as they did."""
    for file in (root / "images").rglob("*.png"):
        change(file, lambda pixels: pixels.astype(np.uint16) + HU_OFFSET)
    cohort = scan_cohort(root, spacing_mm=(5, 0.5, 0.5))
    write_manifest(cohort.model_copy(update={"hu": KeptHu(windows=(GREY_IS_HU,))}), root)


IMAGE, MASK = Path("images/b/4.png"), Path("masks/b/5.png")
WRONG: dict[str, tuple[Callable[[Path], object], FindingKind, Severity, str]] = {
    "no mask": (lambda r: (r / MASK).unlink(), FindingKind.NO_MASK, Severity.ERROR, "5.png"),
    "no masks": (lambda r: shutil.rmtree(r / "masks" / "b"), FindingKind.NO_MASK, Severity.ERROR, "1.png"),
    "no image": (lambda r: (r / IMAGE).unlink(), FindingKind.NO_IMAGE, Severity.ERROR, "4.png"),
    "no images": (lambda r: shutil.rmtree(r / "images" / "b"), FindingKind.NO_IMAGE, Severity.ERROR, "1.png"),
    "empty": (empty_patient, FindingKind.NO_SLICES, Severity.ERROR, ""),
    "truncated": (truncate, FindingKind.UNREADABLE, Severity.ERROR, "3.png"),
    "zero bytes": (lambda r: (r / MASK).write_bytes(b""), FindingKind.UNREADABLE, Severity.ERROR, "5.png"),
    "16 bit": (
        lambda r: save(r / IMAGE, np.zeros((SIDE, SIDE), dtype=np.uint16)),
        FindingKind.UNREADABLE,
        Severity.ERROR,
        "4.png",
    ),
    "twice": (lambda r: shutil.copy(r / IMAGE, r / "images/b/4.tif"), FindingKind.UNREADABLE, Severity.ERROR, ""),
    "size of mask": (lambda r: change(r / MASK, lambda m: m[:50]), FindingKind.SIZES_DIFFER, Severity.ERROR, "5.png"),
    "size of both": (crop, FindingKind.SIZES_DIFFER, Severity.ERROR, ""),
    "thumbnails": (shrink, FindingKind.TOO_SMALL, Severity.ERROR, ""),
    "labels": (lambda r: change(r / MASK, lambda m: m // 255 * 2), FindingKind.NOT_BINARY, Severity.ERROR, "5.png"),
    "lesion outside": (move_lesion, FindingKind.LESION_OUTSIDE, Severity.ERROR, ""),
    "repeated": (
        lambda r: shutil.copy(r / IMAGE, r / "images/b/5.png"),
        FindingKind.DUPLICATE,
        Severity.WARNING,
        "4.png",
    ),
    "blank": (lambda r: change(r / IMAGE, np.zeros_like), FindingKind.BLANK, Severity.NOTE, "4.png"),
    "reversed": (
        lambda r: number_anew(r, "b", list(range(SLICES))[::-1]), FindingKind.REVERSED, Severity.WARNING, ""
    ),
    "shuffled": (
        lambda r: number_anew(r, "b", [0, 11, 1, 10, 2, 9, 3, 8, 4, 7, 5, 6]),
        FindingKind.SHUFFLED,
        Severity.WARNING,
        "",
    ),
    "upside down": (lambda r: turn(r, "b", 2), FindingKind.TURNED, Severity.WARNING, ""),
    "a quarter": (lambda r: turn(r, "b", 1), FindingKind.TURNED, Severity.WARNING, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_patient_is_found(root: Path, case: str) -> None:
    spoil, kind, severity, file = WRONG[case]
    spoil(root)
    found = [finding for finding in checked(root).findings if finding.kind is kind]
    assert [finding.patient for finding in found] == ["b"] * len(found)
    assert (found[0].severity, found[0].slice) == (severity, file)
    assert found[0].detail
    assert str(root) not in found[0].detail


@pytest.mark.parametrize(
    ("spoil", "severity", "same"),
    [(share_slice, Severity.ERROR, "1 of"), (share_noisy_slice, Severity.WARNING, "0 of")],
)
def test_slices_of_two_patients_are_found(
    root: Path, spoil: Callable[[Path], None], severity: Severity, same: str
) -> None:
    spoil(root)
    (found,) = (finding for finding in checked(root).findings if finding.kind is FindingKind.NEAR_DUPLICATE)
    assert (found.severity, found.patient, found.slice) == (severity, "a", "4.png")
    assert "slices of b" in found.detail
    assert same in found.detail


def test_a_patient_without_lesion_is_a_note(root: Path) -> None:
    for file in (root / "masks" / "c").iterdir():
        change(file, np.zeros_like)
    assert [(f.severity, f.patient) for f in checked(root).findings if f.kind is FindingKind.NO_LESION] == [
        ("note", "c")
    ]


def test_spacing_and_manifest(root: Path) -> None:
    respaced(root, None)
    assert kinds(root) == {FindingKind.NO_SPACING}
    respaced(root, [5.0, 50.0, 0.5])
    assert kinds(root) == {FindingKind.ODD_SPACING}
    change(root / IMAGE, lambda image: image // 2)
    assert FindingKind.MANIFEST in kinds(root)


@pytest.mark.parametrize("upside_down", ["", "b", "bd"])
def test_who_lies_otherwise_is_told_by_the_majority(root: Path, upside_down: str) -> None:
    for patient in upside_down:
        turn(root, patient, 2)
    pictures = []
    for patient in PATIENTS:
        files = [root / "images" / patient / f"{place + 1}.png" for place in range(SLICES)]
        pictures.append(mean_pictures(np.stack([np.asarray(Image.open(file)) for file in files])))
    turns = find_turns(np.stack(pictures))
    assert [turn.quarters for turn in turns] == [2 if patient in upside_down else 0 for patient in PATIENTS]


def test_order_by_area() -> None:
    up = np.interp(np.linspace(0, 1, 30), np.linspace(0, 1, len(AREA_PROFILE)), AREA_PROFILE)
    assert upward_score(up) == pytest.approx(-(upward_score(up[::-1]) or 0))
    assert (upward_score(up) or 0) > 0.5
    assert upward_score(up[:3]) is None
    assert upward_score(np.ones(20)) is None
    assert not is_shuffled(up)
    assert is_shuffled(np.random.default_rng(0).permutation(up))


BLURRED = {
    "JPEG": ({0: 900, 2: 20, 9: 10, 200: 5, 250: 30, 255: 100}, True),
    "resized": ({0: 900, 64: 10, 128: 10, 192: 10, 255: 100}, True),
    "labels": ({0: 900, 1: 20, 2: 30, 3: 5, 4: 5, 5: 5}, False),
    "few values": ({0: 900, 128: 20, 255: 100}, False),
    "grey": ({0: 10, 50: 100, 100: 300, 150: 300, 200: 100}, False),
}


@pytest.mark.parametrize("case", BLURRED)
def test_which_masks_are_binary_but_blurred(case: str) -> None:
    values, expected = BLURRED[case]
    counts = np.zeros(256, dtype=np.int64)
    counts[list(values)] = list(values.values())
    assert is_blurred(counts) is expected


def blur(root: Path, patient: str) -> None:
    """A mask as JPEG leaves it."""
    file = root / "masks" / patient / "5.png"
    with Image.open(file) as image:
        image.save(file.with_suffix(".jpg"), quality=50)
    file.unlink()


def test_fix_mends_what_is_safe_and_keeps_what_was(root: Path, tmp_path: Path) -> None:
    before = open_cohort(root, tmp_path / "cache")
    pixels = {file: np.asarray(Image.open(file)) for file in root.rglob("*.png")}
    blur(root, "a")
    turn(root, "b", 2)
    (root / "masks" / "c" / "1.png").unlink()
    spoilt = (root / "images" / "b" / "1.png").read_bytes()
    assert main(["check", str(root), "--fix", "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    assert not (root / "masks" / "c" / "1.png").exists()
    save(root / "masks" / "c" / "1.png", pixels[root / "masks" / "c" / "1.png"])
    for file, expected in pixels.items():
        np.testing.assert_array_equal(np.asarray(Image.open(file)), expected)
    assert not (root / "masks" / "a" / "5.jpg").exists()
    assert (root / BACKUP / "1" / "images" / "b" / "1.png").read_bytes() == spoilt
    assert (root / BACKUP / "1" / "masks" / "a" / "5.jpg").exists()
    assert before.patients[0].spacing_mm == (5, 0.5, 0.5)
    assert main(["check", str(root), "--fix", "--out", str(tmp_path / "out"), "--jobs", "1"]) in (0, 1)
    assert not (root / BACKUP / "2").exists()


def test_fix_renews_the_manifest_with_all_that_it_says(root: Path, tmp_path: Path) -> None:
    turn(root, "b", 2)
    found = checked(root).findings
    assert apply_fixes(root, found)
    cohort = open_cohort(root, tmp_path / "cache")
    assert {patient.spacing_mm for patient in cohort.patients} == {(5, 0.5, 0.5)}
    assert kinds(root) == set()


def test_slices_of_16_bits_are_checked_in_their_window_and_mended_at_their_depth(root: Path) -> None:
    turn(root, "b", 2)
    flat = [finding for finding in checked(root).findings if finding.kind is not FindingKind.MANIFEST]
    deepen(root)
    pixels = {file: np.asarray(Image.open(file)) for file in (root / "images").rglob("*.png")}
    deep = checked(root)
    assert [*deep.findings] == flat
    assert apply_fixes(root, deep.findings)
    for file, before in pixels.items():
        with Image.open(file) as image:
            assert image.mode == "I;16"
            np.testing.assert_array_equal(np.asarray(image), np.rot90(before, 2 if file.parent.name == "b" else 0))
    assert kinds(root) == set()


def test_an_interrupted_fix_is_put_back(
    root: Path, monkeypatch: pytest.MonkeyPatch, snapshot: Callable[[Path], dict[str, tuple[int, str]]]
) -> None:
    turn(root, "b", 2)
    found = checked(root).findings
    before = {name: content for name, (_, content) in snapshot(root / "images").items()}
    calls = iter(range(100))

    def interrupted(path: Path, picture: Image.Image) -> None:
        if next(calls) == 15:
            raise KeyboardInterrupt
        write_png(path, picture)

    monkeypatch.setattr("data_prep.quality.fixes.write_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        apply_fixes(root, found)
    monkeypatch.undo()
    assert {name: content for name, (_, content) in snapshot(root / "images").items()} != before
    undo_unfinished(root)
    assert {name: content for name, (_, content) in snapshot(root / "images").items()} == before
    assert checked(root).findings == found


def test_the_command_writes_a_table_and_a_sheet_and_nothing_into_the_cohort(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    snapshot: Callable[[Path], dict[str, tuple[int, str]]],
) -> None:
    (root / MASK).unlink()
    before = snapshot(root)
    assert main(["check", str(root), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 1
    assert snapshot(root) == before
    with (tmp_path / "out" / "check.csv").open() as file:
        row, _ = csv.DictReader(file)
    assert (row["severity"], row["patient"], row["slice"]) == ("error", "b", "5.png")
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.width > 6 * 128
    assert "slice without mask" in capsys.readouterr().out


def test_warnings_are_exit_code_0(root: Path, tmp_path: Path) -> None:
    respaced(root, None)
    assert main(["check", str(root), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0


@pytest.fixture
def no_writing(tmp_path: Path) -> Path:
    """A file where a folder is to be made: refuses writing to root as well as to others."""
    place = tmp_path / "file"
    place.write_text("")
    return place / "out"


BAD = {
    "no folder": (["check", "nowhere"], "nowhere: no such folder"),
    "no cohort": (["check", "empty"], "empty: no folder images"),
    "no process": (["check", "cohort", "--jobs", "0"], "--jobs 0"),
    "stats of nothing": (["stats", "nowhere"], "nowhere: no such folder"),
    "stats without process": (["stats", "cohort", "--jobs", "0"], "--jobs 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, words = BAD[case]
    (root.parent / "empty").mkdir()
    monkeypatch.chdir(root.parent)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "stats"])
def test_a_place_that_cannot_be_written_is_one_line(
    root: Path, no_writing: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, str(root), "--out", str(no_writing), "--jobs", "1"]) == 2
    errors = capsys.readouterr().err
    assert "goes on" in errors
    assert errors.count("\n") == 1


def test_stats_are_those_of_the_pixels(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(root), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 0
    images = np.stack([np.asarray(Image.open(file)) for file in sorted((root / "images").rglob("*.png"))])
    with (tmp_path / "out" / "stats.csv").open() as file:
        rows = {row["patient"]: row for row in csv.DictReader(file)}
    assert set(rows) == {*PATIENTS, "all"}
    assert float(rows["all"]["grey_mean"]) == pytest.approx(images[images > 0].mean(), abs=1e-3)
    assert float(rows["all"]["grey_sd"]) == pytest.approx(images[images > 0].std(), abs=1e-3)
    assert int(rows["all"]["grey_median"]) == int(np.median(images[images > 0]))
    assert (rows["a"]["lesion_voxels"], rows["a"]["lesion_ml"], rows["a"]["lesion_slices"]) == ("128", "0.16", "2")
    picture = (tmp_path / "out" / "stats.svg").read_text()
    assert all(f">{title}</text>" in picture for title in ("Grey values above 0", "Lesion volume", "Slices"))
    assert "0.16 to 0.16 ml" in capsys.readouterr().out


def test_stats_of_16_bits_are_those_in_the_window(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", str(root), "--out", str(tmp_path / "flat"), "--jobs", "1"]) == 0
    assert "72 slices in a window that nobody has named" in capsys.readouterr().out
    deepen(root)
    assert main(["stats", str(root), "--out", str(tmp_path / "deep"), "--jobs", "1"]) == 0
    tables = [(tmp_path / name / "stats.csv").read_text() for name in ("flat", "deep")]
    assert tables[0] == tables[1]
    said = "72 slices in plain (level 127.5 HU, width 255 HU)"
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "deep" / "stats.svg").read_text()


def test_stats_of_a_damaged_file_name_it(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.remove(root / "cohort.json")
    truncate(root)
    assert main(["stats", str(root), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 2
    assert "3.png: cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
