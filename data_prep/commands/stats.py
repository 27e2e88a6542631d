"""``stats``: grey values for normalisation, lesion volumes and slices of a cohort, as a table, a CSV file and plots."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.cohort.layout import read_cohort
from data_prep.cohort.pixels import pixels_of
from data_prep.common.figures import COLOURS, new_figure, to_svg
from data_prep.common.files import write_text_atomically
from data_prep.common.jobs import add_jobs_option, check_jobs
from data_prep.common.progress import in_processes
from data_prep.common.wording import counted
from data_prep.quality.statistics import PatientCounts, Row, count_patient, row_of, row_of_all, write_rows

BINS = 16


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("folder", type=Path, help="cohort of images/<patient>/ and masks/<patient>/")
    parser.add_argument("--out", type=Path, help="folder for stats.csv and stats.svg (results/stats-<name>)")
    add_jobs_option(parser)


def run(options: argparse.Namespace) -> None:
    """Count every patient, write both files, show the cohort's row.

    Raises:
        InputError: the folder is no cohort, or a file of it cannot be used.
    """
    check_jobs(options.jobs)
    root, out = options.folder, options.out or Path("results") / f"stats-{options.folder.resolve().name}"
    cohort = read_cohort(root)
    pixels = pixels_of(cohort)
    tasks = [(root, patient, pixels, cohort.has_ignored) for patient in cohort.patients]
    patients = [counts for _, counts in in_processes(count_patient, tasks, jobs=options.jobs, what="measuring")]
    total = row_of_all(patients)
    write_rows(out / "stats.csv", [*map(row_of, patients), total])
    window = cohort.grey_window or "a window that nobody has named"
    label = f"{cohort.name}: {cohort.size}, {counted(total.slices, 'slice')} in {window}"
    write_text_atomically(out / "stats.svg", _chart(patients, label))
    print(label)
    print(_in_words(total, patients))
    print(f"{out / 'stats.csv'}, stats.svg")


def in_digits(value: float) -> str:
    """A number with three digits at least, and without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _in_words(total: Row, patients: Sequence[PatientCounts]) -> str:
    unit, volumes = _volumes(patients)
    with_lesion = [volume for volume in volumes if volume > 0]
    lesions = "no lesions"
    if with_lesion:
        low, median, high = map(in_digits, np.quantile(with_lesion, (0, 0.5, 1)))
        lesions = f"lesions in {len(with_lesion)}: {low} to {high} {unit}, median {median}"
    ignored = "" if not total.ignored_voxels else f"\nignored: {_ignored(total)}, neither learnt nor scored"
    return (
        f"grey values above 0: mean {total.grey_mean:.1f}, standard deviation {total.grey_sd:.1f}, "
        f"1% to 99% {total.grey_p1} to {total.grey_p99}\n{lesions}; {total.lesion_slices} slices hold lesion{ignored}"
    )


def _ignored(total: Row) -> str:
    return f"{total.ignored_voxels} voxels" if total.ignored_ml is None else f"{in_digits(total.ignored_ml)} ml"


def _volumes(patients: Sequence[PatientCounts]) -> tuple[str, list[float]]:
    """In ml where all spacings are known, else in voxels."""
    if all(patient.voxel_ml is not None for patient in patients):
        return "ml", [patient.lesion_voxels * (patient.voxel_ml or 0.0) for patient in patients]
    return "voxels", [float(patient.lesion_voxels) for patient in patients]


def _chart(patients: Sequence[PatientCounts], title: str) -> str:
    figure = new_figure(title, panels=3)
    greys, lesions, slices = figure.subplots(1, 3)
    # In 64 bins of 4 grey values; black is left out, for the air around the head would dwarf all else.
    for name, counts_G, colour in (
        ("all pixels", sum(p.grey_G for p in patients), COLOURS[0]),
        ("lesion", sum(p.lesion_G for p in patients), COLOURS[4]),
    ):
        counts = np.where(np.arange(256) > 0, counts_G, 0).reshape(64, 4).sum(axis=1)
        greys.stairs(
            counts / max(counts.sum(), 1), np.arange(0, 257, 4), fill=True, alpha=0.7, color=colour, label=name
        )
    greys.set(title="Grey values above 0", xlabel="grey value", ylabel="share of pixels")
    greys.legend()
    unit, volumes = _volumes(patients)
    present = [volume for volume in volumes if volume > 0]
    without = sum(volume == 0 for volume in volumes)
    low, high = (min(present) * 0.99, max(present) * 1.01) if present else (0.99, 1.01)
    lesions.hist(present, np.geomspace(low, high, BINS + 1), color=COLOURS[0])
    lesions.set(title="Lesion volume", xscale="log", xlabel=f"{unit}; {without} without lesion not shown")
    counts = np.array([patient.slices for patient in patients])
    slices.hist(counts, min(BINS, int(np.ptp(counts)) + 1), color=COLOURS[0])
    slices.set(title="Slices", xlabel="slices a patient")
    for panel in (lesions, slices):
        panel.set_ylabel("patients")
        panel.xaxis.set_major_formatter(lambda value, _: in_digits(value))
        panel.xaxis.set_minor_formatter("")
        panel.yaxis.get_major_locator().set_params(integer=True)
    return to_svg(figure)
