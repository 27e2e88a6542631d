"""``import``: a folder of scans and masks in any format to a cohort."""

import argparse
import csv
import io
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from data_prep.cohort.groups import add_group_option, group_numbers, in_words
from data_prep.cohort.groups import group_pattern as pattern_of
from data_prep.cohort.layout import MANIFEST, Cohort, scan_cohort, spacing_of, with_groups, write_manifest
from data_prep.common.errors import InputError, first_line
from data_prep.common.files import IF_BUSY, locked, write_text_atomically
from data_prep.common.jobs import add_jobs_option, check_jobs
from data_prep.common.progress import in_processes
from data_prep.common.wording import counted
from data_prep.importing.patients import (
    IF_UNWRITABLE,
    Fault,
    ImportSettings,
    Note,
    Task,
    clear_leftovers,
    import_patient,
    preview_patient,
    refuse_foreign,
    unwritable,
)
from data_prep.importing.register import Register, patient_id, register_of, write_register
from data_prep.intensity.window import KeptHu
from data_prep.intensity.window import in_words as windows_in_words
from data_prep.intensity.window_options import add_window_options, chosen_windows
from data_prep.sources.case import Case, SourceFormat
from data_prep.sources.dicom.choice import with_series
from data_prep.sources.dicom.studies import processes_for
from data_prep.sources.naming.tree import Patterns, names_mask
from data_prep.sources.naming.whose import with_patients
from data_prep.sources.reading import ReadOptions, lacking_mask
from data_prep.sources.recognise import FORMATS, Source, recognise, spacings

FORMAT_NAMES = {kind.name.lower(): kind for kind in FORMATS}


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "scans",
        type=Path,
        metavar="SRC",
        help="folder of NIfTI files, DICOM studies, PNG/JPEG/TIFF slices (AISD too), or npz",
    )
    parser.add_argument("folder", type=Path, metavar="DST", help="folder of the cohort to make")
    add_window_options(parser)
    parser.add_argument("--format", choices=FORMAT_NAMES, help="where the folder holds files of several")
    parser.add_argument("--image-pattern", metavar="GLOB", help="names of scans, such as '*_ncct.nii.gz'")
    parser.add_argument("--mask-pattern", metavar="GLOB", help="names of masks, such as '*_lesion.nii.gz'")
    parser.add_argument("--lesion-labels", type=_labels, metavar="VALUE[,VALUE...]",
                        help="values of a mask (DICOM-SEG: segments) that are lesion, if several")  # fmt: skip
    parser.add_argument("--ignore-labels", type=_labels_or_none, metavar="VALUE[,VALUE...]|none",
                        help="those that are neither learnt nor scored (default: none, of AISD 4)")  # fmt: skip
    parser.add_argument("--series", metavar="NUMBER|FILE",
                        help="the DICOM series to take, where several fit (--dry-run lists them); for several "
                             "patients a CSV file: a patient's name in SRC and a number a line")  # fmt: skip
    parser.add_argument("--missing-masks", choices=("refuse", "empty", "skip"), default="refuse",
                        help="patients without masks: refuse them, take them as lesion-free, or skip them")  # fmt: skip
    parser.add_argument(
        "--hu-offset",
        type=int,
        metavar="N",
        help="what was added to the HU in 16-bit slices, NIfTI or npz (1024, 1000)",
    )
    parser.add_argument("--spacing-mm", type=float, nargs=3, metavar=("SLICE", "ROW", "COLUMN"),
                        help="distances between voxel centres, where the files do not say")  # fmt: skip
    add_group_option(
        parser, "the name or the path of a scan's file or folder in SRC, without its ending", "; sessions of BIDS and "
        "studies of one PatientID need no pattern"
    )  # fmt: skip
    parser.add_argument("--test-list", type=Path, metavar="FILE",
                        help="official test patients, a name of SRC a line: exactly these are tested")  # fmt: skip
    parser.add_argument("--ids", type=Path, metavar="FILE",
                        help="write which patient got which id here (CSV); keep it apart from the cohort")  # fmt: skip
    parser.add_argument("--name", help="name of the cohort (default: the folder's)")
    parser.add_argument("--source", metavar="TEXT", help="where the data comes from")
    parser.add_argument("--licence", help="terms of its use")
    add_jobs_option(parser)
    parser.add_argument("--dry-run", action="store_true",
                        help="say what was found and what would be taken, and write nothing but --ids")  # fmt: skip


def _labels(text: str) -> frozenset[int]:
    try:
        return frozenset(int(value) for value in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers, divided by commas, are labels") from error


def _labels_or_none(text: str) -> frozenset[int]:
    return frozenset() if text == "none" else _labels(text)


def run(options: argparse.Namespace) -> None:
    """Say what was found, import it, and write the manifest.

    Raises:
        InputError: bad options, a source that is not understood, or patients that cannot be imported.
    """
    _check(options)
    patterns = Patterns(options.image_pattern, options.mask_pattern)
    source = recognise(options.scans, patterns, FORMAT_NAMES.get(options.format), options.jobs)
    cases = _with_series(source, _to_import(source, options), options.series)
    if options.group_by is not None:
        cases = with_patients(cases, options.scans, pattern_of(options.group_by))
    settings = _settings(options, source)
    if options.dry_run:
        plan = _plan(options, cases, settings)
        _tell(options, source, cases, plan)
        if options.ids:
            _write_ids(options.ids, plan)
        _preview(plan.ids, source, options.jobs)
        return
    refuse_foreign(options.folder)
    with locked(options.folder, if_busy=IF_BUSY, if_unwritable=IF_UNWRITABLE):
        plan = _plan(options, cases, settings)
        _tell(options, source, cases, plan)
        _make(options, plan, source.lost)


@dataclass(frozen=True)
class _Plan:
    """Who is imported under which id, and how."""

    register: Register
    ids: Mapping[str, Case]
    groups: Mapping[str, int]
    """Of the ids that are scans of one person."""
    official: tuple[str, ...]
    settings: ImportSettings

    @property
    def size(self) -> str:
        """How many patients and scans, in words."""
        return in_words(self.groups.get(patient, patient) for patient in self.ids)


def _plan(options: argparse.Namespace, cases: Sequence[Case], settings: ImportSettings) -> _Plan:
    register = register_of(options.folder, options.scans).with_numbers(cases)
    numbers = {patient_id(number): number for number in map(register.number_of, cases)}
    ids = dict(zip(numbers, cases, strict=True))
    groups = group_numbers({patient: case.patient for patient, case in ids.items()}, numbers)
    return _Plan(register, ids, groups, _official_test(options.test_list, ids, groups), settings)


def _tell(options: argparse.Namespace, source: Source, cases: Sequence[Case], plan: _Plan) -> None:
    for line in _found(options, source, cases, plan):
        print(line, flush=True)


def _make(options: argparse.Namespace, plan: _Plan, lost: Sequence[str]) -> None:
    if options.ids:  # first, for it says who the patients are of which a fault is reported
        _write_ids(options.ids, plan)
    notes = _import(plan, lost, options.jobs)
    cohort = _describe(options, plan, notes)
    try:
        write_manifest(cohort, options.folder)
    except OSError as error:
        raise InputError(unwritable(options.folder, error)) from error
    doubts = [(patient, note.doubt) for patient, note in notes.items() if note.doubt]
    if doubts:
        print(f"warning: {counted(len(doubts), 'patient')} to look at; {doubts[0][0]}: {doubts[0][1]}")
    print(f"{options.folder}: {cohort.size}, {counted(cohort.slice_count, 'slice')}")


def _check(options: argparse.Namespace) -> None:
    check_jobs(options.jobs)
    chosen_windows(options)
    spacing_of(options.spacing_mm)
    if options.group_by is not None:
        pattern_of(options.group_by)
    source, folder = _resolved(options.scans), _resolved(options.folder)
    if source == folder or source in folder.parents or folder in source.parents:
        raise InputError(f"{options.folder}: lies in the source, or around it; name a folder elsewhere")
    for option, labels in (("lesion", options.lesion_labels), ("ignore", options.ignore_labels)):
        if 0 in (labels or ()):
            raise InputError(f"--{option}-labels 0: is the background of masks; leave it out")
    shared = (options.lesion_labels or set()) & (options.ignore_labels or set())
    if shared:
        raise InputError(f"--ignore-labels {min(shared)}: is named by --lesion-labels too; leave it out of one")
    if options.ids and folder in _resolved(options.ids).parents:
        raise InputError(f"--ids {options.ids}: lies in the cohort, which must not hold names; write it elsewhere")


def _resolved(path: Path) -> Path:
    try:
        path.exists()  # says what resolving does not: that a name is too long
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: no usable path ({first_line(error)}); name another") from error


def _to_import(source: Source, options: argparse.Namespace) -> list[Case]:
    has_none = len(source.without_mask) == len(source.cases)
    if options.mask_pattern and has_none and options.missing_masks != "skip":
        raise InputError(f"--mask-pattern {options.mask_pattern!r}: fits no mask below {options.scans}; correct it")
    if source.without_mask and options.missing_masks == "refuse":
        first = lacking_mask(source.without_mask[0])
        raise InputError(
            f"{first}: no mask for it; {len(source.without_mask)} of {len(source.cases)} patients lack masks"
            f"{_pairs(source, options.scans)}; say --mask-pattern, or --missing-masks empty (no lesion) or skip"
        )
    left_out = {*source.without_mask} if options.missing_masks == "skip" else set()
    cases = [case for case in source.cases if case not in left_out]
    if not cases:
        raise InputError(f"{options.scans}: no patient has a mask; say which files are masks by --mask-pattern")
    return cases


def _pairs(source: Source, root: Path, most: int = 3) -> str:
    """A few masks with their scans, for a message."""
    whole = [case for case in source.cases if case not in source.without_mask and any(case.masks)]
    pairs = [f"{_first_mask(case).relative_to(root)} with {case.images[0].relative_to(root)}" for case in whole[:most]]
    return f"; paired {', '.join(pairs)}" if pairs else ""


def _first_mask(case: Case) -> Path:
    return next(mask for mask in case.masks if mask)


def _with_series(source: Source, cases: list[Case], chosen: str | None) -> list[Case]:
    if chosen is None:
        return cases
    if source.kind != SourceFormat.DICOM:
        raise InputError(f"--series {chosen}: is for DICOM, and these are {source.kind}; leave it out")
    return with_series(cases, chosen)


def _official_test(path: Path | None, ids: Mapping[str, Case], groups: Mapping[str, int]) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--test-list {path}: cannot be read as text; give one patient a line") from error
    by_name = _by_name(ids)
    chosen: set[str] = set()
    for number, name in enumerate((line.strip() for line in lines), start=1):
        if name and name not in by_name:
            raise InputError(
                f"--test-list {path}: line {number} is no patient that is imported; correct it "
                "(--dry-run --ids FILE writes the names), or remove it"
            )
        if name:
            chosen.update(by_name[name])
    if not chosen or len(chosen) == len(ids):
        raise InputError(f"--test-list {path}: {len(chosen)} of {len(ids)} patients; some are tested, others train")
    tested = {groups[patient]: patient for patient in sorted(chosen) if patient in groups}
    missing = next((patient for patient in ids if patient not in chosen and groups.get(patient) in tested), None)
    if missing:
        raise InputError(
            f"--test-list {path}: names {tested[groups[missing]]}, but not {missing}, another scan of this patient; "
            "name all scans of a patient (--dry-run --ids FILE writes who is who), or none"
        )
    return tuple(sorted(chosen))


def _by_name(ids: Mapping[str, Case]) -> dict[str, list[str]]:
    """Ids by the names that a list may give: those of the scans, and, for all of their scans, of the patients."""
    by_patient: dict[str, list[str]] = defaultdict(list)
    for patient, case in ids.items():
        if case.patient:
            by_patient[case.patient].append(patient)
    return {**by_patient, **{case.name: [patient] for patient, case in ids.items()}}


def _settings(options: argparse.Namespace, source: Source) -> ImportSettings:
    if source.kind in (SourceFormat.NIFTI, SourceFormat.DICOM) and options.spacing_mm:
        raise InputError(f"--spacing-mm: {source.kind} files tell theirs; leave it out")
    if source.kind == SourceFormat.DICOM and options.hu_offset is not None:
        raise InputError(f"--hu-offset {options.hu_offset}: {source.kind} files tell theirs; leave it out")
    return ImportSettings(
        root=options.folder,
        windows=chosen_windows(options),
        keeps_hu=options.depth == 16,
        spacing_mm=spacing_of(options.spacing_mm),
        reading=ReadOptions(options.hu_offset, options.lesion_labels, options.ignore_labels),
    )


def _found(options: argparse.Namespace, source: Source, cases: Sequence[Case], plan: _Plan) -> list[str]:
    lines = [
        f"{options.scans}: {source.kind}, {counted(len(source.cases), 'scan' if plan.groups else 'patient')}, "
        f"{len(source.cases) - len(source.without_mask)} with a mask",
        f"spacing: {_spacing(options, source)}",
        f"window: {windows_in_words(chosen_windows(options))} where files hold HU"
        f"{', kept in 16 bits' if options.depth == 16 else ''}; 8-bit slices stay as they are",
    ]
    lines += _guessed(options, cases)
    if source.kind == SourceFormat.AISD and not options.lesion_labels and options.ignore_labels is None:
        lines.append("labels: 1, 2, 3, 5 are lesion; 4 (unsure) is ignored: neither learnt nor scored")
    if len(cases) < len(source.cases):
        lines.append(f"left out: {counted(len(source.cases) - len(cases), 'patient')} without a mask")
    if plan.groups:
        lines.append(f"groups: {plan.size}; no split divides those of a patient")
    elif options.group_by is not None:
        lines.append(f"groups: by --group-by {options.group_by} no two scans are of one patient")
    if plan.official:
        lines.append(f"official test: {len(plan.official)} {'scans' if plan.groups else 'patients'}")
    return lines


def _guessed(options: argparse.Namespace, cases: Sequence[Case]) -> list[str]:
    """What was taken for masks because of where it lies, though no name and no option says that it is one."""
    case = next((case for case in cases if any(case.masks)), None)
    if case is None or options.mask_pattern or case.kind == SourceFormat.DICOM:
        return []
    mask = _first_mask(case).relative_to(options.scans)
    if names_mask(mask):
        return []
    image = case.images[case.masks.index(_first_mask(case))].relative_to(options.scans)
    return [f"masks: {mask} for {image}, and so on; another choice is made by --mask-pattern"]


def _spacing(options: argparse.Namespace, source: Source) -> str:
    if options.spacing_mm:
        return " x ".join(f"{mm:g}" for mm in options.spacing_mm) + " mm"
    if source.kind == SourceFormat.DICOM:
        return "that of each series"
    found = sorted(spacings(source))
    if not found:
        return "not in the files; give it by --spacing-mm for volumes in ml"
    shown = [" x ".join(f"{mm:g}" for mm in spacing) for spacing in (found[0], found[-1])]
    return f"{shown[0]} mm" if len(found) == 1 else f"{shown[0]} to {shown[1]} mm ({len(found)} different)"


def _preview(ids: Mapping[str, Case], source: Source, jobs: int) -> None:
    """Say what would be taken of each patient.

    Raises:
        InputError: some would be refused.
    """
    if source.kind != SourceFormat.DICOM:
        return
    faults = []
    jobs = processes_for(sum(len(case.images) for case in ids.values()), jobs)
    outcomes = in_processes(preview_patient, ids.values(), jobs=jobs, what="reading headers")
    for patient, (_, outcome) in zip(ids, outcomes, strict=True):
        if isinstance(outcome, Fault):
            faults.append(outcome.reason)
        elif outcome:
            print(f"{patient}: {outcome}")
    _refuse(faults, source.lost, len(ids))


def _refuse(faults: Sequence[str], lost: Sequence[str], patients: int) -> None:
    """Say all that is wrong, a line each.

    Raises:
        InputError: anything is.
    """
    lines = [*faults, *lost]
    if len(lines) == 1:
        raise InputError(lines[0])
    if lines:
        sys.stderr.writelines(f"{line}\n" for line in lines)
        parts = [f"{len(faults)} of {counted(patients, 'patient')}"] if faults else []
        parts += [f"{len(lost)} damaged file{'s' if len(lost) > 1 else ''} of no known patient"] if lost else []
        raise InputError(f"{' and '.join(parts)} could not be imported; mend them, the same command goes on")


def _import(plan: _Plan, lost: Sequence[str], jobs: int) -> dict[str, Note]:
    """The notes of all patients; of each, it is said what was taken and corrected.

    Raises:
        InputError: some could not be imported; the others are kept.
    """
    root, ids = plan.settings.root, plan.ids
    try:
        write_register(root, plan.register)
        (root / MANIFEST).unlink(missing_ok=True)
        gone = clear_leftovers(root, tuple(ids))
    except OSError as error:
        raise InputError(unwritable(root, error)) from error
    if gone:
        print(f"removed: {counted(len(gone), 'patient')} no longer in the source, {gone[0]} the first", flush=True)
    notes: dict[str, Note] = {}
    faults = []
    tasks = [Task(patient, case, plan.settings) for patient, case in ids.items()]
    try:
        for task, outcome in in_processes(import_patient, tasks, jobs=jobs, what="importing"):
            if isinstance(outcome, Fault):
                faults.append(outcome.reason)
            else:
                notes[task.id] = outcome
    except BrokenProcessPool as error:
        raise InputError(
            f"{root}: a process was killed, most likely for want of memory; use fewer by --jobs, what is done is kept"
        ) from error
    for patient, note in notes.items():
        if note.taken:
            print(f"{patient}: {note.taken}")
    _refuse(faults, lost, len(ids))
    _refuse_idle_labels(plan.settings.reading, notes.values())
    if len({note.is_windowed for note in notes.values()}) > 1:
        raise InputError(f"{root}: grey values and HU are mixed in the source; import them apart")
    return notes


def _refuse_idle_labels(options: ReadOptions, notes: Collection[Note]) -> None:
    """See that labels that a person named are in the masks: a typing error must not make a cohort without lesions.

    Raises:
        InputError: they are in none.
    """
    if (options.lesion_labels or options.ignored_labels) and not any(note.has_lesion for note in notes):
        raise InputError("--lesion-labels, --ignore-labels: with these labels no mask holds a lesion; correct them")
    if options.ignored_labels and not any(note.has_ignored for note in notes):
        shown = ",".join(map(str, sorted(options.ignored_labels)))
        raise InputError(f"--ignore-labels {shown}: is in no mask; correct it, or leave it out")


def _describe(options: argparse.Namespace, plan: _Plan, notes: Mapping[str, Note]) -> Cohort:
    settings = plan.settings
    is_windowed = all(note.is_windowed for note in notes.values())
    # Of slices that were grey before, the window is what the user says, and unknown otherwise.
    windows = () if is_windowed and options.window is None else settings.windows
    cohort = scan_cohort(
        options.folder,
        name=options.name,
        window=windows_in_words(windows) if windows else None,
        source=options.source,
        licence=options.licence,
        spacing_mm={patient: note.spacing_mm for patient, note in notes.items() if note.spacing_mm},
    )
    kept = KeptHu(windows=windows) if settings.keeps_hu and not is_windowed else None
    return with_groups(cohort, plan.groups).model_copy(
        update={
            "windows": () if kept else windows,
            "hu": kept,
            "official_test": plan.official,
            "has_ignored": any(note.has_ignored for note in notes.values()),
        }
    )


def _write_ids(path: Path, plan: _Plan) -> None:
    table = io.StringIO()
    writer = csv.writer(table)
    grouped = ["group"] if plan.groups else []
    writer.writerow(["id", "source", *grouped])
    writer.writerows(
        (patient, case.name, *(plan.groups.get(patient, "") for _ in grouped)) for patient, case in plan.ids.items()
    )
    # Names of files need not be UTF-8; what is not is written as \\udcXX.
    text = table.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")
    try:
        write_text_atomically(path, text)
    except OSError as error:
        raise InputError(f"--ids {path}: cannot be written ({error.strerror}); name another file") from error
