"""``check``: what is wrong in a cohort, as a table, a CSV file and a contact sheet; exit code 1 where it has errors.

Which way up heads lie is decided among patients by the majority, and of all by the couch behind them, where pictures
show it; where they do not, the table says that the cohort was compared within itself only.

What --fix does: masks of two values that JPEG or resizing has blurred are split at 128, and patients that surely lie
upside down are turned by half. Files that it changes are copied to DIR/.before-fix first. It adds no masks, for a
missing one does not say that there is no lesion, and deletes nothing. Whether a head is turned or mirrored cannot be
seen, so a patient who was mirrored front to back has left and right exchanged after the turn.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_prep.common.files import IF_BUSY, locked
from data_prep.common.jobs import add_jobs_option, check_jobs
from data_prep.common.wording import counted
from data_prep.quality.cohort_check import CohortReport, check_cohort, list_patients
from data_prep.quality.contact_sheet import save_contact_sheets
from data_prep.quality.findings import Finding, Severity, write_findings
from data_prep.quality.fixes import apply_fixes, undo_unfinished

STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="cohort of images/<patient>/ and masks/<patient>/")
    parser.add_argument("--fix", action="store_true", help="mend what is safe, then check again")
    parser.add_argument("--out", type=Path, help="folder for check.csv and the contact sheet (results/check-<name>)")
    add_jobs_option(parser)


def run(options: argparse.Namespace) -> int:
    """Check, mend if asked, and show what is left; 1 where there are errors.

    Raises:
        InputError: the folder is no cohort.
    """
    check_jobs(options.jobs)
    out = options.out or Path("results") / f"check-{options.folder.resolve().name}"
    report = _mended(options) if options.fix else check_cohort(options.folder, jobs=options.jobs)
    write_findings(out / "check.csv", report.findings)
    sheets = save_contact_sheets(out, report.tiles, report.findings)
    _show(report)
    print(f"{out / 'check.csv'}" + "".join(f", {sheet.name}" for sheet in sheets))
    return int(report.has_errors)


def _mended(options: argparse.Namespace) -> CohortReport:
    list_patients(options.folder)  # refuses what is no cohort before anything is made in it
    with locked(options.folder, if_busy=IF_BUSY, if_unwritable="make room, or mend a copy of it"):
        undo_unfinished(options.folder)
        report = check_cohort(options.folder, jobs=options.jobs)
        fixed = apply_fixes(options.folder, report.findings)
        if fixed is None:
            return report
        print(f"mended {fixed.files} files; what they were is in {fixed.backup}")
        return check_cohort(options.folder, jobs=options.jobs)


def _show(report: CohortReport) -> None:
    console = Console(highlight=False)
    grouped: dict[tuple[Severity, str], list[Finding]] = {}
    for severity in Severity:
        for finding in (f for f in report.findings if f.severity is severity):
            grouped.setdefault((severity, finding.kind.value), []).append(finding)
    print(f"{report.size}, {counted(report.slices, 'slice')} that can be read and compared")
    if not grouped:
        print("nothing to report")
        return
    table = Table(box=None, pad_edge=False)
    for head in ("", "found", "times", "patients", "for example"):
        table.add_column(head, justify="right" if head in ("times", "patients") else "left")
    for (severity, kind), findings in grouped.items():
        first = findings[0]
        patients = len({finding.patient for finding in findings if finding.patient})
        place = " ".join(part for part in (first.patient, first.slice) if part)
        example = f"{place}: {first.detail}" if place else first.detail
        cells = (severity.value, kind, str(len(findings)), str(patients or ""), example)
        # Names of files may hold what rich would read as markup.
        table.add_row(*(Text(cell) for cell in cells), style=STYLES[severity])
    console.print(table)
