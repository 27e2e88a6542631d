"""The phantom as a cohort: built where it is missing, and labelled synthetic for good."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from data_prep.cohort.layout import scan_cohort, write_manifest
from data_prep.intensity.window import WINDOWS, KeptHu, Window, in_words, to_pixels
from data_prep.phantom.config import PhantomConfig
from data_prep.phantom.patients import to_window, write_phantom

TRUTH = "truth.json"


PHANTOM_WINDOWS = (WINDOWS["brain"],)
"""In which the phantom is drawn by default."""


def build_phantom_cohort(
    root: Path,
    config: PhantomConfig,
    jobs: int,
    on_patient: Callable[[int, int], None] | None = None,
    *,
    windows: tuple[Window, ...] = PHANTOM_WINDOWS,
    keeps_hu: bool = False,
) -> None:
    """Write the phantom and its manifest to ``root``; what an interruption left is completed or replaced.

    Args:
        root: folder to make.
        config: the phantom's settings.
        jobs: processes to use.
        on_patient: called with patients done and their number.
        windows: in which slices are seen.
        keeps_hu: whether slices hold HU in 16 bits.
    """
    if not (root / TRUTH).exists():
        # The phantom's own window is the brain's; it draws the pictures that results have been measured on.
        is_plain = windows == PHANTOM_WINDOWS and not keeps_hu
        drawn = to_window if is_plain else partial(to_pixels, windows=windows, keeps_hu=keeps_hu)
        write_phantom(root, config, jobs, on_patient, drawn)
    truth = json.loads((root / TRUTH).read_text(encoding="utf-8"))
    cohort = scan_cohort(
        root,
        name="phantom (synthetic)",
        synthetic=True,
        window=in_words(windows),
        source="synthetic head CT on the MNI152 template, made by data_prep.phantom.patients",
        spacing_mm={patient["patient"]: tuple(patient["spacing_mm"]) for patient in truth["patients"]},
    )
    kept = KeptHu(windows=windows) if keeps_hu else None
    write_manifest(cohort.model_copy(update={"windows": () if kept else windows, "hu": kept}), root)
