"""What couch removal and skull stripping do to patients: what is lost.

    python -m experiments.head_geometry --cohort phantom        synthetic
    python -m experiments.head_geometry --cohort FOLDER         your own slices

No network is trained. Measured are lesion pixels outside of what stays; the Dice of the mask after the way to the
network's pictures and back, which no network can surpass by much; and processor time.
"""

import argparse
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
from data_prep.phantom.cohort import build_phantom_cohort
from data_prep.preprocessing.coarse import voxel_size
from data_prep.preprocessing.couch import head_mask
from data_prep.preprocessing.framing import frame
from data_prep.preprocessing.picture import PictureConfig
from data_prep.preprocessing.skull import intracranial_mask
from data_prep.volumes.mask import lesion_in
from experiments.preprocessing import PREPARATIONS
from experiments.study import CACHE, PHANTOM
from lcnn.metrics import count
from lcnn.settings_file import validate


@dataclass(frozen=True)
class PatientGeometry:
    """What was measured on one patient."""

    slices: int
    lesion_pixels: int
    lost_couch: int
    """Lesion pixels outside of what couch removal keeps."""
    lost_skull: int
    kept_share: float
    """Share of the head that skull stripping keeps."""
    round_trip: Mapping[str, float]
    """Dice of the mask with itself after the way there and back, by preparation; NaN without lesion."""
    seconds: Mapping[str, float]
    """Processor time of each part."""


def measure(patient: Patient, root: Path, cohort: Cohort, picture: PictureConfig) -> PatientGeometry:
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
    parts = dict(zip(("couch", "skull"), np.diff(clock), strict=True))
    return PatientGeometry(
        slices=len(image_ZHW),
        lesion_pixels=int(lesion_ZHW.sum()),
        lost_couch=int((lesion_ZHW & ~head_ZHW).sum()),
        lost_skull=int((lesion_ZHW & ~space_ZHW).sum()),
        kept_share=float(space_ZHW.sum() / head_ZHW.sum()),
        round_trip={
            contender.name: round_trip(image_ZHW, lesion_ZHW, contender.picture(picture), patient.spacing_mm)
            for contender in PREPARATIONS
        },
        seconds=parts,
    )


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
    """Figures of some or all patients."""
    total = len(cohort.patients)
    chosen = np.linspace(0, total, min(patients or total, total), endpoint=False).astype(int)
    found: list[PatientGeometry] = Parallel(n_jobs=jobs)(
        delayed(measure)(cohort.patients[index], root, cohort, picture) for index in chosen
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
    trips = {name: np.nanmean([p.round_trip[name] for p in found]) for name in found[0].round_trip}
    print(f"mask there and back at {side} pixels, mean Dice: " + ", ".join(f"{n} {d:.3f}" for n, d in trips.items()))
    times = {part: 1000 * sum(p.seconds[part] for p in found) / slices for part in found[0].seconds}
    print("ms a slice: " + ", ".join(f"{part} {ms:.1f}" for part, ms in times.items()))


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
