"""Cohorts from the command line.

    python -m data_prep phantom DIR [--patients 60] [--pixel-mm 1.0] [--seed 0] [--window brain,stroke,wide]
    python -m data_prep download DIR --image-id ID --mask-id ID
    python -m data_prep import SRC DST [--window brain] [--depth 16] [--dry-run] ...
    python -m data_prep check DIR [--fix]
    python -m data_prep stats DIR
    python -m data_prep index DIR [--name NAME] [--spacing-mm 5 0.45 0.45] [--group-by PATTERN] [--ignored] ...

``phantom`` builds the synthetic cohort. ``download`` fetches two ZIP files from Google Drive. ``import`` recognises
DICOM, NIfTI, pictures, AISD and npz arrays and makes a cohort of them, with ids that tell nothing. ``check`` finds what
is wrong in a cohort, ``stats`` measures it. ``index`` writes DIR/cohort.json for a folder of your own: the slices in
order, their hash, and what only you know, such as the spacing that turns voxels into ml and mm, or which folders are
scans of one patient. Each has --help.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from pydantic import ValidationError

from data_prep.cohort.groups import add_group_option, group_numbers, group_pattern, patients_by
from data_prep.cohort.layout import MANIFEST, scan_cohort, spacing_of, with_groups, write_manifest
from data_prep.commands import check, download, import_cohort, stats
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError
from data_prep.common.jobs import add_jobs_option, check_jobs
from data_prep.common.progress import bar
from data_prep.common.wording import counted
from data_prep.intensity.window_options import add_window_options, chosen_windows
from data_prep.phantom.cohort import build_phantom_cohort
from data_prep.phantom.config import PhantomConfig

COMMANDS: Mapping[str, tuple[ModuleType, str]] = {
    "download": (download, "fetch a cohort as two ZIP files from Google Drive"),
    "import": (import_cohort, "make a cohort of DICOM, NIfTI, pictures, AISD or npz"),
    "check": (check, "find what is wrong in a cohort"),
    "stats": (stats, "measure a cohort"),
}
"""Sub-commands in files of their own, and their line of help."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m data_prep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    phantom = commands.add_parser("phantom", help="build the synthetic head-CT cohort")
    phantom.add_argument("folder", type=Path, help="folder to make")
    phantom.add_argument("--patients", type=int, default=PhantomConfig().patients)
    phantom.add_argument("--pixel-mm", type=float, default=PhantomConfig().pixel_mm, help="in-plane pixel size")
    phantom.add_argument("--seed", type=int, default=PhantomConfig().seed)
    add_window_options(phantom)
    add_jobs_option(phantom)
    index = commands.add_parser("index", help="write cohort.json for a folder of images/ and masks/")
    index.add_argument("folder", type=Path, help="folder with images/<patient>/ and masks/<patient>/")
    index.add_argument("--name", help="name of the cohort (default: the folder's)")
    index.add_argument("--spacing-mm", type=float, nargs=3, metavar=("SLICE", "ROW", "COLUMN"),
                       help="distances between voxel centres, the same for all patients")  # fmt: skip
    add_group_option(index, "the name of a folder")
    index.add_argument("--ignored", action="store_true",
                       help="masks hold 128 too: pixels that are neither learnt nor scored")  # fmt: skip
    index.add_argument("--window", help="intensity window of the slices, in words")
    index.add_argument("--source", help="where the data comes from")
    index.add_argument("--licence", help="terms of its use")
    for name, (module, text) in COMMANDS.items():
        module.add(commands.add_parser(name, help=text, description=module.__doc__))
    return parser.parse_args(arguments)


def build_phantom(options: argparse.Namespace) -> None:
    """The ``phantom`` command.

    Raises:
        InputError: settings out of range, or a folder that exists.
    """
    try:
        config = PhantomConfig(patients=options.patients, pixel_mm=options.pixel_mm, seed=options.seed)
    except ValidationError as error:
        fault = error.errors()[0]
        name = "--" + str(fault["loc"][0]).replace("_", "-")
        raise InputError(f"{name} {fault['input']}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from error
    check_jobs(options.jobs)
    windows, keeps_hu = chosen_windows(options), options.depth == 16
    if options.folder.exists():
        raise InputError(f"{options.folder}: exists; remove it or name another folder")
    print(f"{options.folder}: building {counted(config.patients, 'synthetic patient')}", flush=True)
    with bar("building the phantom", config.patients) as show:
        build_phantom_cohort(options.folder, config, options.jobs, show, windows=windows, keeps_hu=keeps_hu)
    print(f"{options.folder}: {counted(config.patients, 'synthetic patient')}")


def index_folder(options: argparse.Namespace) -> None:
    """The ``index`` command.

    Raises:
        InputError: the folder holds no cohort, a manifest is there already, the spacing is not positive, or the pattern
            for groups is none, or fits no folder.
    """
    if (options.folder / MANIFEST).exists():
        raise InputError(f"{options.folder / MANIFEST}: exists; delete it to have it made anew")
    spacing = spacing_of(options.spacing_mm)
    pattern = None if options.group_by is None else group_pattern(options.group_by)
    about = {key: getattr(options, key) for key in ("name", "window", "source", "licence")}
    cohort = scan_cohort(options.folder, spacing_mm=spacing, has_ignored=options.ignored, **about)
    if pattern:
        cohort = with_groups(cohort, _groups_by(pattern, [patient.id for patient in cohort.patients]))
    write_manifest(cohort, options.folder)
    print(f"{options.folder / MANIFEST}: {cohort.size}, {counted(cohort.slice_count, 'slice')}")


def _groups_by(pattern: re.Pattern[str], names: Sequence[str]) -> dict[str, int]:
    patients = patients_by(pattern, [[name] for name in names])
    return group_numbers(
        dict(zip(names, patients, strict=True)), {name: number for number, name in enumerate(names, start=1)}
    )


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    options = parse(arguments)
    own = {"phantom": build_phantom, "index": index_folder}
    code: int = (own.get(options.command) or COMMANDS[options.command][0].run)(options) or 0
    return code


if __name__ == "__main__":
    sys.exit(main())
