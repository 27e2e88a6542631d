"""The phantom as a cohort: built where it is missing, and labelled synthetic for good."""

import json
from collections.abc import Callable
from pathlib import Path

from data_prep.cohort import scan_cohort, write_manifest
from data_prep.phantom import PhantomConfig, write_phantom

TRUTH = "truth.json"


def build_phantom_cohort(
    root: Path, config: PhantomConfig, jobs: int, on_patient: Callable[[int, int], None] | None = None
) -> None:
    """Write the phantom and its manifest to ``root``; what an interruption left is completed or replaced.

    Args:
        root: folder to make.
        config: the phantom's settings.
        jobs: processes to use.
        on_patient: told of patients done and their number.
    """
    if not (root / TRUTH).exists():
        write_phantom(root, config, jobs, on_patient)
    truth = json.loads((root / TRUTH).read_text(encoding="utf-8"))
    cohort = scan_cohort(
        root,
        name="phantom (synthetic)",
        synthetic=True,
        window="brain (level 40 HU, width 80 HU)",
        source="synthetic head CT on the MNI152 template, made by data_prep.phantom",
        spacing_mm={patient["patient"]: tuple(patient["spacing_mm"]) for patient in truth["patients"]},
    )
    write_manifest(cohort, root)
