"""The phantom cohort: determinism, truth that agrees with the pictures, anatomy, refusals."""

import hashlib
import json
import math

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage

from data_prep.phantom.config import PhantomConfig
from data_prep.phantom.patients import Pose, anatomy, is_lesion_free, make_patient, to_window, write_phantom

TINY = PhantomConfig(patients=4, pixel_mm=4.0, seed=3)
SILENT = TINY.model_copy(update={"noise_hu": (0.0, 0.0)})
STILL = {"angle_sd_deg": 0.0, "tilt_sd_deg": 0.0, "pitch_sd_deg": 0.0, "shift_sd_mm": 0.0}


def with_(config, **changes):
    return PhantomConfig(**(config.model_dump() | changes))


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(folder, names):
    pictures = []
    for name in names:
        with Image.open(folder / name) as picture:
            assert picture.mode == "L"
            pictures.append(np.asarray(picture))
    return np.stack(pictures)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "cohort"
    seen = []
    write_phantom(root, TINY, on_patient=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 4) for done in range(1, 5)]
    return root


@pytest.fixture(scope="module")
def silent_patients():
    return [make_patient(SILENT, index) for index in range(8)]


def test_rerun_and_jobs_give_the_same_bytes(cohort, tmp_path):
    write_phantom(tmp_path / "again", TINY, jobs=2)
    assert digests(tmp_path / "again") == digests(cohort)


def test_number_of_patients_does_not_change_a_patient(cohort, tmp_path):
    write_phantom(tmp_path / "two", with_(TINY, patients=2))
    few, many = digests(tmp_path / "two"), digests(cohort)
    pictures = {name for name in few if name.endswith(".png")}
    assert {name.split("/")[1] for name in pictures} == {"phantom_001", "phantom_002"}
    assert all(few[name] == many[name] for name in pictures)


def test_seed_changes_the_pictures():
    other = make_patient(with_(TINY, seed=4), 0)
    assert other.record.pose != make_patient(TINY, 0).record.pose


def test_folder_layout_and_truth_agree(cohort):
    truth = json.loads((cohort / "truth.json").read_text())
    assert PhantomConfig(**truth["config"]) == TINY
    assert [p["patient"] for p in truth["patients"]] == [f"phantom_{n:03d}" for n in range(1, 5)]
    for patient in truth["patients"]:
        names = [f"{n:03d}.png" for n in range(1, patient["slices"] + 1)]
        for folder in ("images", "masks"):
            assert sorted(p.name for p in (cohort / folder / patient["patient"]).iterdir()) == names
        assert 24 <= patient["slices"] <= 30
        images, masks = (read(cohort / folder / patient["patient"], names) for folder in ("images", "masks"))
        assert images.shape == masks.shape == (len(names), 64, 64)
        assert images.dtype == masks.dtype == np.uint8
        assert set(np.unique(masks)) <= {0, 255}
        assert patient["spacing_mm"] == [5.0, 4.0, 4.0]
        volume_ml = (masks == 255).sum() * math.prod(patient["spacing_mm"]) / 1000
        assert volume_ml == pytest.approx(patient["lesion"]["volume_ml"] if patient["lesion"] else 0.0)
        assert (volume_ml > 0) == (patient["lesion"] is not None)


def test_partial_folder_never_looks_complete(tmp_path):
    root, partial = tmp_path / "cohort", tmp_path / "cohort.partial"
    partial.mkdir()
    (partial / "truth.json").write_text("left over")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(root, TINY, on_patient=stop)
    assert not root.exists()
    assert not (partial / "truth.json").exists()
    write_phantom(root, with_(TINY, patients=1))
    assert not partial.exists()
    assert len(json.loads((root / "truth.json").read_text())["patients"]) == 1


def test_existing_cohort_is_refused_and_kept(cohort):
    before = digests(cohort)
    with pytest.raises(FileExistsError, match="remove it"):
        write_phantom(cohort, TINY)
    assert digests(cohort) == before


@pytest.mark.parametrize("seed", range(20))
def test_lesion_free_share_is_even(seed):
    config = PhantomConfig(seed=seed)
    free = [is_lesion_free(config, index) for index in range(60)]
    for count in (6, 12, 60):
        share = 0.18 * count
        assert math.floor(share) <= sum(free[:count]) <= math.ceil(share)
    assert not any(is_lesion_free(with_(config, lesion_free=0.0), i) for i in range(60))
    assert all(is_lesion_free(with_(config, lesion_free=1.0), i) for i in range(60))


def test_masks_lie_in_the_head_and_not_in_old_infarcts(silent_patients):
    for patient in silent_patients:
        assert not (patient.lesion_ZYX & ~patient.head_ZYX).any()
        assert not (patient.lesion_ZYX & patient.old_infarct_ZYX).any()
        assert patient.lesion_ZYX.any() == (patient.record.lesion is not None)


def test_lesion_is_darker_than_the_same_patient_without_it_by_the_drawn_contrast(silent_patients):
    healthy = with_(SILENT, lesion_free=1.0)
    checked = 0
    for index, patient in enumerate(silent_patients):
        lesion = patient.record.lesion
        if lesion is None:
            continue
        change = patient.image_hu_ZYX - make_patient(healthy, index).image_hu_ZYX
        drawn = lesion.contrast_hu
        assert drawn - 0.05 <= np.min(change) < 0.8 * drawn
        assert np.max(change) <= 0.01
        # Borders, and fluid in the sulci, dilute the change.
        assert 0.6 < np.mean(change[patient.lesion_ZYX]) / drawn <= 1.0
        assert np.mean(change[~patient.lesion_ZYX]) / drawn < 0.02
        checked += 1
    assert checked >= 5


def test_kinds_draw_from_their_ranges():
    for share, kind, low, high in ((0.0, "acute", -8.0, -3.0), (1.0, "hyperacute", -3.0, -1.0)):
        lesion = make_patient(with_(SILENT, lesion_free=0.0, hyperacute=share), 0).record.lesion
        assert lesion.kind == kind
        assert low <= lesion.contrast_hu <= high


def test_lesion_is_on_the_recorded_side():
    config = with_(SILENT, **STILL, lesion_free=0.0)
    for index in range(3):
        patient = make_patient(config, index)
        columns = np.nonzero(patient.lesion_ZYX)[2]
        # Radiological convention: the patient's left is on the picture's right.
        assert (columns.mean() > 31.5) == (patient.record.lesion.side == "left")


def test_old_infarcts_are_dark_and_also_in_lesion_free_patients():
    config = with_(SILENT, old_infarct=1.0, lesion_free=1.0, calcification=0.0)
    for index in range(3):
        patient = make_patient(config, index)
        core = ndimage.binary_erosion(patient.old_infarct_ZYX, np.ones((1, 3, 3)))
        assert "old_infarct" in patient.record.confounders
        assert not patient.lesion_ZYX.any()
        assert core.any()
        assert np.median(patient.image_hu_ZYX[core]) < 20.0


def test_noise_has_the_recorded_strength_at_one_millimetre_and_is_correlated():
    config = PhantomConfig(pixel_mm=1.0, seed=3)
    noisy, silent = make_patient(config, 0), make_patient(with_(config, noise_hu=(0.0, 0.0)), 0)
    noise = noisy.image_hu_ZYX - silent.image_hu_ZYX
    assert 3.0 <= noisy.record.noise_hu <= 5.0
    assert np.std(noise[silent.head_ZYX]) == pytest.approx(noisy.record.noise_hu, rel=0.03)
    in_plane = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    across = np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]
    assert in_plane > 0.5
    assert abs(across) < 0.05


def test_anatomy_is_not_mirror_symmetric():
    quiet = {"old_infarct": 0.0, "calcification": 0.0, "couch": 0.0, "lesion_free": 1.0}
    config = with_(SILENT, pixel_mm=2.0, **STILL, **quiet)
    image = np.clip(make_patient(config, 0).image_hu_ZYX, 0, 80)
    brain = (image > 15) & (image < 50)
    brain &= brain[..., ::-1]
    difference = np.abs(image - image[..., ::-1])[brain]
    assert difference.mean() > 0.8


def mirror_residual(image_ZYX, record, pose):
    """Mean absolute difference in HU between a volume and its mirror image about the pose's midline."""
    rotation = pose.rotation()
    normal = rotation[:, 0]
    z = record.first_slice_z_mm + record.spacing_mm[0] * np.arange(record.slices)
    xy = (np.arange(image_ZYX.shape[1]) - (image_ZYX.shape[1] - 1) / 2) * record.spacing_mm[1]
    zz, yy, xx = np.meshgrid(z, xy, xy, indexing="ij")
    distance = (xx - pose.x_mm) * normal[0] + (yy - pose.y_mm) * normal[1] + zz * normal[2]
    mirrored = [p - 2 * distance * n for p, n in ((zz, normal[2]), (yy, normal[1]), (xx, normal[0]))]
    index = [
        (mirrored[0] - z[0]) / record.spacing_mm[0],
        (mirrored[1] - xy[0]) / record.spacing_mm[1],
        (mirrored[2] - xy[0]) / record.spacing_mm[2],
    ]
    flipped = ndimage.map_coordinates(image_ZYX, index, order=1, mode="nearest")
    middle = slice(record.slices // 3, record.slices - 4)  # whole slices of the vault, whatever the tilt
    return np.abs(flipped - image_ZYX)[middle].mean()


def test_recorded_pose_is_the_best_midline():
    quiet = {"old_infarct": 0.0, "couch": 0.0, "lesion_free": 1.0}
    config = with_(SILENT, **quiet, angle_sd_deg=8.0, tilt_sd_deg=6.0, shift_sd_mm=8.0)
    centred = Pose(angle_deg=0, tilt_deg=0, pitch_deg=0, x_mm=0, y_mm=0)
    for index in range(3):
        patient = make_patient(config, index)
        pose, image = patient.record.pose, np.clip(patient.image_hu_ZYX, 0, 80)
        best = mirror_residual(image, patient.record, pose)
        assert best < mirror_residual(image, patient.record, centred)
        for name, step in (("angle_deg", 5.0), ("tilt_deg", 6.0), ("x_mm", 5.0)):
            for sign in (-1, 1):
                wrong = pose.model_copy(update={name: getattr(pose, name) + sign * step})
                assert best < mirror_residual(image, patient.record, wrong), (index, name, sign)


@pytest.mark.parametrize(
    ("pose", "point", "moved"),
    [
        ({"angle_deg": 90}, (0, -1, 0), (1, 0, 0)),  # the nose goes to the picture's right
        ({"tilt_deg": 90}, (0, 0, 1), (1, 0, 0)),  # the vertex goes to the picture's right
        ({"pitch_deg": 90}, (0, 0, 1), (0, -1, 0)),  # the vertex goes forward
    ],
)
def test_signs_of_the_pose(pose, point, moved):
    still = dict.fromkeys(("angle_deg", "tilt_deg", "pitch_deg", "x_mm", "y_mm"), 0.0)
    np.testing.assert_allclose(Pose(**(still | pose)).rotation() @ point, moved, atol=1e-12)


def test_displacement_has_the_asked_asymmetry_and_no_rigid_part():
    lengths = {}
    for asymmetry_mm in (2.0, 4.0):
        fields = anatomy.displacement(np.random.default_rng(0), asymmetry_mm, 0.0)
        z, y, x = (component.values_ZYX for component in fields)
        np.testing.assert_allclose(x, x[..., ::-1], atol=1e-4)
        np.testing.assert_allclose(y, -y[..., ::-1], atol=1e-4)
        at = anatomy.grid_mm(fields[0]) - anatomy.PIVOT_MM[:, None, None, None]
        brain = (at[0] / 75) ** 2 + (at[1] / 92) ** 2 + (at[2] / 72) ** 2 < 1
        assert abs(x[brain].mean()) < 0.01
        assert abs((x * at[1] - y * at[2])[brain].mean()) < 0.1  # no in-plane rotation
        lengths[asymmetry_mm] = np.percentile(np.sqrt(x**2 + y**2 + z**2)[brain], 95)
    assert lengths == pytest.approx({2.0: 2.0, 4.0: 4.0}, rel=1e-3)


def test_ventricles_scale_in_volume():
    template = anatomy.load_template()
    distance = template.ventricles.values_ZYX
    for scale in (0.8, 1.0, 1.5, 2.0):
        grown = (distance < anatomy.ventricle_margin_mm(template, scale)).sum()
        assert grown / (distance < 0).sum() == pytest.approx(scale, rel=0.01)


def test_infarct_has_the_asked_volume_and_side():
    template = anatomy.load_template()
    for territory in anatomy.TERRITORIES:
        share = anatomy.infarct(template, np.random.default_rng(1), territory, True, 15_000.0)
        assert share.values_ZYX.sum() * anatomy.COARSE_MM**3 == pytest.approx(15_000, rel=0.2)
        occupied = anatomy.grid_mm(share)[2][share.values_ZYX > 0.5]
        assert occupied.min() > 0  # x points to the left


def test_window():
    grey = to_window(np.array([-1000.0, 0.0, 40.0, 80.0, 1000.0], np.float32))
    np.testing.assert_array_equal(grey, [0, 0, 128, 255, 255])


def test_densities_are_those_of_the_config():
    fixed = {"grey_hu": (38.0, 0.0), "white_hu": (29.0, 0.0), "csf_hu": (8.0, 0.0)}
    plain = dict.fromkeys(("couch", "calcification", "leukoaraiosis", "old_infarct", "beam_hardening"), 0.0)
    config = with_(SILENT, **fixed, **plain, **STILL, pixel_mm=2.0, lesion_free=1.0)
    patient = make_patient(config, 0)
    image, head = patient.image_hu_ZYX[12:20], patient.head_ZYX[12:20]
    deep = np.stack([ndimage.distance_transform_edt(plane) > 15 for plane in head])  # 30 mm below the skin
    assert np.percentile(image[deep], 0.5) == pytest.approx(8.0, abs=4.0)
    assert 29.0 < np.median(image[deep]) < 37.0
    assert np.percentile(image[deep], 98) == pytest.approx(38.0, abs=1.5)
    assert (image[head] > 300).mean() > 0.1  # the skull
    assert (image[:, :3] == -1000.0).all()
    assert patient.record.confounders == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"patients": 0},
        {"pixel_mm": -1.0},
        {"slice_mm": 0.0},
        {"field_mm": -256.0},
        {"seed": -1},
        {"lesion_free": 1.2},
        {"acute_hu": (-3.0, -8.0)},
        {"hyperacute_hu": (1.0, 3.0)},
        {"lesion_limits_ml": (-3.0, 10.0)},
        {"atrophy": (0.0, 2.0)},
        {"noise_correlation_mm": -0.1},
        {"grey_hu": (38.0, -1.0)},
        {"pixel_mm": math.nan},
        {"colour": "red"},
    ],
)
def test_config_refuses(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PhantomConfig(**wrong)


def test_jobs_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        write_phantom(tmp_path / "cohort", TINY, jobs=0)
    assert list(tmp_path.iterdir()) == []
