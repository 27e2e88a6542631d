"""A synthetic head-CT cohort with stroke lesions: realistic enough to test on, free to ship, its truth known.

The anatomy is the MNI152 template with skull, face and scalp added. Every patient gets an own shape (mirror
symmetry broken), tissue densities, head pose, confounders and, mostly, one early infarct. What a patient
looks like depends on the seed and on the patient's number only.

Head frame: z superior, y posterior, x to the patient's left, in mm. Pictures are in radiological convention:
rows run from anterior to posterior, columns from the patient's right to the left. Image arrays are `_ZYX`,
with slices from inferior to superior.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from data_prep.phantom import anatomy, ct
from data_prep.phantom.anatomy import Float, Template
from data_prep.phantom.config import PhantomConfig

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised with every change that draws other pictures from the same settings."""
WINDOW_LOW_HU, WINDOW_HIGH_HU = 0.0, 80.0  # brain window: level 40, width 80
TERRITORY_SHARES = {"MCA": 0.65, "PCA": 0.12, "ACA": 0.08, "deep": 0.15}


class Pose(BaseModel):
    """How the head lies: position = Rz(angle) Ry(tilt) Rx(pitch) head + shift, axes (x, y, z) of the picture.

    x is to the picture's right, y down, z superior. The head turns about its centre, which without a shift is
    at the middle of the picture at height z = 0.

    angle_deg: in-plane; positive is clockwise in the picture, so the nose moves to the picture's right.
    tilt_deg: about the front-back axis; positive moves the vertex to the picture's right.
    pitch_deg: about the left-right axis; positive moves the vertex forward (chin down).
    x_mm: shift to the picture's right.
    y_mm: shift down in the picture.
    """

    model_config = ConfigDict(frozen=True)

    angle_deg: float
    tilt_deg: float
    pitch_deg: float
    x_mm: float
    y_mm: float

    def rotation(self) -> NDArray[np.float64]:
        """Rotation matrix (3, 3) from head to picture, axes (x, y, z)."""
        (ca, sa), (ct, st), (cp, sp) = (
            (math.cos(math.radians(a)), math.sin(math.radians(a)))
            for a in (self.angle_deg, self.tilt_deg, self.pitch_deg)
        )
        about_z = np.array([[ca, -sa, 0], [sa, ca, 0], [0, 0, 1]])
        about_y = np.array([[ct, 0, st], [0, 1, 0], [-st, 0, ct]])
        about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        return np.einsum("ij,jk,kl->il", about_z, about_y, about_x)


class Lesion(BaseModel):
    """The foreground: side is the patient's own, contrast_hu a change of density, volume_ml the mask's."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["acute", "hyperacute"]
    territory: str
    side: Literal["left", "right"]
    contrast_hu: float
    volume_ml: float


class PatientRecord(BaseModel):
    """The truth about one patient. `first_slice_z_mm` is the centre of slice 001 above the head's centre."""

    model_config = ConfigDict(frozen=True)

    patient: str
    pose: Pose
    lesion: Lesion | None
    confounders: tuple[str, ...]
    slices: int
    spacing_mm: tuple[float, float, float]
    first_slice_z_mm: float
    noise_hu: float


@dataclass(frozen=True)
class PhantomPatient:
    """Arrays (Z, Y, X) of one patient: density in HU, lesion, old infarct and head; its truth."""

    image_hu_ZYX: Float
    lesion_ZYX: NDArray[np.bool_]
    old_infarct_ZYX: NDArray[np.bool_]
    head_ZYX: NDArray[np.bool_]
    record: PatientRecord


def patient_name(index: int) -> str:
    """Name of patient `index` (from 0)."""
    return f"phantom_{index + 1:03d}"


def is_lesion_free(config: PhantomConfig, index: int) -> bool:
    """Whether patient `index` (from 0) has no lesion.

    Of any n consecutive patients, the floor or the ceiling of n * lesion_free have none, wherever they start.
    """
    phase = float(np.random.default_rng([config.seed]).random())
    before, after = (math.floor(count * config.lesion_free + phase) for count in (index, index + 1))
    return after > before


def make_patient(config: PhantomConfig, index: int, template: Template | None = None) -> PhantomPatient:
    """Patient `index` (from 0) of the cohort; pure, and independent of all other patients.

    Each concern draws from its own random stream: changing, say, the noise or the lesions leaves the heads.
    """
    template = template or anatomy.load_template()
    streams = np.random.SeedSequence([config.seed, index]).spawn(5)
    pose_rng, head_rng, lesion_rng, scanner_rng, noise_rng = (np.random.default_rng(s) for s in streams)
    pose = _draw_pose(config, pose_rng)
    head = _draw_head(config, head_rng, template, pose)
    lesion = None
    if not is_lesion_free(config, index):
        lesion, infarct = _draw_lesion(config, lesion_rng, template, head)
        head = replace(head, lesion=infarct)
    grid = ct.make_grid(
        template,
        head,
        pixel_mm=config.pixel_mm,
        field_mm=config.field_mm,
        slice_mm=config.slice_mm,
        start_mm=scanner_rng.uniform(-60.0, -50.0),
        above_mm=scanner_rng.uniform(1.0, 8.0),
    )
    slices = ct.stack([ct.make_slice(template, head, grid, float(z)) for z in grid.slice_z_mm])
    couch_hu = _draw_couch(config, scanner_rng, grid)
    clean_hu = np.where(slices.head > 0.01, slices.hu, np.maximum(slices.hu, couch_hu))
    noise_hu = float(noise_rng.uniform(*config.noise_hu))
    spacing_mm = (config.slice_mm, config.pixel_mm, config.pixel_mm)
    lesion_ZYX = (slices.lesion >= 0.5) & (slices.brain >= 0.3) & (slices.old < 0.5)
    if lesion is not None:
        lesion = lesion.model_copy(update={"volume_ml": _volume_ml(lesion_ZYX, spacing_mm)})
    return PhantomPatient(
        image_hu_ZYX=clean_hu + np.float32(noise_hu) * _noise(config, noise_rng, clean_hu.shape),
        lesion_ZYX=lesion_ZYX,
        old_infarct_ZYX=slices.old >= 0.5,
        head_ZYX=slices.head > 0.5,
        record=PatientRecord(
            patient=patient_name(index),
            pose=pose,
            lesion=lesion,
            confounders=_confounders(head, couch_hu),
            slices=len(grid.slice_z_mm),
            spacing_mm=spacing_mm,
            first_slice_z_mm=float(grid.slice_z_mm[0]),
            noise_hu=noise_hu,
        ),
    )


def to_window(image_hu: Float) -> NDArray[np.uint8]:
    """HU to 8-bit grey in the brain window: 0 HU and below is 0, 80 HU and above is 255."""
    share = (image_hu - WINDOW_LOW_HU) / (WINDOW_HIGH_HU - WINDOW_LOW_HU)
    return np.rint(np.clip(share, 0.0, 1.0) * 255.0).astype(np.uint8)


def write_phantom(
    root: Path,
    config: PhantomConfig,
    jobs: int = 1,
    on_patient: Callable[[int, int], None] | None = None,
    to_pixels: Callable[[Float], NDArray[Any]] = to_window,
) -> None:
    """Write the cohort to `root`: images/, masks/ and truth.json; on_patient(done, total) after each patient.

    to_pixels makes pictures of slices in HU.

    Everything is written to `<root>.partial` beside it, which becomes `root` when complete; a leftover
    partial folder is replaced, an existing `root` is refused.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if root.exists():
        raise FileExistsError(f"{root} exists: remove it or choose another folder")
    partial = root.with_name(root.name + ".partial")
    if partial.exists():
        logger.info("replacing the unfinished %s", partial)
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    template = anatomy.load_template()
    tasks = (delayed(_write_patient)(partial, config, index, template, to_pixels) for index in range(config.patients))
    records = []
    with parallel_config(backend="loky", inner_max_num_threads=1):
        for record in Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks):
            records.append(record)
            if on_patient is not None:
                on_patient(len(records), config.patients)
    get_reusable_executor().shutdown()  # idle workers would keep their memory through the training that follows
    records.sort(key=lambda record: record["patient"])
    truth = {"config": config.model_dump(mode="json"), "patients": records}
    (partial / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    partial.rename(root)


def _write_patient(
    root: Path, config: PhantomConfig, index: int, template: Template, to_pixels: Callable[[Float], NDArray[Any]]
) -> dict[str, object]:
    patient = make_patient(config, index, template)
    masks = patient.lesion_ZYX.astype(np.uint8) * np.uint8(255)
    for folder, pictures in (("images", to_pixels(patient.image_hu_ZYX)), ("masks", masks)):
        target = root / folder / patient.record.patient
        target.mkdir(parents=True)
        for number, picture in enumerate(pictures, start=1):
            Image.fromarray(picture).save(target / f"{number:03d}.png")
    return patient.record.model_dump(mode="json")


def _draw_pose(config: PhantomConfig, rng: np.random.Generator) -> Pose:
    sds = (
        config.angle_sd_deg,
        config.tilt_sd_deg,
        config.pitch_sd_deg,
        config.shift_sd_mm,
        config.shift_sd_mm,
    )
    # Cut at 2.5 standard deviations: beyond, the head leaves the picture.
    values = np.clip(rng.standard_normal(5), -2.5, 2.5) * np.array(sds)
    return Pose(**dict(zip(Pose.model_fields, map(float, values), strict=True)))


def _draw_head(config: PhantomConfig, rng: np.random.Generator, template: Template, pose: Pose) -> ct.Head:
    atrophy = rng.uniform(*config.atrophy)
    scale = np.clip(rng.normal(*config.head_scale), 0.8, 1.05) * rng.normal(1.0, 0.015, 3)
    old = None
    if rng.random() < config.old_infarct:
        volume_mm3 = 1000.0 * rng.uniform(*config.old_infarct_ml)
        territory, left = _draw_place(rng)
        share = anatomy.infarct(template, rng, territory, left, volume_mm3 / float(scale.prod()))
        old = ct.Infarct(share, rng.uniform(*config.old_infarct_hu))
    return ct.Head(
        # The inverse of a rotation is its transpose; [::-1] turns (x, y, z) into (z, y, x).
        to_head=pose.rotation().T[::-1, ::-1].astype(np.float32),
        shift_mm=np.array([0.0, pose.y_mm, pose.x_mm], np.float32),
        scale=scale.astype(np.float32),
        displacement=anatomy.displacement(rng, rng.uniform(*config.asymmetry_mm), rng.uniform(*config.shape_mm)),
        ventricle_mm=anatomy.ventricle_margin_mm(template, rng.uniform(*config.ventricle_scale)),
        ventricle_asymmetry_mm=float(np.clip(rng.normal(0.0, 0.5), -1.0, 1.0)),
        atrophy=atrophy,
        gap_mm=0.5 + 2.5 * atrophy,
        skull_mm=rng.uniform(5.0, 8.0),
        scalp_mm=rng.uniform(4.0, 7.0),
        grey_hu=rng.normal(*config.grey_hu),
        white_hu=rng.normal(*config.white_hu),
        csf_hu=float(np.clip(rng.normal(*config.csf_hu), 2.0, 14.0)),
        bone_hu=rng.uniform(*config.bone_hu),
        scalp_hu=rng.uniform(*config.scalp_hu),
        cupping_hu=rng.uniform(1.0, 5.0),
        band_hu=rng.uniform(3.0, 10.0) if rng.random() < config.beam_hardening else 0.0,
        leukoaraiosis_hu=-rng.uniform(2.0, 6.0) if rng.random() < config.leukoaraiosis else 0.0,
        calcifications=_draw_calcifications(rng)
        if rng.random() < config.calcification
        else np.empty((0, 5), np.float32),
        old_infarct=old,
    )


def _draw_calcifications(rng: np.random.Generator) -> Float:
    """Rows (z, y, x, radius, density) in mm and HU: pineal gland, and often choroid plexus or pallidum."""
    sites = [(2.0, 28.0, 0.0)]
    if rng.random() < 0.6:
        sites += [(8.0, 40.0, -22.0), (8.0, 40.0, 22.0)]
    if rng.random() < 0.25:
        sites += [(-1.0, 4.0, -19.0), (-1.0, 4.0, 19.0)]
    places = np.array(sites) + rng.normal(0.0, 1.0, (len(sites), 3))
    size = np.stack([rng.uniform(1.0, 3.5, len(sites)), rng.uniform(80.0, 250.0, len(sites))], axis=1)
    return np.concatenate([places, size], axis=1).astype(np.float32)


def _draw_place(rng: np.random.Generator) -> tuple[str, bool]:
    """A territory, and whether it is on the patient's left."""
    territory = str(rng.choice(list(TERRITORY_SHARES), p=list(TERRITORY_SHARES.values())))
    return territory, bool(rng.random() < 0.5)


def _draw_lesion(
    config: PhantomConfig, rng: np.random.Generator, template: Template, head: ct.Head
) -> tuple[Lesion, ct.Infarct]:
    kind: Literal["acute", "hyperacute"] = "hyperacute" if rng.random() < config.hyperacute else "acute"
    strongest_hu, weakest_hu = config.acute_hu if kind == "acute" else config.hyperacute_hu
    contrast_hu = _falling(rng, strongest_hu, weakest_hu)
    territory, left = _draw_place(rng)
    volume_ml = config.lesion_median_ml * math.exp(rng.normal(0.0, config.lesion_log_sd))
    volume_mm3 = 1000.0 * float(np.clip(volume_ml, *config.lesion_limits_ml))
    share = anatomy.infarct(template, rng, territory, left, volume_mm3 / float(head.scale.prod()))
    lesion = Lesion(
        kind=kind,
        territory=territory,
        side="left" if left else "right",
        contrast_hu=contrast_hu,
        volume_ml=0.0,  # replaced by what the mask holds
    )
    return lesion, ct.Infarct(share, contrast_hu)


def _falling(rng: np.random.Generator, low: float, high: float) -> float:
    """A draw from a density that falls linearly from low to 0 at high: barely visible lesions are rarer."""
    return low + (high - low) * (1.0 - math.sqrt(rng.random()))


def _confounders(head: ct.Head, couch_hu: Float) -> tuple[str, ...]:
    present = {
        "old_infarct": head.old_infarct is not None,
        "leukoaraiosis": head.leukoaraiosis_hu < 0,
        "calcification": len(head.calcifications) > 0,
        "beam_hardening": head.band_hu > 0,
        "couch": bool((couch_hu > 0).any()),
    }
    return tuple(name for name, is_present in present.items() if is_present)


def _volume_ml(mask_ZYX: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    return int(mask_ZYX.sum()) * math.prod(spacing_mm) / 1000.0


def _draw_couch(config: PhantomConfig, rng: np.random.Generator, grid: ct.Grid) -> Float:
    """Density in HU (Y, X) of the couch, an arc under the head; 0 or less where there is none."""
    gap_mm, radius_mm, thickness_mm = rng.uniform(4.0, 14.0), rng.uniform(150.0, 260.0), rng.uniform(3.0, 6.0)
    density_hu = rng.uniform(100.0, 400.0)
    present = rng.random() < config.couch
    x_mm, y_mm = grid.pixel_xy_mm[None, :], grid.pixel_xy_mm[:, None]
    if not present:
        return np.full(np.broadcast_shapes(x_mm.shape, y_mm.shape), ct.AIR_HU, np.float32)
    covered = (grid.coarse_z_mm >= grid.slice_z_mm[0]) & (grid.coarse_z_mm <= grid.slice_z_mm[-1])
    rows = (grid.coarse[3, covered] < 0).any(axis=(0, 2))
    bottom_mm = float(grid.coarse_xy_mm[rows].max())
    from_centre = np.sqrt(x_mm**2 + (y_mm - np.float32(bottom_mm + gap_mm - radius_mm)) ** 2)
    lower = y_mm > bottom_mm + gap_mm - radius_mm
    wall = ct.ramp(np.abs(from_centre - np.float32(radius_mm + thickness_mm / 2)) - np.float32(thickness_mm / 2), 1.0)
    return (ct.AIR_HU + wall * lower * (density_hu - ct.AIR_HU)).astype(np.float32)


def _noise(config: PhantomConfig, rng: np.random.Generator, shape: tuple[int, ...]) -> Float:
    """Noise (Z, Y, X), correlated in-plane and independent between slices, of unit variance at 1 mm pixels.

    A pixel of p mm averages like a Gaussian of variance p^2 / 12, and a two-dimensional Gaussian mean of
    variance s^2 divides the noise by s: so a cohort is as hard at any pixel size once it is resized.
    """
    sigma = config.noise_correlation_mm / config.pixel_mm
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), (0.0, sigma, sigma), mode="wrap")
    variance = config.noise_correlation_mm**2
    gain = math.sqrt((variance + 1 / 12) / (variance + config.pixel_mm**2 / 12))
    return noise * np.float32(gain / noise.std())
