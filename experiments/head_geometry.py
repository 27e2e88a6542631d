"""What couch removal, skull stripping and midline alignment do to patients: what is lost, how far poses are off.

    python -m experiments.head_geometry --cohort phantom        synthetic, whose true poses are known
    python -m experiments.head_geometry --cohort FOLDER         your own slices

No network is trained. Measured are lesion pixels outside of what stays; the pose against the truth (phantom), and
against itself after the volume was turned by a known pose; the asymmetry about the middle of the picture and about the
plane that was found; the Dice of the mask after the way to the network's pictures and back, which no network can
surpass by much; and processor time.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from data_prep.cohort.compiled import cache_folder
from data_prep.cohort.layout import MANIFEST, Cohort, Patient, open_cohort
from data_prep.cohort.pixels import pixels_of
from data_prep.cohort.store import read_patient
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError
from data_prep.phantom.cohort import TRUTH, build_phantom_cohort
from data_prep.phantom.patients import PatientRecord
from data_prep.preprocessing.coarse import voxel_size
from data_prep.preprocessing.couch import head_mask
from data_prep.preprocessing.framing import frame
from data_prep.preprocessing.head import whole_box
from data_prep.preprocessing.midline import Alignment, MirrorPlane, find_mirror_plane, mirror_asymmetry
from data_prep.preprocessing.picture import PictureConfig
from data_prep.preprocessing.skull import intracranial_mask
from data_prep.volumes.mask import lesion_in
from experiments.preprocessing import PREPARATIONS
from experiments.study import CACHE, PHANTOM
from lcnn.metrics import count
from lcnn.settings_file import validate

LARGEST_TURN = np.array([10.0, 5.0, 6.0])
"""Yaw and roll in degrees and shift in mm by which volumes are turned at most, to be found again."""
PERCENTILES = (50, 95)


@dataclass(frozen=True)
class PatientGeometry:
    """What was measured on one patient; poses are yaw and roll in degrees and shift in mm, (3,)."""

    slices: int
    lesion_pixels: int
    lost_couch: int
    """Lesion pixels outside of what couch removal keeps."""
    lost_skull: int
    kept_share: float
    """Share of the head that skull stripping keeps."""
    asymmetry: tuple[float, float]
    """About the middle of the picture, and about the plane that was found."""
    true_pose: NDArray[np.float64] | None
    error: NDArray[np.float64] | None
    """Of the pose that was found; None where the truth is not known."""
    found_again: NDArray[np.float64]
    """Error of the pose of the turned volume, as it follows from that of the volume."""
    round_trip: Mapping[str, float]
    """Dice of the mask with itself after the way there and back, by preparation; NaN without lesion."""
    seconds: Mapping[str, float]
    """Processor time of each part."""


def as_pose(plane: MirrorPlane) -> NDArray[np.float64]:
    """Yaw, roll and shift, (3,)."""
    return np.array([plane.yaw_deg, plane.roll_deg, plane.shift_mm])


def true_plane(record: PatientRecord) -> MirrorPlane:
    """The mirror plane of a phantom's head, from the middle of its slices."""
    middle_mm = record.first_slice_z_mm + (record.slices - 1) / 2 * record.spacing_mm[0]
    upright = MirrorPlane(record.pose.angle_deg, record.pose.tilt_deg)
    centre = np.array([-middle_mm, record.pose.y_mm, record.pose.x_mm])
    return MirrorPlane(upright.yaw_deg, upright.roll_deg, float(centre @ upright.normal()))


def turned(plane: MirrorPlane, by: MirrorPlane) -> MirrorPlane:
    """Where a plane lies in a volume that was made upright by another."""
    z, y, x = by.rotation().T @ plane.normal()
    shift_mm = plane.shift_mm - by.shift_mm * float(plane.normal() @ by.normal())
    return MirrorPlane(float(np.degrees(np.arctan2(y, x))), float(-np.degrees(np.arcsin(z))), shift_mm)


def measure(
    patient: Patient, root: Path, cohort: Cohort, truth: PatientRecord | None, picture: PictureConfig, seed: int
) -> PatientGeometry:
    """All figures of one patient.

    Raises:
        InputError: a slice cannot be read.
    """
    image_ZKHW, label_ZHW = read_patient(patient, root, pixels_of(cohort), has_ignored=cohort.has_ignored)
    image_ZHW = image_ZKHW[:, 0]
    lesion_ZHW = lesion_in(label_ZHW)
    voxel_mm = voxel_size(image_ZHW, patient.spacing_mm)
    clock = [time.thread_time()]
    head_ZHW = head_mask(image_ZHW, voxel_mm)
    clock.append(time.thread_time())
    space_ZHW = intracranial_mask(image_ZHW, head_ZHW, voxel_mm)
    clock.append(time.thread_time())
    plane = find_mirror_plane(image_ZHW, head_ZHW, voxel_mm)
    clock.append(time.thread_time())
    framing = frame(image_ZHW, picture.model_copy(update={"align_midline": True}), patient.spacing_mm)
    clock.append(time.thread_time())
    framing.images(image_ZHW)
    framing.shares(lesion_ZHW)
    clock.append(time.thread_time())
    parts = dict(zip(("couch", "skull", "pose", "frame", "turn"), np.diff(clock), strict=True))
    return PatientGeometry(
        slices=len(image_ZHW),
        lesion_pixels=int(lesion_ZHW.sum()),
        lost_couch=int((lesion_ZHW & ~head_ZHW).sum()),
        lost_skull=int((lesion_ZHW & ~space_ZHW).sum()),
        kept_share=float(space_ZHW.sum() / head_ZHW.sum()),
        asymmetry=(
            mirror_asymmetry(image_ZHW, head_ZHW, voxel_mm, MirrorPlane()),
            mirror_asymmetry(image_ZHW, head_ZHW, voxel_mm, plane),
        ),
        true_pose=as_pose(true_plane(truth)) if truth else None,
        error=as_pose(plane) - as_pose(true_plane(truth)) if truth else None,
        found_again=found_again(image_ZHW * head_ZHW, plane, voxel_mm, np.random.default_rng(seed)),
        round_trip={
            contender.name: round_trip(image_ZHW, lesion_ZHW, contender.picture(picture), patient.spacing_mm)
            for contender in PREPARATIONS
        },
        seconds=parts,
    )


def found_again(
    image_ZHW: NDArray[np.uint8], plane: MirrorPlane, voxel_mm: tuple[float, float, float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Error of the pose after a turn that is known, (3,)."""
    by = MirrorPlane(*map(float, rng.uniform(-LARGEST_TURN, LARGEST_TURN)))
    box = whole_box(*image_ZHW.shape[1:])
    turned_ZBB = np.asarray(Alignment(by, voxel_mm).upright(image_ZHW, box), dtype=np.uint8)
    again = find_mirror_plane(turned_ZBB, head_mask(turned_ZBB, voxel_mm), voxel_mm)
    return as_pose(again) - as_pose(turned(plane, by))


def round_trip(
    image_ZHW: NDArray[np.uint8],
    lesion_ZHW: NDArray[np.bool_],
    picture: PictureConfig,
    spacing_mm: tuple[float, float, float] | None,
) -> float:
    """Dice of a mask with itself after the way to the network's pictures and back."""
    framing = frame(image_ZHW, picture, spacing_mm)
    share_ZSS = framing.shares(lesion_ZHW).astype(np.float32) / np.float32(255)
    return count(framing.to_native(share_ZSS) >= 0.5, lesion_ZHW).dice


def measure_cohort(
    cohort: Cohort, root: Path, picture: PictureConfig, patients: int | None, jobs: int
) -> list[PatientGeometry]:
    """Figures of some or all patients, true poses where the cohort's folder holds them."""
    truths: dict[str, PatientRecord] = {}
    if cohort.synthetic and (root / TRUTH).exists():
        records = json.loads((root / TRUTH).read_text(encoding="utf-8"))["patients"]
        truths = {record["patient"]: PatientRecord.model_validate(record) for record in records}
    total = len(cohort.patients)
    chosen = np.linspace(0, total, min(patients or total, total), endpoint=False).astype(int)
    found: list[PatientGeometry] = Parallel(n_jobs=jobs)(
        delayed(measure)(patient, root, cohort, truths.get(patient.id), picture, seed)
        for seed, patient in ((int(index), cohort.patients[index]) for index in chosen)
    )
    return found


def report(cohort: Cohort, found: Sequence[PatientGeometry], side: int) -> None:
    """Print what came out."""
    lesion, slices = sum(p.lesion_pixels for p in found), sum(p.slices for p in found)
    kind = " (SYNTHETIC)" if cohort.synthetic else ""
    print(f"{cohort.name}{kind}: {len(found)} patients, {slices} slices, {lesion} lesion pixels")
    lost = {part: sum(getattr(p, f"lost_{part}") for p in found) for part in ("couch", "skull")}
    print(f"lesion pixels lost: {lost['couch']} with the couch, {lost['skull']} with the skull")
    shares = [p.kept_share for p in found]
    print(f"share of the head within the skull: {min(shares):.2f} to {max(shares):.2f}, median {np.median(shares):.2f}")
    if all(p.error is not None for p in found):
        print(f"true poses:  {_poses([p.true_pose for p in found])}")
        print(f"pose errors: {_poses([p.error for p in found])}")
    print(f"found again: {_poses([p.found_again for p in found])}")
    before, after = np.array([p.asymmetry for p in found]).T
    print(
        f"asymmetry, median: {np.median(before):.4f} about the middle, {np.median(after):.4f} about the plane; "
        f"less in {(after < before).sum()} of {len(found)}"
    )
    trips = {name: np.nanmean([p.round_trip[name] for p in found]) for name in found[0].round_trip}
    print(f"mask there and back at {side} pixels, mean Dice: " + ", ".join(f"{n} {d:.3f}" for n, d in trips.items()))
    times = {part: 1000 * sum(p.seconds[part] for p in found) / slices for part in found[0].seconds}
    print("ms a slice: " + ", ".join(f"{part} {ms:.1f}" for part, ms in times.items()))


def _poses(poses: Sequence[NDArray[np.float64] | None]) -> str:
    median, high = np.percentile(np.abs(np.array(poses, dtype=float)), PERCENTILES, axis=0)
    return (
        "median (95th percentile) "
        f"yaw {median[0]:.2f} ({high[0]:.2f}) deg, roll {median[1]:.2f} ({high[1]:.2f}) deg, "
        f"shift {median[2]:.2f} ({high[2]:.2f}) mm"
    )


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", required=True, help="phantom (synthetic), or a folder with images/ and masks/")
    parser.add_argument("--patients", type=int, help="only so many, evenly over the cohort (default: all)")
    parser.add_argument("--image-size", type=int, default=160, help="pixels of the network's pictures (default 160)")
    parser.add_argument("--jobs", type=int, default=2, help="patients side by side (default 2)")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or (options.patients is not None and options.patients < 1):
        raise InputError("--jobs and --patients must be above 0")
    root = CACHE / "phantom-study" if options.cohort == "phantom" else Path(options.cohort)
    if options.cohort == "phantom" and not (root / MANIFEST).exists():
        build_phantom_cohort(root, PHANTOM, options.jobs)
    cohort = open_cohort(root, cache_folder(root, CACHE))
    picture = validate(PictureConfig, {"image_size": options.image_size}, "--image-size")
    found = measure_cohort(cohort, root, picture, options.patients, options.jobs)
    report(cohort, found, options.image_size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
