"""The closing words of a run: what won, how good it is on test patients, where everything lies, what next."""

import json
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.files import write_text_atomically
from lcnn.evaluation import estimate_text
from lcnn.intervals import Estimate
from search.display import minutes, short_params
from search.run_folder import RunFolder
from search.study.ledger import DEFAULTS, Ledger, TrialRecord

FEWEST_PATIENTS = 6
"""With fewer, equal signs by chance alone put 0 outside a bootstrap interval in more than one case of twenty."""
SIGNIFICANT = 0.05
"""Two-sided p below which a permutation test speaks for a difference."""


def write_trials_table(path: Path, trials: list[TrialRecord]) -> None:
    """All trials as CSV: number, outcome, epochs, best value, micro-batches, parameters."""
    rows = [
        {
            "number": trial.number,
            "outcome": trial.outcome.value if trial.outcome else "unfinished",
            "epochs": len(trial.curve),
            "best_epoch": trial.best_epoch,
            "best_val_dice": trial.best,
            "seconds": round(trial.seconds, 1),
            "accumulation": trial.accumulation,
            "reason": trial.reason,
            **trial.params,
        }
        for trial in trials
    ]
    write_text_atomically(path, pd.DataFrame(rows).to_csv(index=False))


def closing_summary(run: RunFolder, ledger: Ledger) -> str:
    """The summary of a finished run, from its files."""
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    trials = ledger.trials()
    winner = ledger.trial(evaluation["winner"])
    lines = [
        "",
        f"Search finished: {_outcomes(trials)}.",
        *_effort(evaluation, ledger),
        f"Cohort: {evaluation['cohort']}; profile: {evaluation['profile'] or 'none'}; "
        f"{evaluation['patients']['test']} test patients.",
        "",
        *_verdict(evaluation, winner),
        "",
        f"  report      {run.report}",
        f"  model       {run.model / 'model.pt'}",
        f"  settings    {run.root / 'best_config.yaml'}",
        f"  test        {run.evaluation}, {run.patients.name} (a row a patient)",
        f"  pictures    {run.overlays}",
        f"  all trials  {run.trials_table}, {run.study.name} (an Optuna study)",
        "",
        f"Next: open {run.report} in a browser, or retrain another trial:",
        f"  python run_search.py --retrain {run.root} --trial {_runner_up(trials, winner)}",
    ]
    return "\n".join(lines)


def _outcomes(trials: list[TrialRecord]) -> str:
    counts = Counter(trial.outcome.value if trial.outcome else "unfinished" for trial in trials)
    return f"{len(trials)} trials, " + ", ".join(f"{count} {word}" for word, count in counts.most_common())


def _effort(evaluation: Mapping[str, Any], ledger: Ledger) -> list[str]:
    """How long it took and how busy the trial slots were, and what the confirmation says."""
    lines = []
    if evaluation["slots_busy"] is not None:
        lines.append(f"Searched for {minutes(ledger.search_seconds)}; trial slots busy {evaluation['slots_busy']:.0%}.")
    confirmation = evaluation["confirmation"]
    if confirmation:
        winner, seeds = confirmation["trials"][0], confirmation["seeds"]
        lines.append(
            f"Confirmed with {seeds} other seed{'s' if seeds > 1 else ''}: the winner's validation Dice was "
            f"{winner['search_val_dice']:.3f} in the search and is {winner['confirmed_val_dice']:.3f} "
            f"(expected regression {winner['regression']:+.3f})."
        )
    return lines


def _verdict(evaluation: Mapping[str, Any], winner: TrialRecord) -> list[str]:
    label = " (SYNTHETIC cohort: says nothing about patients)" if evaluation["synthetic"] else ""
    models = evaluation["models"]
    lines = [
        f"Winner: trial {winner.number}, {short_params(winner.params)}",
        f"  test Dice   {estimate_text(models['winner']['dice'])}{label}",
        f"  precision   {estimate_text(models['winner']['precision'])}",
        f"  recall      {estimate_text(models['winner']['recall'])}",
        f"  HD95        {estimate_text(models['winner']['hd95'], models['winner']['distance_unit'])}",
        *_false_alarms(models["winner"]),
    ]
    if winner.number == DEFAULTS:
        return [
            *lines,
            "The defaults themselves won: nothing that was tried did better on validation patients.",
        ]
    if "difference" not in evaluation:
        return [*lines, "The defaults gave no model to compare with (see trial 0)."]
    gain = Estimate(**evaluation["difference"]["dice"])
    return [
        *lines,
        f"  defaults    {estimate_text(models['defaults']['dice'])}, their test Dice, trained alike",
        f"  gain        {gain.text()} ({gain_of(gain)})",
    ]


def _false_alarms(model: Mapping[str, Any]) -> list[str]:
    free, alarms = model["lesion_free_patients"], model["lesion_free_with_false_alarm"]
    return [f"  no lesion   {alarms} of {free} lesion-free patients with a false alarm"] if free else []


class Gain(StrEnum):
    """What a paired difference to the defaults allows to say."""

    BETTER = "better than the defaults"
    WORSE = "worse than the defaults on test patients"
    NONE = "no significant gain"
    UNKNOWN = "too few patients to say"


def gain_of(difference: Estimate, p: float | None = None) -> Gain:
    """What a paired difference to the defaults allows to say: more or less where interval and test agree.

    Args:
        difference: mean over patients, with its interval.
        p: of a permutation test; None: none was made, so the interval decides alone.
    """
    if difference.low is None or difference.high is None or difference.patients < FEWEST_PATIENTS:
        return Gain.UNKNOWN
    if p is not None and p >= SIGNIFICANT:
        return Gain.NONE
    if difference.low > 0:
        return Gain.BETTER
    return Gain.WORSE if difference.high < 0 else Gain.NONE


def _runner_up(trials: list[TrialRecord], winner: TrialRecord) -> int:
    others = [trial for trial in trials if trial.is_usable and trial.number != winner.number]
    return max(others, key=lambda trial: trial.best or 0.0, default=winner).number
