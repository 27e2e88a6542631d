"""Evidence of runs that never ran: as few or as many trials as a test asks for."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from lcnn.outcome import Outcome
from lcnn.scoring.evaluate import Case, score_patient
from lcnn.scoring.slices import write_slices
from search.report.evidence import ConfirmingTraining, Evidence, Label, Parameter, Patient, Provenance, Span
from search.spec.settings import validate_spec
from search.study.ledger import TrialRecord

EPOCHS = 9
EVIL = "<script>alert('x')</script>\"&"
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PARAMETERS = (
    Parameter("T", choices=(1, 2, 3)),
    Parameter("fusion.local", 0.3, 0.95),
    Parameter("optim.lr", 1e-4, 1e-2, log=True),
    Parameter("schedule", choices=("cosine_restarts", "polynomial")),
    Parameter("schedule.polynomial.power", 0.5, 2.0, conditional=True),
)


def trial(number: int, outcome: Outcome | None = Outcome.COMPLETED, **changes: Any) -> TrialRecord:
    """A trial with a rising curve as long as its outcome allows."""
    rng = np.random.default_rng(number)
    epochs = {Outcome.COMPLETED: EPOCHS, Outcome.PRUNED: 3, Outcome.DIVERGED: 1}.get(outcome, 0)
    schedule = "polynomial" if number % 2 else "cosine_restarts"
    params: dict[str, Any] = {
        "T": 1 + number % 3,
        "fusion.local": float(rng.uniform(0.3, 0.95)),
        "optim.lr": float(10 ** rng.uniform(-4, -2)),
        "schedule": schedule,
    }
    if schedule == "polynomial":
        params["schedule.polynomial.power"] = float(rng.uniform(0.5, 2))
    height = 0.3 + 0.5 * float(rng.random())
    given: dict[str, Any] = {
        "params": params,
        "curve": tuple(height * (1 - 0.6**epoch) for epoch in range(1, epochs + 1)),
        "seconds": 10.0 * epochs,
        "reason": "out of memory" if outcome == Outcome.INFEASIBLE else None,
        **changes,
    }
    return TrialRecord(number=number, outcome=outcome, **given)


def mixed_trials(count: int) -> list[TrialRecord]:
    """Trials of which some end in every way there is; trial 0 completes."""
    others = (Outcome.PRUNED, Outcome.COMPLETED, Outcome.PRUNED, Outcome.COMPLETED, *Outcome)
    return [trial(n, others[n % len(others)] if n else Outcome.COMPLETED) for n in range(count)]


def spans_of(trials: Sequence[TrialRecord]) -> dict[int, Span]:
    """Two slots, each trial a minute after the one before it."""
    return {
        t.number: Span(BEGIN + timedelta(seconds=30 * t.number), BEGIN + timedelta(seconds=30 * t.number + 55))
        for t in trials
    }


def estimate(mean: float | None, half: float = 0.1, patients: int = 9) -> dict[str, Any]:
    """A stored estimate."""
    if mean is None:
        return {"mean": None, "low": None, "high": None, "patients": 0}
    return {"mean": mean, "low": mean - half, "high": mean + half, "patients": patients}


def model(dice: float | None) -> dict[str, Any]:
    """Test figures of one model, as evaluation.json has them."""
    return {
        "dice": estimate(dice),
        "precision": estimate(0.5),
        "recall": estimate(0.6),
        "hd95": estimate(12.0),
        "volume_difference": estimate(4.0),
        "volume_unit": "ml",
        "distance_unit": "mm",
        "lesion_free_patients": 1,
        "lesion_free_with_false_alarm": 1,
    }


def compared(
    metric: str, difference: Mapping[str, Any], p: float | None = 0.02, theirs: str = "defaults"
) -> dict[str, Any]:
    """The winner against another model in one metric."""
    return {
        "ours": "winner",
        "theirs": theirs,
        "metric": metric,
        "difference": difference,
        "p_permutation": p,
        "p_holm": p,
    }


def evaluation(winner: int = 4, **changes: Any) -> dict[str, Any]:
    """evaluation.json of a run whose winner is not the defaults."""
    return {
        "cohort": "phantom (synthetic)",
        "synthetic": True,
        "profile": "cpu",
        "winner": winner,
        "slots_busy": 0.9,
        "confirmation": {
            "seeds": 2,
            "trials": [
                {"trial": n, "search_val_dice": 0.7, "confirmed_val_dice": 0.6, "sd": 0.02, "regression": 0.1}
                for n in (winner, 0)
            ],
        },
        "models": {"winner": model(0.6), "defaults": model(0.5)},
        "comparisons": [compared("dice", estimate(0.1, 0.05)), compared("hd95", estimate(-2.0))],
        **changes,
    }


PATIENTS = (
    Patient("free", {"precision": 0.0, "true_volume": 0.0, "predicted_volume": 3.0}, "mm", "ml"),
    Patient("small", {"dice": 0.1, "true_volume": 2.0, "predicted_volume": 1.0, "recall": 0.1}, "mm", "ml"),
    Patient("large", {"dice": 0.9, "true_volume": 40.0, "predicted_volume": 44.0, "recall": 0.9}, "mm", "ml"),
)


def make_evidence(
    trials: Sequence[TrialRecord], evaluated: Mapping[str, Any] | None = None, **changes: Any
) -> Evidence:
    """The evidence of a run with these trials."""
    spec = validate_spec({"train": {"epochs": EPOCHS}, "scheduler": {"grace": 1}, "profile": "cpu"}, "test")
    given: dict[str, Any] = {
        "label": Label(run="lcnn-cpu", cohort="phantom (synthetic)", profile="cpu", synthetic=True),
        "trials": tuple(trials),
        "spans": spans_of(trials),
        "parameters": PARAMETERS,
        "provenance": Provenance(
            spec=spec,
            sessions=({"started": BEGIN.isoformat(), "commit": "abc", "packages": {"torch": "2"}, "cores": 2},),
            parts={"train": 7, "val": 2, "test": 3},
            cohort_hash="e2a2",
            openings=("2026-01-01 3 patients: final evaluation",),
        ),
        "evaluation": evaluated or evaluation(),
        "patients": PATIENTS,
        "confirming": tuple(
            ConfirmingTraining(n, seed, "completed", 0.6 + 0.01 * seed) for n in (4, 0) for seed in (1, 2)
        ),
        **changes,
    }
    return Evidence(**given)


def keep_pictures(
    folder: Path, names: Sequence[str], *, slices: int = 6, side: int = 40, has_ignored: bool = False
) -> Path:
    """Slices of these patients: a head with a true and a predicted square in the middle slices.

    What is ignored lies to the right of the true square, within the predicted one.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] - side / 2
    head = (rows**2 + columns**2 < (0.46 * side) ** 2) * 90 + 10
    for name in names:
        image = (head + rng.integers(0, 30, (slices, side, side))).astype(np.uint8)
        true, predicted = np.zeros((2, slices, side, side), dtype=bool)
        true[2:4, 12:20, 12:20] = True
        predicted[2:5, 15:24, 14:22] = True
        ignored = np.zeros_like(true)
        ignored[2:4, 12:24, 20:28] = True
        unsure = ignored if has_ignored else None
        result = score_patient(name, predicted, true, None, unsure)
        write_slices(folder, Case(result, image, true, predicted, unsure))
    return folder
