"""``python -m data_prep import``: the cohort that it makes, what it says, and how it goes on."""

import csv
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series
from numpy.typing import NDArray
from PIL import Image
from refusals import refusal
from scans import RAS, grey_slice, head_hu, nifti_patients, picture_patients, save_nifti, save_png, spot

from data_prep.__main__ import main
from data_prep.cohort.compiled import compile_cohort
from data_prep.cohort.layout import NOTES, Cohort, open_cohort
from data_prep.cohort.pixels import pixels_of
from data_prep.cohort.split import SplitConfig, make_split
from data_prep.cohort.store import read_patient
from data_prep.common.files import IF_BUSY, LOCK
from data_prep.importing.register import REGISTER, own_name
from data_prep.intensity.window import WINDOWS
from data_prep.preprocessing.picture import PictureConfig
from data_prep.sources.case import Case, SourceFormat
from data_prep.volumes.mask import Label

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    return main(["import", "--jobs", "1", *arguments])


def imported(*arguments: str) -> Cohort:
    assert run(*arguments) == 0
    return open_cohort(Path(arguments[1]), Path("cache"))


def fault_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refusal."""
    capsys.readouterr()
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    assert errors.startswith("error: ")
    return errors


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# What is made


def test_nifti_becomes_a_cohort_with_each_patients_spacing(capsys: pytest.CaptureFixture[str]) -> None:
    nifti_patients(Path("src"))
    cohort = imported("src", "dst", "--licence", "CC0", "--source", "us")
    assert [patient.id for patient in cohort.patients] == ["patient_0001", "patient_0002", "patient_0003"]
    assert [patient.spacing_mm for patient in cohort.patients] == [
        pytest.approx((mm, 0.6, 0.5)) for mm in (5.0, 5.5, 6.0)
    ]
    assert (cohort.window, cohort.licence, cohort.source) == ("brain (level 40 HU, width 80 HU)", "CC0", "us")
    for number, patient in enumerate(cohort.patients):
        image_ZKHW, mask_ZHW = read_patient(patient, Path("dst"))
        expected_ZHW = head_hu(number).transpose(2, 1, 0)[:, ::-1, ::-1]
        assert np.array_equal(image_ZKHW[:, 0], WINDOWS["brain"].to_grey(expected_ZHW))
        assert np.array_equal(mask_ZHW, spot().transpose(2, 1, 0)[:, ::-1, ::-1])
    said = capsys.readouterr().out
    assert "src: NIfTI, 3 patients, 3 with a mask" in said
    assert "spacing: 5 x 0.6 x 0.5 to 6 x 0.6 x 0.5 mm (3 different)" in said


def test_processes_make_the_same_cohort() -> None:
    nifti_patients(Path("src"))
    imported("src", "one")
    assert main(["import", "src", "two", "--jobs", "2", "--name", "one"]) == 0
    salted = f"{NOTES}/{REGISTER}"
    one, two = ({n: c for n, c in contents(Path(root)).items() if n != salted} for root in ("one", "two"))
    assert one == two


def test_16_bits_keep_the_hu_and_the_window_can_be_changed_later() -> None:
    nifti_patients(Path("src"))
    deep, flat = imported("src", "deep", "--depth", "16"), imported("src", "flat")
    with Image.open(Path("deep") / deep.patients[0].images[0]) as picture:
        assert picture.mode == "I;16"
        assert np.asarray(picture).min() == 24  # -1000 HU
    stores = [
        compile_cohort(Path(root), Path("cache"), PictureConfig(image_size=24, crop="none")).store.images_NSS
        for root in ("deep", "flat")
    ]
    assert np.array_equal(*stores)
    manifest = Path("deep/cohort.json")
    told = json.loads(manifest.read_text())
    told["hu"] = {"offset": 1024, "window": WINDOWS["stroke"].model_dump()}  # as earlier versions wrote it
    manifest.write_text(json.dumps(told))
    other = compile_cohort(Path("deep"), Path("cache"), PictureConfig(image_size=24, crop="none"))
    assert other.cohort.hash == deep.hash != flat.hash
    assert np.array_equal(read_patient(other.cohort.patients[0], Path("deep"), pixels_of(other.cohort))[0][:, 0],
                          WINDOWS["stroke"].to_grey(head_hu().transpose(2, 1, 0)[:, ::-1, ::-1]))  # fmt: skip
    assert not np.array_equal(other.store.images_NSS, stores[0])


def cut_out(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(values < -500, 0, values)


LOST = {
    "intercept": (lambda hu: hu + 1024, [], "in its middle, where brain has 0 to 100 HU, as in scans that lost"),
    "older intercept": (lambda hu: hu + 1000, [], "say by --hu-offset what was added to the HU (mostly 1024"),
    "intercept of a cut-out brain": (lambda hu: cut_out(hu) + 1024 * (hu > -500), [], "lost their rescale intercept"),
    "another offset": (lambda hu: hu + 8192, [], "82"),
    "offset that was none": (lambda hu: hu, ["--hu-offset", "1024"], "leave the option out"),
}
KEPT = {
    "as it should be": (lambda hu: hu, [], False),
    "intercept that is told": (lambda hu: hu + 1024, ["--hu-offset", "1024"], False),
    "padding beyond air": (lambda hu: np.where(hu < -500, -3024, hu), [], False),
    "a cut-out brain": (cut_out, [], True),
}


def save_scan(hu: NDArray[np.float32], kind: str) -> None:
    """A patient in ``src``."""
    Path("src/p1").mkdir(parents=True)
    if kind == "nifti":
        save_nifti(Path("src/p1/ct.nii.gz"), hu.astype(np.int16))
        save_nifti(Path("src/p1/mask.nii.gz"), spot())
    else:
        np.savez(Path("src/p1.npz"), image=hu.transpose(2, 1, 0).astype(np.int16), mask=spot().transpose(2, 1, 0))


@pytest.mark.parametrize("kind", ["nifti", "npz"])
@pytest.mark.parametrize("case", LOST)
def test_values_that_are_no_hu_are_refused(capsys: pytest.CaptureFixture[str], case: str, kind: str) -> None:
    change, options, words = LOST[case]
    save_scan(change(head_hu()), kind)
    assert words in fault_of(capsys, "src", "dst", *options)


@pytest.mark.parametrize("kind", ["nifti", "npz"])
@pytest.mark.parametrize("case", KEPT)
def test_values_that_may_be_hu_are_taken(capsys: pytest.CaptureFixture[str], case: str, kind: str) -> None:
    change, options, is_doubtful = KEPT[case]
    save_scan(change(head_hu()), kind)
    (patient,) = imported("src", "dst", *options).patients
    inner_ZHW = read_patient(patient, Path("dst"))[0][:, 0, 4:-4, 4:-4]
    expected_ZHW = WINDOWS["brain"].to_grey(head_hu().transpose(2, 1, 0))[:, 4:-4, 4:-4]
    assert np.array_equal(np.sort(inner_ZHW, axis=None), np.sort(expected_ZHW, axis=None))
    assert ("warning: 1 patient to look at; patient_0001: no air in it" in capsys.readouterr().out) is is_doubtful


def test_aisd_labels_become_lesion_and_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    picture_patients(Path("src"), (1, 2, 3, 4, 5))
    cohort = imported("src", "dst", "--spacing-mm", "5", "0.5", "0.4")
    assert cohort.has_ignored
    masks = [read_patient(patient, Path("dst"), has_ignored=True)[1] for patient in cohort.patients]
    assert [int((mask == Label.LESION).sum()) for mask in masks] == [16, 16, 16, 0, 16]
    assert [int((mask == Label.IGNORED).sum()) for mask in masks] == [0, 0, 0, 16, 0]
    assert cohort.window is None
    assert {patient.spacing_mm for patient in cohort.patients} == {(5.0, 0.5, 0.4)}
    assert "4 (unsure) is ignored" in capsys.readouterr().out


def test_masks_that_jpeg_blurred_are_split_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    lesion_HW = np.zeros((64, 64), dtype=np.uint8)
    lesion_HW[20:40, 25:45] = 255
    for name in "ab":
        Path(f"src/masks/{name}").mkdir(parents=True)
        for z in range(3):
            save_png(Path(f"src/images/{name}/{z}.png"), grey_slice(z, 64))
            Image.fromarray(lesion_HW).save(f"src/masks/{name}/{z}.jpg", quality=60)
    assert run("src", "other", "--ignore-labels", "128") == 2
    assert "0.jpg: values are blurred, as JPEG leaves them, so labels cannot be told apart" in capsys.readouterr().err
    cohort = imported("src", "dst")
    mask_ZHW = read_patient(cohort.patients[0], Path("dst"))[1]
    assert np.array_equal(mask_ZHW == Label.LESION, np.stack([lesion_HW > 0] * 3))


IDLE = {
    "a label that is in no mask": (["--lesion-labels", "7"], "with these labels no mask holds a lesion"),
    "all lesion ignored": (["--ignore-labels", "1"], "with these labels no mask holds a lesion"),
    "an ignored label that is in no mask": (["--ignore-labels", "300"], "--ignore-labels 300: is in no mask"),
    "the background as lesion": (["--lesion-labels", "0,1"], "--lesion-labels 0: is the background"),
    "the background ignored": (["--ignore-labels", "0"], "--ignore-labels 0: is the background"),
}


@pytest.mark.parametrize("case", IDLE)
def test_labels_that_nothing_holds_are_refused(capsys: pytest.CaptureFixture[str], case: str) -> None:
    options, words = IDLE[case]
    nifti_patients(Path("src"), 2)
    assert words in fault_of(capsys, "src", "dst", *options)
    assert not Path("dst", "cohort.json").exists()


def test_official_test_patients_are_those_of_the_list() -> None:
    nifti_patients(Path("src"), 9)
    Path("test.txt").write_text("sub-Doe3\n\nsub-Doe7\n")
    cohort = imported("src", "dst", "--test-list", "test.txt")
    assert cohort.official_test == ("patient_0004", "patient_0008")
    store = compile_cohort(Path("dst"), Path("cache"), PictureConfig(image_size=24, crop="none")).store
    for seed in range(3):
        split = make_split(store, SplitConfig(seed=seed))
        assert split.test == cohort.official_test
        assert len(split.train) + len(split.val) == 7


def test_names_reach_the_file_that_is_asked_for_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    nifti_patients(Path("src"))
    Path("test.txt").write_text("sub-Doe1\n")
    imported("src", "dst", "--test-list", "test.txt", "--ids", "keys/ids.csv")
    with Path("keys/ids.csv").open() as file:
        assert [*csv.reader(file)][1:] == [[f"patient_000{n + 1}", f"sub-Doe{n}"] for n in range(3)]
    said = "".join(capsys.readouterr())
    assert "Doe" not in said
    for name, content in contents(Path("dst")).items():
        assert "Doe" not in name
        assert b"Doe" not in content


@pytest.mark.parametrize(("choice", "patients"), [("empty", 3), ("skip", 2)])
def test_patients_without_masks_are_taken_as_told(
    capsys: pytest.CaptureFixture[str], choice: str, patients: int
) -> None:
    nifti_patients(Path("src"))
    Path("src/sub-Doe1/ct/sub-Doe1_lesion_mask.nii.gz").unlink()
    assert "sub-Doe1_ct.nii.gz: no mask for it; 1 of 3 patients lack masks" in fault_of(capsys, "src", "dst")
    cohort = imported("src", "dst", "--missing-masks", choice)
    assert len(cohort.patients) == patients
    lesions = [bool(read_patient(patient, Path("dst"))[1].any()) for patient in cohort.patients]
    assert lesions == ([True, False, True] if choice == "empty" else [True, True])


def test_a_slice_without_a_mask_is_not_taken_silently(capsys: pytest.CaptureFixture[str]) -> None:
    picture_patients(Path("src"))
    Path("src/mask/009140/000.png").unlink()
    assert "src/image/009140/000.png: no mask for it" in fault_of(capsys, "src", "dst")


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    nifti_patients(Path("src"))
    assert run("src", "dst", "--dry-run") == 0
    assert "3 patients, 3 with a mask" in capsys.readouterr().out
    assert not Path("dst").exists()


# Going on


def times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*.png")}


def test_a_rerun_changes_nothing() -> None:
    nifti_patients(Path("src"))
    first = imported("src", "dst")
    before, written = contents(Path("dst")), times(Path("dst"))
    assert imported("src", "dst") == first
    assert contents(Path("dst")) == before
    assert times(Path("dst")) == written


def test_one_bad_patient_leaves_the_others_and_a_rerun_completes(capsys: pytest.CaptureFixture[str]) -> None:
    nifti_patients(Path("src"))
    bad = Path("src/sub-Doe1/ct/sub-Doe1_ct.nii.gz")
    whole = bad.read_bytes()
    bad.write_bytes(whole[:200])
    assert f"{bad}: not a readable NIfTI file" in fault_of(capsys, "src", "dst")
    assert sorted(path.name for path in Path("dst/images").iterdir()) == ["patient_0001", "patient_0003"]
    assert sorted(path.name for path in Path("dst/masks").iterdir()) == ["patient_0001", "patient_0003"]
    assert not Path("dst/cohort.json").exists()
    kept = times(Path("dst"))
    bad.write_bytes(whole)
    imported("src", "dst")
    assert kept.items() <= times(Path("dst")).items()
    imported("src", "at_once", "--name", "dst")
    pixels = [
        {name: content for name, content in contents(Path(root)).items() if not name.startswith(NOTES)}
        for root in ("dst", "at_once")
    ]
    assert pixels[0] == pixels[1]


def test_several_bad_patients_get_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    nifti_patients(Path("src"))
    for number in (0, 2):
        Path(f"src/sub-Doe{number}/ct/sub-Doe{number}_ct.nii.gz").write_bytes(b"")
    assert run("src", "dst") == 2
    lines = capsys.readouterr().err.splitlines()
    assert ["Doe0" in lines[0], "Doe2" in lines[1]] == [True, True]
    assert lines[2] == "error: 2 of 3 patients could not be imported; mend them, the same command goes on"


def test_changed_sources_and_settings_are_imported_anew() -> None:
    nifti_patients(Path("src"), 4)
    first = imported("src", "dst")
    save_nifti(Path("src/sub-Doe1/ct/sub-Doe1_ct.nii.gz"), head_hu(77), RAS * np.array([1, 1, 1.1, 1]))
    second = imported("src", "dst")
    assert [old.hash == new.hash for old, new in zip(first.patients, second.patients, strict=True)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert imported("src", "dst", "--window", "stroke").window == str(WINDOWS["stroke"])
    for part in Path("src/sub-Doe3/ct").iterdir():
        part.unlink()
    assert len(imported("src", "dst").patients) == 3


def volumes(cohort: Cohort) -> dict[str, float]:
    """A patient's spacing between slices, by which `nifti_patients` can be told apart."""
    return {patient.id: round((patient.spacing_mm or (0.0,))[0], 2) for patient in cohort.patients}


def test_ids_stay_with_their_patients_when_the_source_changes(capsys: pytest.CaptureFixture[str]) -> None:
    nifti_patients(Path("src"), 4)
    away = Path("src/sub-Doe0").rename("away")
    first = volumes(imported("src", "dst"))
    assert first == {"patient_0001": 5.5, "patient_0002": 6.0, "patient_0003": 6.5}
    away.rename("src/sub-Doe0")
    Path("src/sub-Doe2").rename("away")
    kept = times(Path("dst"))
    capsys.readouterr()
    second = volumes(imported("src", "dst"))
    assert "removed: 1 patient no longer in the source, patient_0002 the first" in capsys.readouterr().out
    assert second == {"patient_0001": 5.5, "patient_0003": 6.5, "patient_0004": 5.0}
    assert {f: t for f, t in times(Path("dst")).items() if "_0004" not in f}.items() <= kept.items()
    Path("src/sub-Doe3").rename("src/sub-Zoe")
    assert volumes(imported("src", "dst")) == {"patient_0001": 5.5, "patient_0004": 5.0, "patient_0005": 6.5}
    Path("away").rename("src/sub-Doe2")
    assert volumes(imported("src", "dst"))["patient_0002"] == 6.0
    assert run("src", "dst", "--dry-run") == 0
    assert "Doe" not in Path("dst", NOTES, REGISTER).read_text()


def test_a_dicom_patient_goes_by_whom_its_files_name() -> None:
    case = Case("flat/2", (Path("src/flat/b1"), Path("src/flat/b2")), None, SourceFormat.DICOM, identity="PID-7")
    assert own_name(case) == "PID-7"
    assert "PID-7" not in repr(case)


SPOILT = {
    "another source": (lambda: Path("src").rename("other"), "other", "dst: was made from another source than other"),
    "damaged": (lambda: Path("dst", NOTES, REGISTER).write_text("{"), "src", "ids.json: damaged (1 validation error"),
    "lost": (lambda: Path("dst", NOTES, REGISTER).unlink(), "src", "missing, so whose ids these are is not known"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_ids_are_not_guessed(capsys: pytest.CaptureFixture[str], case: str) -> None:
    spoil, source, words = SPOILT[case]
    nifti_patients(Path("src"), 1)
    imported("src", "dst")
    spoil()
    before = contents(Path("dst"))
    assert words in fault_of(capsys, source, "dst")
    assert contents(Path("dst")) == before


@pytest.mark.parametrize("command", [["import", "src", "dst", "--jobs", "1"], ["check", "dst", "--fix"]])
def test_one_command_changes_a_cohort_at_a_time(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    nifti_patients(Path("src"), 1)
    imported("src", "dst")
    assert not Path("dst", LOCK).exists()
    before = contents(Path("dst"))
    with Path("dst", LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(command) == 2
        assert capsys.readouterr().err == f"error: dst: {IF_BUSY}\n"
    Path("dst", LOCK).unlink()
    assert contents(Path("dst")) == before


KILLED = """
import os, sys
from data_prep.importing import patients as importing
from data_prep.__main__ import main
written = importing.write_text_atomically
importing.write_text_atomically = lambda path, text: os._exit(9) if "0002" in path.name else written(path, text)
main(["import", "src", "dst", "--jobs", "1"])
"""


def test_killed_between_two_steps_it_goes_on() -> None:
    nifti_patients(Path("src"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=60, env=environment)
    assert killed.returncode == 9
    assert "was imported, but not to the end" in refusal(lambda: open_cohort(Path("dst"), Path("cache")))
    (Path("dst/images/.patient_0003.1.partial")).mkdir()
    assert len(imported("src", "dst").patients) == 3
    assert not list(Path("dst").rglob("*.partial"))


def test_a_full_disk_leaves_whole_patients_and_goes_on_later(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        for z in range(8):
            save_png(Path(f"src/images/p{number}/{z}.png"), grey_slice(z, 256))
            save_png(Path(f"src/masks/p{number}/{z}.png"), np.zeros((256, 256), dtype=np.uint8))
    message = fault_of(capsys, "src", str(disk / "dst"))
    assert "dst: cannot be written (No space left on device); make room, or choose another folder" in message
    assert [path.name for path in (disk / "dst" / "images").iterdir()] == ["patient_0001"]
    assert not list(disk.rglob("*.partial"))
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert len(imported("src", str(disk / "dst")).patients) == 4


def test_a_read_only_target_is_one_line(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nifti_patients(Path("src"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "cannot be written (Read-only file system); make room, or choose another" in fault_of(
        capsys, "src", str(disk / "dst")
    )


# Refusals

BAD = {
    "no source": (["gone", "dst"], "gone: no such folder"),
    "no process": (["src", "dst", "--jobs", "0"], "--jobs 0: at least one process"),
    "inside": (["src", "src/dst"], "src/dst: lies in the source, or around it"),
    "around": (["src/sub-Doe0", "src"], "src: lies in the source, or around it"),
    "ids inside": (["src", "dst", "--ids", "dst/ids.csv"], "--ids dst/ids.csv: lies in the cohort"),
    "spacing": (["src", "dst", "--spacing-mm", "5", "0", "1"], "distances are above 0"),
    "spacing twice": (["src", "dst", "--spacing-mm", "5", "1", "1"], "NIfTI files tell theirs; leave it out"),
    "offset of DICOM": (["ct", "dst", "--hu-offset", "1024", "--missing-masks", "empty"], "DICOM files tell theirs"),
    "foreign": (["src", "foreign"], "foreign: holds something else; remove it or name another"),
    "a file": (["src", "test.txt"], "test.txt: is a file; name a folder"),
    "unknown test patient": (["src", "dst", "--test-list", "test.txt"], "line 2 is no patient that is imported"),
    "no test list": (["src", "dst", "--test-list", "none.txt"], "none.txt: cannot be read as text"),
    "all tested": (["src", "dst", "--test-list", "all.txt"], "3 of 3 patients; some are tested, others train"),
    "no masks": (["src", "dst", "--mask-pattern", "none", "--image-pattern", "*_ct*", "--missing-masks", "skip"],
                 "no patient has a mask; say which files are masks"),
    "no such format": (["src", "dst", "--format", "npz"], "no scans of npz arrays; say which files are scans"),
    "long": (["src", "d" * 300], "no usable path"),
    "loop": (["src", "loop/dst"], "no usable path"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(capsys: pytest.CaptureFixture[str], case: str) -> None:
    arguments, words = BAD[case]
    nifti_patients(Path("src"))
    write_series(Path("ct/p1"))
    Path("foreign").mkdir()
    Path("foreign/thesis.txt").write_text("")
    Path("test.txt").write_text("sub-Doe1\nsub-Roe\n")
    Path("all.txt").write_text("sub-Doe0\nsub-Doe1\nsub-Doe2\n")
    Path("loop").symlink_to("loop")
    before = sorted(Path().rglob("*"))
    assert words in fault_of(capsys, *arguments)
    assert sorted(Path().rglob("*")) == before
