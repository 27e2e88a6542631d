"""``python -m data_prep import`` of DICOM studies: a cohort that names nobody, and what is said of each patient."""

import json
import pickle
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import IDENTIFYING, SIZE, UIDS, open_dicom, write_series
from PIL import Image
from pydicom.data import get_testdata_file

from data_prep.__main__ import main
from data_prep.sources.dicom import studies as dicom_studies
from data_prep.sources.dicom.seg import Author, write_seg
from data_prep.sources.dicom.studies import find_studies
from data_prep.sources.naming.tree import Patterns
from data_prep.sources.recognise import recognise


@pytest.fixture
def mask_ZHW():
    mask_ZHW = np.zeros((12, *SIZE), dtype=bool)
    mask_ZHW[4:7, 10:20, 5:12] = True
    return mask_ZHW


def write_study(folder, study, mask_ZHW, **settings):
    write_series(folder, study=study, **settings)
    write_seg(folder / "seg.dcm", open_dicom(folder), mask_ZHW, Author("a person", "1"))


def test_studies_become_patients_without_a_name(tmp_path, mask_ZHW, capsys):
    markers = re.compile("marker|doe|1902030|19010203|" + re.escape(UIDS), re.IGNORECASE)
    write_study(tmp_path / "in" / "doe_john", 1, mask_ZHW, tags={**IDENTIFYING, "PatientID": "MARKER1"})
    write_study(tmp_path / "in" / "doe_jane", 2, mask_ZHW, tags={**IDENTIFYING, "PatientID": "MARKER2"})
    assert main(["import", str(tmp_path / "in"), str(tmp_path / "out"), "--jobs", "1"]) == 0
    manifest = json.loads((tmp_path / "out" / "cohort.json").read_text(encoding="utf-8"))
    assert [patient["id"] for patient in manifest["patients"]] == ["patient_0001", "patient_0002"]
    assert manifest["patients"][0]["spacing_mm"] == [5.0, 4.0, 5.0]
    masks = sorted((tmp_path / "out" / "masks" / "patient_0001").iterdir())
    written_ZHW = np.stack([np.asarray(Image.open(file)) for file in masks])
    np.testing.assert_array_equal(written_ZHW > 0, mask_ZHW)
    for file in (tmp_path / "out").rglob("*"):
        text = file.read_bytes().decode("latin-1") if file.is_file() else ""
        assert not markers.search(file.relative_to(tmp_path).as_posix() + text)
    told = capsys.readouterr()
    assert not markers.search(told.out + told.err)


def test_files_without_an_ending_are_recognised(tmp_path, mask_ZHW):
    write_study(tmp_path / "in" / "a", 1, mask_ZHW)
    write_study(tmp_path / "in" / "b", 2, mask_ZHW)
    for file in list((tmp_path / "in").rglob("*.dcm")):
        file.rename(file.with_suffix(""))
    assert main(["import", str(tmp_path / "in"), str(tmp_path / "out"), "--jobs", "1"]) == 0


def test_patients_in_one_folder_are_named_by_their_first_files(tmp_path):
    for number in (1, 2):
        write_series(tmp_path / "all", study=number, first=100 * number, count=2)
    names = [case.name for case in recognise(tmp_path, Patterns()).cases]
    assert names == ["all/f100.dcm", "all/f200.dcm"]


def groups(folder):
    manifest = json.loads((folder / "out" / "cohort.json").read_text(encoding="utf-8"))
    return {patient["id"]: patient.get("group") for patient in manifest["patients"]}


def test_two_studies_of_one_patient_are_two_scans_of_one_group(tmp_path, mask_ZHW, capsys):
    write_study(tmp_path / "in" / "a", 1, mask_ZHW)
    write_study(tmp_path / "in" / "b", 2, mask_ZHW[::-1], tags={"PatientID": "id1"})
    write_study(tmp_path / "in" / "c", 3, mask_ZHW)
    assert run(tmp_path) == 0
    told = capsys.readouterr().out
    assert "DICOM, 3 scans, 3 with a mask" in told
    assert "groups: 3 scans of 2 patients; no split divides those of a patient" in told
    assert groups(tmp_path) == {"patient_0001": 1, "patient_0002": 1, "patient_0003": None}
    np.testing.assert_array_equal(written(tmp_path), mask_ZHW)
    np.testing.assert_array_equal(written(tmp_path, "patient_0002"), mask_ZHW[::-1])
    assert "id1" not in (tmp_path / "out" / "cohort.json").read_text(encoding="utf-8")


def test_a_list_names_studies_of_a_patient_apart(tmp_path, capsys):
    for number, folder in enumerate(("doe/1", "doe/2"), start=1):
        for series in (1, 2):
            write_series(tmp_path / "in" / folder / f"s{series}", count=8, study=number, series=series,
                         tags={"PatientID": "id1"})  # fmt: skip
    chosen = tmp_path / "chosen.csv"
    chosen.write_text("doe/1,2\ndoe/2,1\n", encoding="utf-8")
    assert run(tmp_path, "--missing-masks", "empty", "--series", str(chosen)) == 0
    told = capsys.readouterr().out
    assert "patient_0001: series 2: axial" in told
    assert "patient_0002: series 1: axial" in told
    assert run(tmp_path, "--missing-masks", "empty", "--series", "1") == 2
    assert "--series 1: one number is for one scan, not 2" in capsys.readouterr().err


def test_ids_and_masks_stay_when_a_patient_gets_a_second_study(tmp_path, mask_ZHW):
    write_study(tmp_path / "in" / "b", 2, mask_ZHW, tags={"PatientID": "id1"})
    assert run(tmp_path) == 0
    kept = (tmp_path / "out" / "images" / "patient_0001" / "001.png").stat().st_mtime_ns
    write_study(tmp_path / "in" / "a", 1, mask_ZHW[::-1])
    assert run(tmp_path) == 0
    assert groups(tmp_path) == {"patient_0001": 1, "patient_0002": 1}
    np.testing.assert_array_equal(written(tmp_path, "patient_0002"), mask_ZHW[::-1])
    assert (tmp_path / "out" / "images" / "patient_0001" / "001.png").stat().st_mtime_ns == kept


def test_a_pattern_tells_apart_whom_one_patient_id_does_not(tmp_path, mask_ZHW):
    for number, name in enumerate(("p1_a", "p1_b", "p2_a", "p3_a"), start=1):
        write_study(tmp_path / "in" / name, number, mask_ZHW, tags={"PatientID": "ANON"})
    assert run(tmp_path) == 0
    assert set(groups(tmp_path).values()) == {1}
    assert run(tmp_path, "--group-by", "(p[0-9]+)_.") == 0
    assert list(groups(tmp_path).values()) == [1, 1, None, None]


def test_a_mask_of_two_studies_is_asked_about(tmp_path, mask_ZHW, capsys):
    for number in (1, 2):
        write_series(tmp_path / "in" / "p1" / str(number), study=number, tags={"PatientID": "id1"})
    volume = np.zeros((*SIZE[::-1], 12), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "in" / "p1_mask.nii.gz")
    assert run(tmp_path) == 2
    assert "p1_mask.nii.gz: a mask, but of which of 2 DICOM studies is not clear" in capsys.readouterr().err


def test_two_masks_of_a_study_are_refused(tmp_path, mask_ZHW, capsys):
    write_study(tmp_path / "in" / "a", 1, mask_ZHW)
    write_seg(tmp_path / "in" / "a" / "more.dcm", open_dicom(tmp_path / "in" / "a"), mask_ZHW, Author("b", "1"))
    assert run(tmp_path) == 2
    assert "seg.dcm: two masks of one study; keep one of them" in capsys.readouterr().err


# What is taken of each patient.


def run(folder, *options):
    return main(["import", str(folder / "in"), str(folder / "out"), "--jobs", "1", *options])


def written(folder, patient="patient_0001"):
    files = sorted((folder / "out" / "masks" / patient).iterdir())
    return np.stack([np.asarray(Image.open(file)) for file in files]) > 0


def two_patients(folder):
    """The first with two series that are alike, the second scanned with a tilted gantry; neither has a mask."""
    for series in (1, 2):
        write_series(folder / "in" / "doe" / str(series), count=8, study=1, series=series)
    write_series(folder / "in" / "roe", count=8, study=2, tilt_deg=10, tags=IDENTIFYING)
    write_series(folder / "in" / "roe" / "bone", count=8, study=2, series=2,
                 tags={**IDENTIFYING, "ConvolutionKernel": "H60s"})  # fmt: skip
    return folder


def test_what_is_taken_is_said_and_asked_for(tmp_path, capsys):
    two_patients(tmp_path)
    (tmp_path / "chosen.csv").write_text("\ndoe, 2\n", encoding="utf-8")
    assert run(tmp_path, "--missing-masks", "empty", "--dry-run", "--ids", str(tmp_path / "ids.csv")) == 2
    assert (tmp_path / "ids.csv").read_text(encoding="utf-8").split() == [
        "id,source", "patient_0001,doe", "patient_0002,roe",
    ]  # fmt: skip
    told = capsys.readouterr()
    roe = "patient_0002: series 1: axial, 8 slices, soft kernel, 5 mm (of 2); gantry tilt of 10.0 degrees corrected"
    assert f"{roe}; not taken: 2: axial, 8 slices, bone kernel, 5 mm\n" in told.out
    assert "doe/1: several series may be the head CT; keep one, or choose by --series: 1: axial" in told.err
    assert not (tmp_path / "out").exists()
    for _ in range(2):  # a rerun says it again, though nothing is left to do
        assert run(tmp_path, "--missing-masks", "empty", "--series", str(tmp_path / "chosen.csv")) == 0
        told = capsys.readouterr().out
        assert "patient_0001: series 2: axial, 8 slices, soft kernel, 5 mm (of 2)\n" in told
        assert f"{roe}\n" in told
        assert "marker" not in told.lower()
    (tmp_path / "chosen.csv").write_text("doe,1", encoding="utf-8")
    assert run(tmp_path, "--missing-masks", "empty", "--series", str(tmp_path / "chosen.csv")) == 0
    assert "patient_0001: series 1: axial" in capsys.readouterr().out
    write_series(tmp_path / "alone", series=3, count=8)
    assert main(["import", str(tmp_path / "alone"), str(tmp_path / "b"), "--missing-masks", "empty", "--series", "1",
                 "--dry-run", "--jobs", "1"]) == 0  # fmt: skip
    assert "patient_0001: series 1: axial" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chosen", "words"),
    [("2", "one number is for one scan, not 2"), ("doe/1 2", "line 1 is not a patient's name, a comma and"),
     ("doe/1,two", "line 1 is not"), ("dot,2", "line 1 is no patient that is imported"),
     ("roe,1\nroe,2", "line 2 names a patient again"), (None, "neither a number nor a file")],
)  # fmt: skip
def test_a_choice_that_fits_nobody_is_refused(chosen, words, tmp_path, capsys):
    two_patients(tmp_path)
    file = tmp_path / "chosen.csv"
    if chosen and chosen != "2":
        file.write_text(chosen, encoding="utf-8")
    assert run(tmp_path, "--missing-masks", "empty", "--series", chosen if chosen == "2" else str(file)) == 2
    assert words in capsys.readouterr().err


def test_an_id_stays_with_its_patient_when_another_series_comes_first(tmp_path, capsys):
    two_patients(tmp_path)
    chosen = tmp_path / "chosen.csv"
    chosen.write_text("doe,1", encoding="utf-8")
    options = ("--missing-masks", "empty", "--series", str(chosen))
    assert run(tmp_path, *options) == 0
    write_series(tmp_path / "in" / "doe" / "0", count=8, study=1, series=9)
    (tmp_path / "in" / "doe").rename(tmp_path / "in" / "zoe")
    chosen.write_text("zoe,1", encoding="utf-8")
    assert run(tmp_path, *options) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["patient_0001", "patient_0002"]
    assert "removed" not in capsys.readouterr().out


# Damaged files.


def test_a_damaged_file_refuses_its_own_patient_only(tmp_path, mask_ZHW, capsys):
    for number in (1, 2, 3):
        write_study(tmp_path / "in" / f"p{number}", number, mask_ZHW)
    whole = find_studies(tmp_path / "in")
    (tmp_path / "in" / "p1" / "f0.dcm").write_bytes(b"")  # whose it was can only be told by its folder
    seg = (tmp_path / "in" / "p2" / "seg.dcm").read_bytes()
    (tmp_path / "in" / "p2" / "seg.dcm").write_bytes(seg[:-100])
    (tmp_path / "in" / "DICOMDIR").write_bytes(Path(get_testdata_file("DICOMDIR")).read_bytes())
    assert find_studies(tmp_path / "in") == whole
    assert run(tmp_path) == 2
    said = capsys.readouterr().err
    assert "p1/f0.dcm: not a DICOM file, or cut off" in said
    assert "p2/seg.dcm: the segmentation is damaged" in said
    assert "2 of 3 patients could not be imported" in said
    assert [folder.name for folder in (tmp_path / "out" / "images").iterdir()] == ["patient_0003"]
    kept = (tmp_path / "out" / "images" / "patient_0003" / "001.png").stat().st_mtime_ns
    write_series(tmp_path / "in" / "p1", study=1)
    (tmp_path / "in" / "p2" / "seg.dcm").write_bytes(seg)
    assert run(tmp_path) == 0
    assert (tmp_path / "out" / "images" / "patient_0003" / "001.png").stat().st_mtime_ns == kept
    assert len(json.loads((tmp_path / "out" / "cohort.json").read_text(encoding="utf-8"))["patients"]) == 3


@pytest.mark.parametrize("name", ["stray.dcm", "IM0007", "1.2.840.7"])
def test_a_damaged_file_that_may_be_anybodys_is_not_lost(name, tmp_path, mask_ZHW, capsys):
    write_study(tmp_path / "in" / "p1", 1, mask_ZHW)
    (tmp_path / "in" / name).write_bytes(bytes(100))
    (tmp_path / "in" / "VERSION").write_text("3", encoding="utf-8")
    for options in ((), ("--dry-run",)):
        assert run(tmp_path, *options) == 2
        assert f"{name}: not a DICOM file, or cut off" in capsys.readouterr().err
    assert written(tmp_path).any()
    assert not (tmp_path / "out" / "cohort.json").exists()


def test_files_are_sorted_in_batches_that_can_be_sent_to_processes(tmp_path, monkeypatch):
    for number in (1, 2):
        write_series(tmp_path / "all", study=number, first=100 * number)
    (tmp_path / "all" / "cut.dcm").write_bytes(b"")
    at_once = find_studies(tmp_path)
    assert [len(study.files) for study in at_once.found] == [12, 12]
    assert len(at_once.lost) == 1
    monkeypatch.setattr(dicom_studies, "BATCH", 7)
    assert find_studies(tmp_path) == at_once
    marks = dicom_studies.read_marks(sorted((tmp_path / "all").iterdir()))
    assert pickle.loads(pickle.dumps(marks)) == marks
