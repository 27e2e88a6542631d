"""``python -m lcnn predict`` on NIfTI files, DICOM studies and pictures: masks in the input's own grid, no names."""

import logging
import re
import warnings

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from dicom_files import IDENTIFYING, SIZE, SPACING_MM, UIDS, head, open_dicom, write_series
from PIL import Image
from pydicom import dcmread

from data_prep.cohort.layout import scan_cohort, write_manifest
from data_prep.common.errors import InputError
from data_prep.intensity.window import WINDOWS, KeptHu
from data_prep.preprocessing.picture import PictureConfig
from data_prep.sources.dicom.seg import read_seg
from lcnn.__main__ import main
from lcnn.inference.model_file import TrainedModel, save_model
from lcnn.inference.scans import InputOverrides, find_patients
from lcnn.inference.volumes import volume_row
from lcnn.network.model import build_model

AFFINE = np.array([[-SPACING_MM[1], 0, 0, 87.5], [0, 0, 5, -60], [0, -SPACING_MM[0], 0, 60], [0, 0, 0, 1]])
"""Columns, slices and rows of a file whose second axis runs forward and whose third runs down."""
BRAIN = WINDOWS["brain"]


def write_nifti(path):
    """The head on a grid that is far from the canonical one."""
    shape = (SIZE[1], 20, 30)
    indices = np.indices(shape).reshape(3, -1)
    x, y, z = (AFFINE @ np.vstack([indices, np.ones(indices.shape[1])]))[:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(head(-x, -y, z).reshape(shape).astype(np.float32), AFFINE)
    image.header["descrip"] = b"Marker^Name"
    nibabel.save(image, path)
    return path


def write_pictures(folder):
    folder.mkdir(parents=True)
    for n in range(3):
        Image.fromarray(np.full((36, 36), 40 * n + 60, np.uint8)).save(folder / f"s{n}.png")


@pytest.fixture(scope="module")
def model(make_config, normalisation, tmp_path_factory):
    """A network that was not trained, and calls about half of the voxels lesion."""
    torch.manual_seed(0)
    config = make_config()
    net = build_model(config, normalisation)
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, TrainedModel(net, config, PictureConfig(image_size=32, crop="none")))
    return folder


def run_predict(model, path, out, *more):
    return main(["predict", "--model", str(model), "--input", str(path), "--out", str(out), *more])


def opened(patient, *windows):
    return patient.open(patient.pixels.seen_in(windows) if windows else patient.pixels)


def some_mask(scan):
    mask_ZHW = np.zeros(scan.image_ZHW.shape, dtype=bool)
    depth, height, width = (side // 2 for side in mask_ZHW.shape)
    mask_ZHW[depth : depth + 2, height : height + 5, width - 3 : width + 4] = True
    return mask_ZHW


def test_a_nifti_mask_lies_on_the_scans_own_voxels(tmp_path):
    file = write_nifti(tmp_path / "p.nii.gz")
    (patient,) = find_patients(file)
    scan = opened(patient)
    scan.write_mask(tmp_path / "out", scan.image_ZHW > 200)
    source, mask = nibabel.load(file), nibabel.load(tmp_path / "out" / "p.nii.gz")
    assert mask.shape == source.shape
    np.testing.assert_array_equal(mask.affine, source.affine)
    np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, BRAIN.to_grey(source.get_fdata()) > 200)
    assert b"Marker" not in mask.to_bytes()


def test_a_dicom_mask_lies_on_the_series_pictures(tmp_path):
    (patient,) = find_patients(write_series(tmp_path / "ct", tilt_deg=8))
    scan = opened(patient)
    mask_ZHW = some_mask(scan)
    scan.write_mask(tmp_path / "out", mask_ZHW)
    series = open_dicom(tmp_path / "ct")
    back_ZHW = read_seg(tmp_path / "out" / "patient_0001.dcm", series)
    assert 2 * (back_ZHW & mask_ZHW).sum() / (back_ZHW.sum() + mask_ZHW.sum()) > 0.8
    assert "gantry tilt of 8.0 degrees" in scan.note
    row = volume_row("p", scan, mask_ZHW)
    assert row.lesion_ml == pytest.approx(70 * np.prod(SPACING_MM) * 5 * np.cos(np.radians(8)) / 1000, abs=0.01)


def test_a_folder_of_everything(model, tmp_path, capsys):
    write_nifti(tmp_path / "in" / "b" / "p.nii.gz")
    write_series(tmp_path / "in" / "c", study=3)
    write_series(tmp_path / "in" / "d", study=4)
    write_pictures(tmp_path / "in" / "a")
    assert run_predict(model, tmp_path / "in", tmp_path / "out") == 0
    place = tmp_path / "out" / "masks"
    masks = sorted(file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file())
    volumes = pd.read_csv(tmp_path / "out" / "volumes.csv")
    said = capsys.readouterr().out
    assert len(volumes) == 4
    assert masks[:3] == ["a/s0.png", "a/s1.png", "a/s2.png"]
    assert masks[-2:] == ["patient_0001.dcm", "patient_0002.dcm"]
    assert [name.endswith(".nii.gz") for name in masks].count(True) == 1
    assert volumes.lesion_ml.isna().tolist() == [False, False, False, True]
    assert "window: brain (level 40 HU, width 80 HU), for the model keeps none" in said
    assert "patient_0002: lesion on" in said
    assert "series 1: axial, 12 slices" in said


def test_a_window_that_is_named_is_used_and_not_announced(model, tmp_path, capsys):
    file = write_nifti(tmp_path / "p.nii.gz")
    assert run_predict(model, file, tmp_path / "out", "--window", "stroke") == 0
    assert "window:" not in capsys.readouterr().out
    (patient,) = find_patients(file)
    greys = [opened(patient, WINDOWS[name]).image_ZHW for name in ("brain", "stroke")]
    assert (greys[0] != greys[1]).any()


def test_alike_series_are_asked_for_by_number(model, tmp_path, capsys):
    for number in (1, 2):
        write_series(tmp_path / "ct" / str(number), series=number)
    assert run_predict(model, tmp_path / "ct", tmp_path / "out") == 2
    assert "choose by --series: 1: axial" in capsys.readouterr().err
    assert run_predict(model, tmp_path / "ct", tmp_path / "out", "--series", "2") == 0
    assert "series 2: axial" in capsys.readouterr().out


def test_a_series_number_is_for_one_study(tmp_path):
    write_pictures(tmp_path / "a")
    with pytest.raises(InputError, match=r"--series 1: is for one DICOM study, but .* holds 0"):
        find_patients(tmp_path, InputOverrides(series=1))


def write_deep_cohort(root, patients="ab"):
    """16-bit slices that hold HU, a head in air, with its manifest."""
    for place, patient in enumerate(patients):
        for part in ("images", "masks"):
            (root / part / patient).mkdir(parents=True)
        for n in range(3):
            values = np.full((36, 36), 24, np.uint16)
            values[6:-6, 6:-6] = 1024 + 20 + 15 * n + place
            Image.fromarray(values).save(root / "images" / patient / f"{n}.png")
            Image.fromarray(np.zeros((36, 36), np.uint8)).save(root / "masks" / patient / f"{n}.png")
    cohort = scan_cohort(root, spacing_mm={"a": (5, 0.5, 0.4)})
    write_manifest(cohort.model_copy(update={"hu": KeptHu(windows=(WINDOWS["stroke"],))}), root)
    return root


def test_pictures_of_a_cohort_are_taken_as_its_manifest_says(model, tmp_path, capsys):
    root = write_deep_cohort(tmp_path / "cohort")
    values = 20 + 15 * np.arange(3)
    for path in (root, root / "images", root / "images" / "a", root / "images" / "a" / "1.png"):
        scan = opened(find_patients(path)[0])
        grey_Z = WINDOWS["stroke"].to_grey(values[1:2] if path.suffix else values)
        assert scan.image_ZHW[:, 18, 18].tolist() == grey_Z.tolist()
        assert scan.voxel_ml == pytest.approx(0.001)
        assert scan.assumed is None
    assert opened(find_patients(root)[0], BRAIN).image_ZHW[:, 18, 18].tolist() == BRAIN.to_grey(values).tolist()
    assert run_predict(model, root, tmp_path / "out") == 0
    assert pd.read_csv(tmp_path / "out" / "volumes.csv").lesion_ml.isna().tolist() == [False, True]
    assert "window:" not in capsys.readouterr().out


def test_what_pictures_do_not_say_can_be_told(model, tmp_path, capsys):
    slices = (write_deep_cohort(tmp_path / "cohort") / "images").rename(tmp_path / "slices")
    assert run_predict(model, slices, tmp_path / "out") == 2
    refused = capsys.readouterr().err
    assert "0.png: I;16 pixels" in refused
    assert "--hu-offset" in refused
    assert refused.count("\n") == 1
    told = ("--hu-offset", "1024", "--spacing-mm", "5", "0.5", "0.4")
    assert run_predict(model, slices, tmp_path / "out", *told) == 0
    assert "window: brain" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out" / "volumes.csv").lesion_ml.notna().all()
    scan = opened(find_patients(slices, InputOverrides(hu_offset=1024))[0])
    assert scan.image_ZHW[:, 18, 18].tolist() == BRAIN.to_grey(20 + 15 * np.arange(3)).tolist()


def test_pictures_too_small_for_a_head_are_refused(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((8, 40), np.uint8)).save(tmp_path / "in" / "s.png")
    assert run_predict(model, tmp_path / "in", tmp_path / "out") == 2
    refused = capsys.readouterr().err
    assert "s.png: 1 x 8 x 40 voxels; a slice has at least 16 x 16" in refused
    assert refused.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_line(model, tmp_path, capsys):
    write_pictures(tmp_path / "in")
    (tmp_path / "file").write_text("")
    assert run_predict(model, tmp_path / "in", tmp_path / "file" / "out") == 2
    errors = capsys.readouterr().err
    assert "Not a directory; see to that, then the same command goes on" in errors
    assert errors.count("\n") == 1


TOLD_IN_VAIN = {
    "spacing of NIfTI": (
        "p.nii.gz",
        InputOverrides(spacing_mm=(5, 1, 1)),
        "holds no pictures, and other files tell theirs",
    ),
    "spacing of a cohort": (
        "cohort",
        InputOverrides(spacing_mm=(5, 1, 1)),
        "cohort.json tells that of a; leave it out",
    ),
    "offset of DICOM": (
        "ct",
        InputOverrides(hu_offset=1024),
        "--hu-offset 1024: DICOM files tell theirs; leave it out",
    ),
}


@pytest.mark.parametrize("case", TOLD_IN_VAIN)
def test_what_files_say_is_not_to_be_told(tmp_path, case):
    name, told, words = TOLD_IN_VAIN[case]
    write_nifti(tmp_path / "p.nii.gz")
    write_deep_cohort(tmp_path / "cohort")
    write_series(tmp_path / "ct")
    with pytest.raises(InputError, match=words):
        find_patients(tmp_path / name, told)


def test_nothing_that_identifies_a_patient_leaves_the_series(model, tmp_path, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    markers = re.compile("marker|1902030|19010203|19020304|" + re.escape(UIDS), re.IGNORECASE)

    def overlong(made, _):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a value against its own rules, which libraries like to quote
            made.AccessionNumber = "MARKER" * 10

    series = write_series(tmp_path / "ct", tags=IDENTIFYING, change=overlong)
    caplog.clear()
    assert run_predict(model, series, tmp_path / "out") == 0
    (series / "f3.dcm").write_bytes((series / "f3.dcm").read_bytes()[:-300])
    assert run_predict(model, series, tmp_path / "broken") == 2
    (series / "f3.dcm").write_bytes((series / "f3.dcm").read_bytes()[:900])
    assert run_predict(model, series, tmp_path / "broken") == 2
    told = capsys.readouterr()
    assert not markers.search(told.out + told.err + caplog.text)
    written = [file for file in (tmp_path / "out").rglob("*") if file.is_file() and file.suffix != ".dcm"]
    assert {file.suffix for file in written} >= {".csv"}
    for file in written:
        assert not markers.search(file.read_bytes().decode("latin-1")), file
        assert not markers.search(file.name)
    assert dcmread(tmp_path / "out" / "masks" / "patient_0001.dcm").PatientID == "MARKER-ID"


def test_the_patients_after_a_bad_one_are_predicted_too(model, tmp_path, capsys):
    for name in ("a", "b", "Case_C"):
        write_nifti(tmp_path / "scans" / f"{name}.nii.gz")
    (tmp_path / "scans" / "b.nii.gz").write_bytes(b"damaged")
    arguments = ["predict", "--model", str(model), "--input", str(tmp_path / "scans"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert sorted(file.name for file in (tmp_path / "out" / "masks").iterdir()) == ["Case_C.nii.gz", "a.nii.gz"]
    assert sorted(pd.read_csv(tmp_path / "out" / "volumes.csv").patient) == ["Case_C", "a"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "b.nii.gz: not a readable NIfTI file" in told[0]
    assert told[1] == "error: 1 of 3 patients could not be predicted; see above"


def test_a_single_bad_patient_is_one_line(model, tmp_path, capsys):
    (tmp_path / "b.nii.gz").write_bytes(b"damaged")
    arguments = ["predict", "--model", str(model), "--input", str(tmp_path / "b.nii.gz"), "--out", str(tmp_path / "o")]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("error: ")
    assert not (tmp_path / "o").exists()


def test_a_header_that_says_two_places_is_told_with_the_mask(model, tmp_path, capsys):
    path = write_nifti(tmp_path / "scan.nii.gz")
    image = nibabel.load(path)
    image.set_sform(AFFINE, code=1)
    image.set_qform(AFFINE @ np.diag([1, 2, 1, 1]), code=1)
    nibabel.save(image, path)
    assert main(["predict", "--model", str(model), "--input", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "sform is used, by qform volumes would be 2 times as large" in capsys.readouterr().out
