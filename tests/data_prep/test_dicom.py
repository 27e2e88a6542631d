"""Real DICOM series, as scanners lay them, to one volume in HU; and what is refused."""

import numpy as np
import pydicom
import pytest
from dicom_files import (
    SIZE,
    SPACING_MM,
    SUPINE,
    dataset,
    edit,
    head,
    lossless_hu,
    open_dicom,
    positions,
    write_enhanced,
    write_jpeg_lossless,
    write_series,
)  # fmt: skip
from pydicom.uid import (
    CTImageStorage,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)  # fmt: skip
from refusals import refusal

from data_prep.sources.dicom.headers import Kernel, kernel_of
from data_prep.sources.dicom.studies import find_studies, is_dicom

ORIENTATIONS = {
    "head first supine": SUPINE,
    "head first prone": (-1, 0, 0, 0, -1, 0),
    "feet first supine": (-1, 0, 0, 0, 1, 0),
    "feet first prone": (1, 0, 0, 0, -1, 0),
}


def world_values(volume, of=head):
    """HU of the head at the places that the volume's grid names, in canonical order."""
    indices = np.indices(volume.values_ZHW.shape).reshape(3, -1)
    places = volume.grid.canonical_affine @ np.vstack([indices, np.ones(indices.shape[1])])
    x, y, z = -places[0], -places[1], places[2]
    return of(x, y, z).reshape(volume.values_ZHW.shape)


@pytest.fixture(scope="module")
def supine(tmp_path_factory):
    return write_series(tmp_path_factory.mktemp("supine"))


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_every_patient_position_gives_the_same_canonical_volume(orientation, supine, tmp_path):
    volume = open_dicom(write_series(tmp_path, orientation=orientation)).volume
    np.testing.assert_allclose(volume.values_ZHW, np.round(world_values(volume)), atol=1)
    np.testing.assert_allclose(volume.values_ZHW, open_dicom(supine).volume.values_ZHW, atol=1)
    assert volume.spacing_mm == pytest.approx((5.0, *SPACING_MM))
    assert not volume.is_windowed


def test_places_agree_with_a_computation_by_hand(tmp_path):
    def change(made, n):
        made.ImagePositionPatient = [-10, -20, 30 + 5 * n]

    scan = open_dicom(write_series(tmp_path, change=change))
    for k, r, c in ((0, 0, 0), (3, 0, 0), (0, 2, 0), (0, 0, 7), (11, 39, 35)):
        by_hand = (10 - 5 * c, 20 - 4 * r, 30 + 5 * k)  # left and posterior are negative in NIfTI's world
        assert scan.stack.grid.affine @ (k, r, c, 1) == pytest.approx((*by_hand, 1))


SYNTAXES = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}


@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_compressed_files_give_the_same_values(syntax, supine, tmp_path):
    compressed = open_dicom(write_series(tmp_path, syntax=syntax)).volume
    np.testing.assert_array_equal(compressed.values_ZHW, open_dicom(supine).volume.values_ZHW)


def test_jpeg_lossless_files_are_decoded(tmp_path):
    values_ZHW = open_dicom(write_jpeg_lossless(tmp_path)).volume.values_ZHW
    np.testing.assert_array_equal(values_ZHW, np.broadcast_to(lossless_hu(), (12, 16, 16)))


@pytest.mark.parametrize("parts", [[range(12)], [range(0, 12, 2), range(1, 12, 2)]], ids=["one file", "two files"])
def test_multi_frame_files_give_the_same_values(parts, supine, tmp_path):
    for number, only in enumerate(parts):
        write_enhanced(tmp_path / f"{number}.dcm", only=only, number=number)
    enhanced = open_dicom(tmp_path).volume
    np.testing.assert_array_equal(enhanced.values_ZHW, open_dicom(supine).volume.values_ZHW)


def test_slope_and_intercept_of_each_file_count(supine, tmp_path):
    scaled = open_dicom(write_series(tmp_path, slope=0.5, intercept=-1000.0)).volume
    np.testing.assert_allclose(scaled.values_ZHW, open_dicom(supine).volume.values_ZHW, atol=0.5)


@pytest.mark.parametrize(
    ("padding", "stored", "expected"),
    [(-2000, -2000, -1000), (None, -2048, -1000), (1024 + 35, 1024 + 35, 35), (-5000, 1024 + 40, 40)],
    ids=["declared", "below all HU", "declared inside tissue, so not heeded", "declared and absent"],
)
def test_padding_becomes_air(padding, stored, expected, tmp_path):
    def change(made, _):
        pixels = np.frombuffer(made.PixelData, np.int16).reshape(SIZE).copy()
        pixels[0, 0] = stored
        made.PixelData = pixels.tobytes()
        if padding is not None:
            made.add_new("PixelPaddingValue", "SS", padding)

    assert (open_dicom(write_series(tmp_path, change=change)).volume.values_ZHW[:, 0, 0] == expected).all()


@pytest.mark.parametrize("tilt_deg", [18.0, -12.0])
def test_gantry_tilt_is_corrected(tilt_deg, tmp_path):
    scan = open_dicom(write_series(tmp_path, count=16, tilt_deg=tilt_deg))
    truth = world_values(scan.volume)
    inside = np.abs(truth - 35) < 30
    error = np.abs(scan.volume.values_ZHW - truth)[inside]
    assert f"gantry tilt of {abs(tilt_deg):.1f} degrees corrected" in scan.summary
    assert np.median(error) < 0.6
    assert scan.volume.grid.shape[0] == 16
    axes = scan.volume.grid.affine[:3, :3] / np.linalg.norm(scan.volume.grid.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)


def test_a_mask_goes_to_the_pictures_of_a_tilted_series_and_back(tmp_path):
    scan = open_dicom(write_series(tmp_path, count=16, tilt_deg=15.0))
    mask_ZHW = np.zeros(scan.volume.values_ZHW.shape, dtype=bool)
    mask_ZHW[5:9, 15:27, 12:24] = True
    pictures_NHW = scan.to_pictures(mask_ZHW)
    assert pictures_NHW.shape == (16, *SIZE)
    back_ZHW = scan.to_volume(pictures_NHW)
    assert 2 * (back_ZHW & mask_ZHW).sum() / (back_ZHW.sum() + mask_ZHW.sum()) > 0.9
    assert pictures_NHW.sum() == pytest.approx(mask_ZHW.sum(), rel=0.05)


def test_two_thicknesses_are_interpolated_to_the_smaller(tmp_path):
    scan = open_dicom(write_series(tmp_path, heights=[0, 1, 2, 3, 4, 6, 8, 10, 12]))
    assert "slices 5.0 to 10.0 mm apart interpolated to 13" in scan.summary
    truth = world_values(scan.volume)
    inside = np.abs(truth - 35) < 30
    assert np.median(np.abs(scan.volume.values_ZHW - truth)[inside]) < 0.6
    assert scan.to_pictures(np.ones(scan.volume.values_ZHW.shape, dtype=bool)).all()


def test_rounded_positions_are_even(tmp_path):
    def change(made, n):
        made.ImagePositionPatient = [*made.ImagePositionPatient[:2], round(-30 + 5 * n + (0.1 if n % 2 else -0.1), 1)]

    scan = open_dicom(write_series(tmp_path, change=change))
    assert "interpolated" not in scan.summary
    assert scan.volume.values_ZHW.shape[0] == 12


def test_studies_are_told_apart_by_their_headers(tmp_path):
    write_series(tmp_path / "all", study=1)
    write_series(tmp_path / "all", study=2, first=100)
    write_series(tmp_path / "third", study=3, tags={"PatientID": "id1"})
    studies = find_studies(tmp_path).complete()
    assert [len(study.files) for study in studies] == [12, 12, 12]
    people = [study.person for study in studies]
    assert people[0] == people[2] != people[1]
    assert len({study.visit for study in studies}) == 3


def test_what_is_dicom(supine, tmp_path):
    (tmp_path / "notes.txt").write_text("no DICOM")
    assert not is_dicom(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert not is_dicom(tmp_path)
    assert is_dicom(supine)
    assert is_dicom(supine / "f0.dcm")


def test_files_of_other_kinds_are_passed_over(supine, tmp_path):
    write_series(tmp_path)
    (tmp_path / "notes.txt").write_text("no DICOM")
    capture = dataset(SecondaryCaptureImageStorage, 0, series=9)
    capture.save_as(tmp_path / "screen.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(open_dicom(tmp_path).volume.values_ZHW, open_dicom(supine).volume.values_ZHW)


# Which series is the head CT.


def scout(made, _):
    made.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


CORONAL = (1, 0, 0, 0, 0, -1)
CHOICES = {
    "soft before bone": ([{"ConvolutionKernel": "H60s"}, {"ConvolutionKernel": "H31s"}], 2),
    "no contrast before contrast": ([{"ContrastBolusAgent": "x"}, {}], 2),
    "5 mm before thin": ([{"SliceThickness": 0.75}, {}], 2),
    "the head before the chest": ([{"BodyPartExamined": "CHEST"}, {"ConvolutionKernel": "BONE"}], 2),
}


@pytest.mark.parametrize("case", CHOICES.values(), ids=CHOICES)
def test_the_head_ct_is_chosen_by_rule(case, tmp_path):
    series, expected = case
    for number, tags in enumerate(series, start=1):
        write_series(tmp_path / str(number), series=number, tags=tags)
    assert open_dicom(tmp_path).summary.startswith(f"series {expected}: axial, 12 slices")


def test_scouts_and_reformats_stand_apart(tmp_path):
    write_series(tmp_path / "scout", series=1, count=1, change=scout)
    write_series(tmp_path / "reformat", series=2, orientation=CORONAL)
    write_series(tmp_path / "inner", series=3)
    write_series(tmp_path / "inner", series=3, count=2, orientation=CORONAL, first=50)
    scan = open_dicom(tmp_path)
    assert scan.summary == "series 3: axial, 12 slices, soft kernel, 5 mm (of 4)"


def test_alike_series_are_listed_and_asked_for(tmp_path):
    for number in (1, 2):
        write_series(tmp_path / str(number), series=number)
    message = refusal(lambda: open_dicom(tmp_path))
    assert "choose by --series: 1: axial, 12 slices, soft kernel, 5 mm; 2: axial" in message
    assert open_dicom(tmp_path, series=2).summary.startswith("series 2")
    assert "no series 3; there are 1: axial" in refusal(lambda: open_dicom(tmp_path, series=3))


def test_two_reconstructions_in_one_series_are_divided(tmp_path):
    write_series(tmp_path, tags={"ConvolutionKernel": "BONE"})
    write_series(tmp_path, first=100)
    assert open_dicom(tmp_path).summary == "series 2: axial, 12 slices, soft kernel, 5 mm (of 2)"


@pytest.mark.parametrize(
    ("name", "kernel"),
    [("H31s", Kernel.SOFT), ("['Hr38f', '3']", Kernel.SOFT), ("H60s", Kernel.BONE), ("BONEPLUS", Kernel.BONE),
     ("STANDARD", Kernel.SOFT), ("FC21", Kernel.SOFT), ("FC81", Kernel.BONE), ("UB", Kernel.SOFT),
     ("", Kernel.UNKNOWN)],
)  # fmt: skip
def test_kernels_by_their_makers_names(name, kernel):
    assert kernel_of(name) is kernel


# What is refused.


def drop(keyword):
    return lambda made, n: delattr(made, keyword) if n == 3 else None


def put(keyword, value, only=3):
    return lambda made, n: setattr(made, keyword, value) if only in (n, None) else None


def smaller(made, n):
    if n == 3:
        made.Rows, made.PixelData = 20, made.PixelData[: 20 * SIZE[1] * 2]


REFUSED = {
    "a missing slice": ({"heights": [0, 1, 2, 3, 5, 6, 7, 8, 9]}, "lie 10.0 mm apart, the other slices 5.0 mm"),
    "two slices missing apart": ({"heights": [0, 2, 3, 4, 5, 7, 8, 9, 10]}, "a slice is missing there"),
    "one place twice": ({"heights": [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]}, "lie at one place"),
    "no pixels": ({"change": drop("PixelData")}, "pixels are missing"),
    "no position": ({"change": drop("ImagePositionPatient")}, "no ImagePositionPatient"),
    "no orientation": ({"change": drop("ImageOrientationPatient")}, "no ImageOrientationPatient"),
    "no slope": ({"change": drop("RescaleSlope")}, "no RescaleSlope"),
    "no spacing": ({"change": drop("PixelSpacing")}, "no PixelSpacing"),
    "no position in any": ({"change": lambda made, _: delattr(made, "ImagePositionPatient")}, "no ImagePosition"),
    "a slope of 0": ({"change": put("RescaleSlope", 0)}, "RescaleSlope 0"),
    "colour": ({"change": put("PhotometricInterpretation", "RGB")}, "colour or inverted"),
    "another size": ({"change": smaller}, "of another size or direction"),
    "another direction": (
        {"change": put("ImageOrientationPatient", [1, 0, 0, 0, 0.9848, 0.1736])}, "of another size or direction",
    ),
    "one slice": ({"count": 1}, "one slice makes no volume"),
    "few slices": ({"count": 5}, "no axial head CT of 8 slices or more"),
    "a tiny spacing": ({"change": put("PixelSpacing", [0.001, 0.001], None)}, "PixelSpacing of 0.001"),
    "no right angle": ({"change": put("ImageOrientationPatient", [1, 0, 0, 1, 0, 0])}, "holds no right angle"),
    "more tilt than a gantry has": ({"tilt_deg": 40.0, "count": 16}, "more than a gantry tilts"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(case, tmp_path):
    settings, words = case
    write_series(tmp_path, **settings)
    message = refusal(lambda: open_dicom(tmp_path))
    assert words in message
    assert str(tmp_path) in message


def cut(file):
    file.write_bytes(file.read_bytes()[:-200])


def cut_in_header(file):
    file.write_bytes(file.read_bytes()[:300])


DAMAGE = {
    "empty": (lambda file: file.write_bytes(b""), "not a DICOM file, or cut off"),
    "text": (lambda file: file.write_text("text"), "not a DICOM file, or cut off"),
    "pixels cut off": (cut, "pixels are missing, damaged"),
    "header cut off": (cut_in_header, ""),
}


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless], ids=["plain", "RLE", "JPEG 2000"])
@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named(case, syntax, tmp_path):
    damage, words = case
    damage(write_series(tmp_path, syntax=syntax) / "f4.dcm")
    message = refusal(lambda: open_dicom(tmp_path))
    assert words in message
    assert "f4.dcm" in message


def test_a_folder_without_ct_is_refused(tmp_path):
    assert "no CT pictures" in refusal(lambda: open_dicom(tmp_path))


def test_a_fault_in_a_series_that_is_not_taken_does_no_harm(tmp_path):
    write_series(tmp_path / "1", series=1, tags={"ConvolutionKernel": "BONE"}, change=drop("RescaleSlope"))
    write_series(tmp_path / "2", series=2)
    assert open_dicom(tmp_path).summary.startswith("series 2")


def test_a_file_copied_twice_counts_once(tmp_path):
    write_series(tmp_path)
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "f2.dcm").read_bytes())
    assert open_dicom(tmp_path).volume.values_ZHW.shape[0] == 12
    edit(tmp_path / "copy.dcm", lambda made: setattr(made, "SOPInstanceUID", pydicom.uid.generate_uid()))
    assert "lie at one place" in refusal(lambda: open_dicom(tmp_path))


def test_the_builder_scans_where_it_says():
    places, orientation = positions(3, orientation=SUPINE, tilt_deg=10)
    steps = np.diff(places, axis=0)
    np.testing.assert_allclose(steps, [[0, 0, 5]] * 2)
    assert np.cross(orientation[:3], orientation[3:]) @ steps[0] == pytest.approx(5 * np.cos(np.radians(10)))
    assert CTImageStorage.name == "CT Image Storage"
