"""Windows as channels: what slices hold, which windows they are seen in, what is stored and normalised."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refusal
from scans import grey_slice, head_hu, nifti_patients, picture_patients, save_png

from data_prep.__main__ import main
from data_prep.cohort.compiled import CompiledCohort, compile_cohort
from data_prep.cohort.layout import MANIFEST, Cohort, read_manifest, scan_cohort, write_manifest
from data_prep.cohort.normalisation import Normalisation, training_normalisation
from data_prep.cohort.pixels import GREY, Pixels, pixels_of
from data_prep.cohort.split import Split
from data_prep.cohort.store import read_patient
from data_prep.intensity.window import WINDOWS, Window
from data_prep.preprocessing.picture import PictureConfig
from data_prep.quality.findings import Finding, FindingKind, Fix, Severity
from data_prep.quality.fixes import apply_fixes

BRAIN, STROKE, WIDE = (WINDOWS[name] for name in ("brain", "stroke", "wide"))
NAMES = ("brain", "stroke", "wide")
COLOURS = Pixels((BRAIN, STROKE, WIDE), colours=(0, 1, 2))
SIDE = 24


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scans as grey slices, as colours, and with their HU kept."""
    root = tmp_path_factory.mktemp("cohorts")
    nifti_patients(root / "src")
    for name, options in (("grey", ()), ("colour", ("--window", ",".join(NAMES))), ("deep", ("--depth", "16"))):
        assert main(["import", str(root / "src"), str(root / name), "--jobs", "1", *options]) == 0
    return root


def compiled(root: Path, window: tuple[str, ...] | None = None) -> CompiledCohort:
    picture = PictureConfig.model_validate({"image_size": SIDE, "crop": "none", "intensity_window": window})
    return compile_cohort(root, root.parent / "cache", picture)


# What is imported


def test_three_windows_become_the_colours_of_8_bit_slices(cohorts: Path) -> None:
    cohort = read_manifest(cohorts / "colour" / MANIFEST)
    assert cohort.windows == (BRAIN, STROKE, WIDE)
    assert cohort.hu is None
    with Image.open(cohorts / "colour" / cohort.patients[0].images[0]) as picture:
        assert picture.mode == "RGB"
    image_ZKHW, _ = read_patient(cohort.patients[0], cohorts / "colour", pixels_of(cohort))
    values_ZHW = head_hu().transpose(2, 1, 0)[:, ::-1, ::-1]
    assert np.array_equal(image_ZKHW, np.stack([w.to_grey(values_ZHW) for w in cohort.windows], axis=1))


def test_a_grey_cohort_knows_its_window_and_keeps_its_pixels(cohorts: Path) -> None:
    cohort = read_manifest(cohorts / "grey" / MANIFEST)
    assert pixels_of(cohort) == Pixels((BRAIN,))
    words_only = cohort.model_copy(update={"windows": ()})  # as earlier versions wrote it
    assert pixels_of(words_only) == Pixels((BRAIN,))
    assert pixels_of(words_only.model_copy(update={"window": "a bone window"})) == GREY


BAD = {
    "two windows in 8 bits": (("nifti", "--window", "brain,wide"), "8-bit slices hold 1 or 3 windows"),
    "a window twice": (("nifti", "--depth", "16", "--window", "wide,wide"), "a window twice; name each once"),
    "three of grey slices": (
        ("image", "--window", ",".join(NAMES)),
        "grey values already, in one window; give --window one name",
    ),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_windows_that_cannot_be_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    (kind, *options), words = BAD[case]
    source = nifti_patients(tmp_path / "src", 1) if kind == "nifti" else picture_patients(tmp_path / "src", (255,))
    assert main(["import", str(source), str(tmp_path / "dst"), "--jobs", "1", *options]) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "dst" / MANIFEST).exists()


# What is seen


SEEN = {
    "HU in any": (Pixels((BRAIN,), hu_offset=1024), (WIDE, STROKE), Pixels((WIDE, STROKE), hu_offset=1024)),
    "one of the colours": (COLOURS, (STROKE,), Pixels((STROKE,), colours=(1,))),
    "colours in another order": (COLOURS, (WIDE, BRAIN), Pixels((WIDE, BRAIN), colours=(2, 0))),
    "grey in its own": (Pixels((BRAIN,)), (BRAIN,), Pixels((BRAIN,))),
    "grey in another": (Pixels((BRAIN,)), (STROKE,), None),
    "grey of an unknown window": (GREY, (BRAIN,), None),
}


@pytest.mark.parametrize("case", SEEN)
def test_files_are_seen_in_the_windows_that_they_hold(case: str) -> None:
    pixels, windows, expected = SEEN[case]
    assert pixels.seen_in(windows) == expected


def test_slices_of_another_kind_than_the_cohort_are_refused(tmp_path: Path) -> None:
    file = save_png(tmp_path / "1.png", grey_slice())
    for pixels, words in (
        (COLOURS, "L pixels, but the cohort's slices are brain"),
        (Pixels((BRAIN,), 1024), "hold HU"),
    ):
        with Image.open(file) as picture:
            message = refusal(lambda pixels=pixels, picture=picture: pixels.to_grey(picture, file))
        assert message.startswith(f"{file}: ")
        assert words in message


def test_one_import_with_hu_serves_searches_in_different_windows(cohorts: Path) -> None:
    own, three, stroke = (compiled(cohorts / "deep", window).store for window in (None, NAMES, ("stroke",)))
    assert own.folder != three.folder != stroke.folder
    assert three.windows_NKSS.shape == (12, 3, SIDE, SIDE)
    assert three.windows == (BRAIN, STROKE, WIDE)
    colour = compiled(cohorts / "colour").store
    assert np.array_equal(three.windows_NKSS, colour.windows_NKSS)
    assert np.array_equal(own.images_NSS, three.images_NSS)
    assert np.array_equal(own.images_NSS, compiled(cohorts / "grey").store.images_NSS)
    assert np.array_equal(stroke.images_NSS, three.windows_NKSS[:, 1])
    assert np.array_equal(compiled(cohorts / "colour", ("stroke",)).store.images_NSS, stroke.images_NSS)


def test_another_window_of_8_bit_slices_is_refused(cohorts: Path) -> None:
    message = refusal(lambda: compiled(cohorts / "grey", ("stroke",)))
    assert message.startswith("cohort.intensity_window: stroke asked for")
    assert "are in brain (level 40 HU, width 80 HU); set it to null" in message


@pytest.mark.parametrize(
    ("given", "expected"), [("wide", ("wide",)), (["stroke", "brain"], ("stroke", "brain")), (None, None)]
)
def test_the_window_of_a_picture_is_a_name_or_a_list(given: object, expected: object) -> None:
    config = PictureConfig.model_validate_json(json.dumps({"intensity_window": given}))
    assert config.intensity_window == expected
    assert PictureConfig.model_validate(config.model_dump()) == config
    assert PictureConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("given", [[], ["brain", "brain"], "bone", 80])
def test_windows_that_are_none_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="window"):
        PictureConfig.model_validate_json(json.dumps({"intensity_window": given}))


# What is normalised, checked, mended


def test_every_window_has_statistics_of_its_own(cohorts: Path) -> None:
    store = compiled(cohorts / "colour").store
    split = Split(cohort_hash="", seed=0, train=tuple(store.patients), val=(), test=())
    found = training_normalisation(store, split)
    for window, (mean, std) in enumerate(zip(found.mean, found.std, strict=True)):
        grey = store.windows_NKSS[:, window]
        assert (mean, std) == (pytest.approx(grey[grey > 0].mean()), pytest.approx(grey[grey > 0].std()))
    assert found.windows == 3


def test_a_number_is_the_statistic_of_one_window() -> None:
    assert Normalisation.model_validate({"mean": 80.5, "std": 30}) == Normalisation(mean=(80.5,), std=(30.0,))
    with pytest.raises(ValueError, match="2 means and 1 deviations"):
        Normalisation(mean=(1.0, 2.0), std=(1.0,))


@pytest.mark.parametrize("kind", ["colour", "deep"])
def test_check_and_stats_look_at_the_first_window(
    cohorts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    tables = []
    for name in ("grey", kind):
        out = tmp_path / name
        assert main(["stats", str(cohorts / name), "--out", str(out), "--jobs", "1"]) == 0
        tables.append((out / "stats.csv").read_text())
    assert tables[0] == tables[1]
    assert "in brain (level 40 HU, width 80 HU)" in capsys.readouterr().out


def test_turning_a_patient_keeps_all_its_windows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    save_png(tmp_path / "images" / "a" / "1.png", pixels)
    save_png(tmp_path / "masks" / "a" / "1.png", np.eye(16, dtype=np.uint8) * 255)
    cohort: Cohort = scan_cohort(tmp_path)
    write_manifest(cohort.model_copy(update={"windows": (BRAIN, STROKE, WIDE)}), tmp_path)
    apply_fixes(tmp_path, [Finding(Severity.WARNING, FindingKind.TURNED, "a", "", "upside down", Fix.TURN)])
    with Image.open(tmp_path / "images" / "a" / "1.png") as picture:
        assert np.array_equal(np.asarray(picture), pixels[::-1, ::-1])


def test_a_manifest_of_two_windows_is_none(tmp_path: Path) -> None:
    save_png(tmp_path / "images" / "a" / "1.png", grey_slice())
    save_png(tmp_path / "masks" / "a" / "1.png", np.zeros((24, 24), dtype=np.uint8))
    two = scan_cohort(tmp_path).model_copy(update={"windows": (BRAIN, Window(name="mine", level_hu=50, width_hu=9))})
    write_manifest(two, tmp_path)
    assert "not a cohort manifest" in refusal(lambda: read_manifest(tmp_path / MANIFEST))
