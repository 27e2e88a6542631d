"""``python -m data_prep import`` of DICOM studies with DICOM-SEG masks: a cohort that names nobody."""

import json
import re

import numpy as np
import pytest
from dicom_files import IDENTIFYING, SIZE, UIDS, write_series
from PIL import Image

from data_prep.__main__ import main
from data_prep.sources.dicom import open_dicom
from data_prep.sources.dicom_seg import Author, write_seg


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


def test_two_studies_of_one_patient_are_refused(tmp_path, mask_ZHW, capsys):
    write_study(tmp_path / "in" / "a", 1, mask_ZHW)
    write_study(tmp_path / "in" / "b", 2, mask_ZHW, tags={"PatientID": "id1"})
    assert main(["import", str(tmp_path / "in"), str(tmp_path / "out"), "--jobs", "1"]) == 2
    assert "two studies of one patient" in capsys.readouterr().err
