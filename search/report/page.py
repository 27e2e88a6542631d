"""The page itself: sections put together, everything from outside escaped, styles and scripts inside."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data_prep.common.files import write_text_atomically
from data_prep.common.wording import counted
from lcnn.outcome import Outcome
from lcnn.scoring.evaluation import COLUMNS
from search.console.words import minutes
from search.report.evidence import Evidence, Patient, read_evidence
from search.report.figures.answer import METRIC_NAMES, answer_stats, confirmation_figure, gain_figure, headline
from search.report.figures.course import (
    agreement_figure,
    curves_figure,
    progress_figure,
    survival_figure,
    timeline_figure,
)
from search.report.figures.figure import Cell, Figure, Table
from search.report.figures.patients import calibration_figure, pareto_figure, strata_figure, volume_figure
from search.report.figures.settings import importance_figure, parallel_figure, slices_figure
from search.report.figures.words import amount, number
from search.report.pictures import Viewing, viewings
from search.run.opened import Run

FAILED = (Outcome.DIVERGED, Outcome.INFEASIBLE, Outcome.CRASHED)


@dataclass(frozen=True)
class Section:
    """A part of the page with figures."""

    key: str
    title: str
    lead: str
    figures: tuple[Figure, ...]


def write_report(run: Run) -> None:
    """Write the run as one page.

    Raises:
        InputError: the run is not tested yet, or one of its files is damaged.
    """
    # The budget that the run was given last is the folder's, not the command's.
    write_text_atomically(run.folder.report, render(read_evidence(run.folder, run.ledger, run.space)))


def render(evidence: Evidence) -> str:
    """The page as HTML that needs nothing but itself."""
    environment = Environment(
        loader=PackageLoader("search.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell_text
    environment.filters["sort_key"] = sort_key
    pictures = viewings(evidence.kept_slices())
    return environment.get_template("page.html").render(
        label=evidence.label,
        headline=headline(evidence),
        answer=answer_stats(evidence),
        near_duplicates=evidence.evaluation.get("near_duplicates", 0),
        gain=gain_figure(evidence),
        confirmation=confirmation_figure(evidence),
        sections=sections(evidence),
        test=_present(volume_figure, strata_figure, calibration_figure, evidence=evidence),
        patients=patients_table(evidence),
        viewings=pictures,
        viewing_data=[asdict(viewing) | {"telling": viewing.telling} for viewing in pictures],
        viewing_words={viewing.patient: viewing_words(evidence, viewing) for viewing in pictures},
        left_out=len(evidence.patients) - len(pictures),
        failures=failures_table(evidence),
        making=making(evidence),
        spec_text=yaml.safe_dump(evidence.provenance.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        sessions=evidence.provenance.sessions,
        openings=evidence.provenance.openings,
        style=Markup(_asset("style.css")),
        script=Markup(_asset("page.js")),
    )


def _asset(name: str) -> str:
    return resources.files("search.report").joinpath("assets", name).read_text(encoding="utf-8")


def _present(*builders: Callable[[Evidence], Figure | None], evidence: Evidence) -> list[Figure]:
    return [figure for build in builders if (figure := build(evidence)) is not None]


def sections(evidence: Evidence) -> list[Section]:
    """The figures of the search, in the order of the page."""
    settings = _present(importance_figure, parallel_figure, slices_figure, pareto_figure, evidence=evidence)
    return [
        Section(
            "course",
            "The search",
            "How the best value came about, and how every trial learned.",
            (progress_figure(evidence), curves_figure(evidence)),
        ),
        Section(
            "settings",
            "The settings",
            "Which settings mattered, and where their good values lie.",
            tuple(settings),
        ),
        Section(
            "stopping",
            "Early stopping",
            "Whether stopping early was sound, and what ran when.",
            (survival_figure(evidence), timeline_figure(evidence), agreement_figure(evidence)),
        ),
    ]


COUNTS = ("true_lesions", "predicted_lesions")
"""Columns of whole numbers."""


def patients_table(evidence: Evidence) -> Table | None:
    """All test patients under the winner, failures first; None without any."""
    if not evidence.patients:
        return None
    measured = {name for patient in evidence.patients for name in patient.figures}
    names = [name for name in COLUMNS if name in measured]
    names += sorted(measured - set(names))
    first = evidence.patients[0]
    units = {"hd95": first.distance_unit} | {name: first.volume_unit for name in names if "volume" in name}
    heads = [METRIC_NAMES.get(name, name.replace("_", " ")) for name in names]
    heads = [f"{head} ({units[name]})" if name in units else head for name, head in zip(names, heads, strict=True)]
    return Table(
        ("patient", *heads),
        tuple((patient.name, *(_figure(patient, name) for name in names)) for patient in evidence.patients),
    )


def _figure(patient: Patient, name: str) -> Cell:
    value = patient.figures.get(name)
    return value if value is None or name not in COUNTS else round(value)


def viewing_words(evidence: Evidence, viewing: Viewing) -> str:
    """How the winner did on a patient, in a few words."""
    patient = next(patient for patient in evidence.patients if patient.name == viewing.patient)
    if patient.has_lesion:
        return f"Dice {patient.figures.get('dice', 0.0):.2f}"
    return "false alarm" if patient.figures.get("predicted_volume", 0.0) > 0 else "no lesion, none found"


def failures_table(evidence: Evidence) -> Table | None:
    """Trials that failed, with their reasons; None where none did."""
    failed = [trial for trial in evidence.trials if trial.outcome in FAILED]
    if not failed:
        return None
    return Table(
        ("trial", "outcome", f"{evidence.step}s", "reason", "settings"),
        tuple(
            (
                trial.number,
                str(trial.outcome),
                len(trial.curve),
                trial.reason,
                ", ".join(f"{name} {cell_text(value)}" for name, value in trial.params.items()),
            )
            for trial in failed
        ),
    )


def making(evidence: Evidence) -> list[tuple[str, str]]:
    """How the run was made, a name and words each."""
    made = evidence.provenance
    spec, training = made.spec, made.spec.training.train
    seconds = sum(trial.seconds for trial in evidence.trials)
    last = made.sessions[-1] if made.sessions else {}
    ended = [trial.outcome.value for trial in evidence.trials if trial.outcome]
    counts = ", ".join(f"{ended.count(word)} {word}" for word in dict.fromkeys(ended))
    parts = ", ".join(f"{made.parts[part]} {name}" for part, name in _PARTS.items())
    busy = evidence.evaluation.get("slots_busy")
    rows = [
        ("Started", str(made.sessions[0].get("started", "")) if made.sessions else ""),
        ("Trials", f"{len(evidence.trials)}: {counts}; {minutes(seconds)} of training"),
        ("Slots busy", "" if busy is None else f"{busy:.0%}"),
        ("Sampler", f"{spec.sampler.name}, {spec.sampler.startup} random trials first, seed {spec.sampler.seed}"),
        ("Scheduler", _scheduler(evidence)),
        (
            "Training",
            f"at most {counted(spec.epochs, 'epoch')}, batch {training.batch_size}, seed {training.seed}",
        ),
        ("Patients", f"{parts}; split by patient, seed {spec.cohort.split.seed}"),
        ("Slices", _slices(evidence)),
        ("Cohort hash", made.cohort_hash),
        ("Commit", str(last.get("commit") or "unknown")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in last.get("packages", {}).items())),
        ("Machine", _machine(last)),
        ("Command", str(last.get("command", ""))),
    ]
    return [(name, words) for name, words in rows if words]


_PARTS = {"train": "train", "val": "validation", "test": "test"}


def _scheduler(evidence: Evidence) -> str:
    scheduler = evidence.provenance.spec.scheduler
    if scheduler.name == "none":
        return "none: every trial ran to its end"
    return f"{scheduler.name}, grace {counted(scheduler.grace, evidence.step)}, reduction {scheduler.reduction}"


def _slices(evidence: Evidence) -> str:
    """How slices come to the network; runs of earlier versions have not noted their windows."""
    cohort = evidence.provenance.spec.cohort
    done = {
        "cropped to the head": cohort.crop == "head",
        "couch removed": cohort.remove_couch,
        "skull stripped": cohort.strip_skull,
    }
    parts = [f"{cohort.image_size} pixels", *(words for words, is_done in done.items() if is_done)]
    if windows := evidence.evaluation.get("windows"):
        parts.append(f"seen in {windows}")
    return ", ".join(parts)


def _machine(session: Mapping[str, Any]) -> str:
    if not session:
        return ""
    gpus = ", ".join(session.get("gpus", ())) or "no GPU"
    return (
        f"{session.get('platform', '')}; {session.get('cores', '?')} cores; {gpus}; Python {session.get('python', '')}"
    )


def cell_text(value: Cell) -> str:
    """A value in a table."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return amount(value) if abs(value) >= 100 else number(value)
    return str(value)


def sort_key(value: Cell) -> str:
    """What a script sorts a cell by: a number, words, or nothing where there is no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value) if isinstance(value, int | float) else value
