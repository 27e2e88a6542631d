"""Which scans are of one patient: ``--group-by`` of import and index, sessions, and what cohort.json keeps of it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refusal
from scans import grey_slice, head_hu, save_nifti, save_png, spot

from data_prep.__main__ import main
from data_prep.cohort.compiled import compile_cohort
from data_prep.cohort.groups import group_numbers, group_pattern, in_words, patients_by
from data_prep.cohort.layout import NOTES, Cohort, open_cohort, read_cohort, read_manifest, scan_cohort
from data_prep.cohort.split import SplitConfig, make_split
from data_prep.cohort.store import store_folder
from data_prep.importing.register import REGISTER, Register, patient_id
from data_prep.preprocessing.picture import PictureConfig
from data_prep.quality.cohort_check import check_cohort
from data_prep.sources.case import Case, SourceFormat

BY_NUMBER = "(.+)_[0-9]"
Build = Callable[..., Path]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    return main([arguments[0], *arguments[1:], *(["--jobs", "1"] if arguments[0] == "import" else [])])


def imported(*options: str) -> Cohort:
    assert run("import", "src", "dst", *options) == 0
    return open_cohort(Path("dst"), Path("cache"))


def groups(cohort: Cohort) -> dict[str, int | None]:
    return {patient.id: patient.group for patient in cohort.patients}


def fault_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    return errors


def volumes(*names: str) -> None:
    for number, name in enumerate(names):
        save_nifti(Path("src/images") / f"{name}.nii.gz", head_hu(number))
        save_nifti(Path("src/labels") / f"{name}.nii.gz", spot())


def slices(*names: str) -> None:
    for number, name in enumerate(names):
        save_png(Path("src/images") / name / "1.png", grey_slice(number))
        save_png(Path("src/masks") / name / "1.png", np.zeros((24, 24), dtype=np.uint8))


# What an import makes


@pytest.mark.parametrize("write", [volumes, slices])
def test_scans_by_a_pattern_are_cases_of_one_group(write, capsys: pytest.CaptureFixture[str]) -> None:
    write("Doe_0", "Doe_1", "Roe_0", "Smith_0", "Smith_1", "Smith_2")
    cohort = imported("--group-by", BY_NUMBER, "--ids", "ids.csv")
    assert [*groups(cohort).values()] == [1, 1, None, 4, 4, 4]
    assert sorted(path.name for path in Path("dst/images").iterdir()) == [f"patient_000{n}" for n in range(1, 7)]
    said = capsys.readouterr()
    assert "6 scans, 6 with a mask" in said.out
    assert "groups: 6 scans of 3 patients; no split divides those of a patient" in said.out
    assert "dst: 6 scans of 3 patients" in said.out
    with Path("ids.csv").open() as file:
        rows = [*csv.reader(file)]
    assert rows[0] == ["id", "source", "group"]
    assert [row[2] for row in rows[1:]] == ["1", "1", "", "4", "4", "4"]
    texts = [said.out, said.err, *(path.read_bytes().decode("latin-1") for path in Path("dst").rglob("*.json"))]
    assert not any(name in text for name in ("Doe", "Roe", "Smith") for text in texts)


def test_a_pattern_sees_paths_and_wins_over_what_files_say() -> None:
    for number, name in enumerate(("sub-1/ses-1/a", "sub-1/ses-2/a", "sub-2/ses-1/b")):
        save_nifti(Path("src") / f"{name}_ct.nii.gz", head_hu(number))
        save_nifti(Path("src") / f"{name}_mask.nii.gz", spot())
    assert [*groups(imported()).values()] == [1, 1, None]
    assert [*groups(imported("--group-by", ".*/(ses-[0-9])/.*")).values()] == [1, None, 1]


def test_without_groups_a_manifest_is_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    volumes("a_0", "b_0")
    plain = imported()
    text = Path("dst/cohort.json").read_text()
    assert "group" not in text
    assert imported("--group-by", BY_NUMBER) == plain
    assert Path("dst/cohort.json").read_text() == text
    assert "by --group-by (.+)_[0-9] no two scans are of one patient" in capsys.readouterr().out


def test_groups_change_neither_the_hash_nor_what_is_done() -> None:
    volumes("a_0", "a_1", "b_0")
    before = imported()
    times = {path: path.stat().st_mtime_ns for path in Path("dst").rglob("*.png")}
    after = imported("--group-by", BY_NUMBER)
    assert after.hash == before.hash
    assert times == {path: path.stat().st_mtime_ns for path in Path("dst").rglob("*.png")}
    picture = PictureConfig(image_size=24, crop="none")
    assert store_folder(after, Path("cache"), picture) != store_folder(before, Path("cache"), picture)


def test_a_groups_number_stays_when_the_source_grows() -> None:
    volumes("b_0", "b_1", "c_0")
    assert groups(imported("--group-by", BY_NUMBER)) == {"patient_0001": 1, "patient_0002": 1, "patient_0003": None}
    volumes("a_0", "a_1", "b_0", "b_1", "b_2", "c_0")
    assert groups(imported("--group-by", BY_NUMBER)) == {
        "patient_0001": 1, "patient_0002": 1, "patient_0003": None, "patient_0004": 4, "patient_0005": 4,
        "patient_0006": 1,
    }  # fmt: skip


def session(number: int) -> None:
    save_nifti(Path(f"src/sub-Doe/ses-{number}/ct.nii.gz"), head_hu(number))
    save_nifti(Path(f"src/sub-Doe/ses-{number}/mask.nii.gz"), spot())


@pytest.mark.parametrize("is_earlier", [False, True], ids=["ours", "register of an earlier version"])
def test_ids_stay_when_a_subject_gets_a_second_session(is_earlier: bool) -> None:
    session(1 if is_earlier else 2)
    first = imported()
    if is_earlier:  # which knew the subject only
        path = Path("dst") / NOTES / REGISTER
        known = Register.model_validate_json(path.read_bytes())
        case = Case("sub-Doe", Path(), None, SourceFormat.NIFTI)
        numbers = known.model_copy(update={"numbers": {}}).with_numbers([case]).numbers
        path.write_text(known.model_copy(update={"numbers": numbers}).model_dump_json())
    session(2 if is_earlier else 1)
    second = imported()
    assert second.patients[0].hash == first.patients[0].hash
    assert groups(second) == {"patient_0001": 1, "patient_0002": 1}
    assert imported() == second
    shutil.rmtree("src/sub-Doe/ses-2" if is_earlier else "src/sub-Doe/ses-1")
    assert imported() == first


# Official test patients


def test_a_test_list_names_all_scans_of_a_patient_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    slices("a_0", "a_1", "b_0", "c_0")
    Path("test.txt").write_text("a_1\nb_0\n")
    options = ("--group-by", BY_NUMBER, "--test-list", "test.txt")
    message = fault_of(capsys, "import", "src", "dst", *options)
    assert "--test-list test.txt: names patient_0002, but not patient_0001, another scan of this patient; " in message
    assert not Path("dst/cohort.json").exists()
    for names in ("a_0\na_1\n", "a\n"):  # the patient's name stands for all scans
        Path("test.txt").write_text(names)
        assert imported(*options).official_test == ("patient_0001", "patient_0002")


def test_a_manifest_that_tests_half_a_patient_is_refused() -> None:
    slices("a_0", "a_1", "b_0")
    imported("--group-by", BY_NUMBER)
    manifest = Path("dst/cohort.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"official_test": ["patient_0002"]}))
    assert "official_test names patient_0002, but not patient_0001" in refusal(lambda: read_manifest(manifest))


# Patterns that are none

BAD = {
    "(": "--group-by (: no regular expression (missing ), unterminated subpattern",
    "a_[0-9]": "--group-by a_[0-9]: nothing in brackets, so it does not say who the patient is; for id_0 and id_1 say",
    "(q.*)_[0-9]": "--group-by (q.*)_[0-9]: fits none of 2 scans, such as a_0",
    "()a_.|()b_.": "fits none of 2 scans",
    "(a)": "fits none of 2 scans",
    "": "nothing in brackets",
}


@pytest.mark.parametrize("pattern", BAD)
def test_a_pattern_that_says_nothing_is_refused(capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    slices("a_0", "b_0")
    assert BAD[pattern] in fault_of(capsys, "import", "src", "dst", "--group-by", pattern)
    assert BAD[pattern] in fault_of(capsys, "index", "src", "--group-by", pattern)
    assert not Path("dst").exists()
    assert not Path("src/cohort.json").exists()


def test_only_whole_names_fit_and_what_does_not_fit_stands_alone() -> None:
    pattern = group_pattern("(p[0-9]+)_.|(q)-.")
    names = [["p1_a"], ["p12_a"], ["x", "site/p1", "p1_b"], ["q-1"], ["other"], ["p1_ab"]]
    assert patients_by(pattern, names) == ["p1", "p12", "p1", "q", None, None]


def test_groups_have_the_lowest_number_of_their_scans() -> None:
    numbers = {"a": 3, "b": 1, "c": 2, "d": 5, "e": 4}
    assert group_numbers({"a": "x", "b": "y", "c": "x", "d": None, "e": None}, numbers) == {"a": 2, "c": 2}


@pytest.mark.parametrize(
    ("persons", "words"), [("abc", "3 patients"), ("aab", "3 scans of 2 patients"), ("aa", "2 scans of 1 patient")]
)
def test_scans_and_patients_in_words(persons: str, words: str) -> None:
    assert in_words(persons) == words


def test_registered_numbers_are_of_scans() -> None:
    register = Register(salt="00", source="", numbers={})
    cases = [Case(name, Path(), None, SourceFormat.DICOM, identity=name, patient="p") for name in ("one", "two")]
    known = register.with_numbers(cases)
    assert [patient_id(known.number_of(case)) for case in cases] == ["patient_0001", "patient_0002"]
    assert known.with_numbers(cases[1:]) == known


# A folder that was not imported


def indexed(*options: str) -> Cohort:
    Path("data/cohort.json").unlink(missing_ok=True)
    assert run("index", "data", *options) == 0
    return read_cohort(Path("data"))


TWELVE = tuple(f"{name}_{visit}" for name in "abcdef" for visit in range(2))


def test_an_index_knows_groups_and_the_split_keeps_to_them(
    write_cohort: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort("data", patients=TWELVE, slices=("1", "2"))
    plain, cohort = scan_cohort(Path("data")), indexed("--group-by", BY_NUMBER)
    assert cohort.hash == plain.hash
    assert [*groups(cohort).values()] == [1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11]
    assert "12 scans of 6 patients, 24 slices" in capsys.readouterr().out
    assert (cohort.size, plain.size) == ("12 scans of 6 patients", "12 patients")
    store = compile_cohort(Path("data"), Path("cache"), PictureConfig(image_size=16, crop="none")).store
    split = make_split(store, SplitConfig())
    for part in (split.train, split.val, split.test):
        assert {name[0] for name in part}.isdisjoint({name[0] for name in {*TWELVE} - {*part}})
    assert main(["stats", "data", "--jobs", "1"]) == 0
    assert "12 scans of 6 patients, 24 slices in" in capsys.readouterr().out


def test_a_manifest_of_an_earlier_version_opens_as_ever(write_cohort: Build) -> None:
    write_cohort("data", patients=TWELVE, slices=("1", "2"))
    cohort = indexed()
    told = json.loads(Path("data/cohort.json").read_text())
    assert all("group" not in patient for patient in told["patients"])
    store = compile_cohort(Path("data"), Path("cache"), PictureConfig(image_size=16, crop="none")).store
    assert store.groups == {}
    assert "groups" not in make_split(store, SplitConfig()).model_dump(mode="json")
    assert cohort.patients == scan_cohort(Path("data")).patients


def test_check_passes_over_what_scans_of_one_patient_share(
    write_cohort: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort("data", patients=TWELVE[:4], slices=("1", "2"), size=64)
    for part in ("images", "masks"):
        shutil.copytree(Path("data") / part / "a_0", Path("data") / part / "a_1", dirs_exist_ok=True)
    indexed()
    told = [finding.detail for finding in check_cohort(Path("data"), jobs=1).findings if "a_1" in finding.detail]
    assert len(told) == 1
    assert "where they are scans of one patient, say so by --group-by of import or index" in told[0]
    indexed("--group-by", BY_NUMBER)
    report = check_cohort(Path("data"), jobs=1)
    assert not [finding for finding in report.findings if "a_1" in finding.detail]
    assert report.size == "4 scans of 2 patients"


def test_mending_keeps_the_groups(write_cohort: Build, capsys: pytest.CaptureFixture[str]) -> None:
    write_cohort("data", patients=TWELVE[:4], slices=("1", "2"), size=64)
    indexed("--group-by", BY_NUMBER)
    Path("data/masks/a_0/2.png").unlink()
    mask_HW = np.zeros((64, 64), dtype=np.uint8)
    mask_HW[20:40, 20:40] = 255
    Image.fromarray(mask_HW).save("data/masks/a_0/2.jpg", quality=60)
    main(["check", "data", "--fix", "--jobs", "1"])
    assert "mended" in capsys.readouterr().out
    assert [*groups(read_cohort(Path("data"))).values()] == [1, 1, 3, 3]
