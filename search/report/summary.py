"""The closing words of a run: what won, how good it is on test patients, where everything lies, what next."""

import json
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.common.files import write_text_atomically
from data_prep.common.wording import counted, pasted
from lcnn.scoring.evaluation import comparison_text, estimate_text, find_comparison
from lcnn.scoring.intervals import Estimate
from search.console.words import minutes, search_command, short_params
from search.run.folder import RunFolder
from search.study.ledger import DEFAULTS, Ledger, TrialRecord
from search.study.objectives.pareto import Cost, front

FEWEST_PATIENTS = 6
"""With fewer, no permutation test can be significant: all signs are equal by chance in one case of 16."""
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
            "memory_bytes": trial.memory_bytes,
            "reason": trial.reason,
            **trial.params,
        }
        for trial in trials
    ]
    write_text_atomically(path, pd.DataFrame(rows).to_csv(index=False))


def write_front(path: Path, trials: list[TrialRecord], cost: Cost) -> None:
    """The Pareto front of Dice and cost as CSV, the best Dice first: number, both values, parameters."""
    rows = [
        {
            "number": trial.number,
            "best_val_dice": trial.best,
            f"{cost.name}_{cost.unit}": cost.of(trial),
            **trial.params,
        }
        for trial in front(trials, cost)
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
        f"{counted(evaluation['patients']['test'], 'test patient')}.",
        *_leak(evaluation["near_duplicates"], run),
        "",
        *_verdict(evaluation, winner),
        "",
        *_front(evaluation),
        f"  report      {run.report}",
        f"  model       {run.model} (weights, model card, exports, MONAI bundle)",
        f"  settings    {run.root / 'best_config.yaml'}",
        f"  test        {run.evaluation}, {run.patients.name} (a row a patient)",
        f"  pictures    {run.overlays}",
        f"  all trials  {run.trials_table}, {run.study.name} (an Optuna study)",
        *viewers(run),
        "",
        f"Next: open {run.report} in a browser, or retrain another trial:",
        f"  {search_command()} --retrain {pasted(run.root)} --trial {_runner_up(trials, winner)}",
    ]
    return "\n".join(lines)


def viewers(run: RunFolder) -> list[str]:
    """How to look at the trials with others' tools; a study in a database has the URL that the space file names."""
    study = [f"  dashboard   optuna-dashboard {pasted(f'sqlite:///{run.study}')}"] if run.study.exists() else []
    return [*study, f"  curves      tensorboard --logdir {pasted(run.tensorboard)}"]


def _leak(pairs: int, run: RunFolder) -> list[str]:
    return [f"WARNING: {pairs} pairs of slices leak between the parts: {run.near_duplicates}"] if pairs else []


def _outcomes(trials: list[TrialRecord]) -> str:
    counts = Counter(trial.outcome.value if trial.outcome else "unfinished" for trial in trials)
    return f"{counted(len(trials), 'trial')}, " + ", ".join(f"{count} {word}" for word, count in counts.most_common())


def _effort(evaluation: Mapping[str, Any], ledger: Ledger) -> list[str]:
    """How long it took and how busy the trial slots were, and what the confirmation says."""
    lines = []
    if evaluation["slots_busy"] is not None:
        lines.append(f"Searched for {minutes(ledger.search_seconds)}; trial slots busy {evaluation['slots_busy']:.0%}.")
    confirmation = evaluation["confirmation"]
    if confirmation:
        # Not always the first: the best confirmed trial may have failed in its final training.
        winner = next(trial for trial in confirmation["trials"] if trial["trial"] == evaluation["winner"])
        seeds = confirmation["seeds"]
        lines.append(
            f"Confirmed with {counted(seeds, 'other seed')}: the winner's validation Dice was "
            f"{winner['search_val_dice']:.3f} in the search and is {winner['confirmed_val_dice']:.3f} "
            f"(expected regression {winner['regression']:+.3f})."
        )
    return lines


def _verdict(evaluation: Mapping[str, Any], winner: TrialRecord) -> list[str]:
    label = " (SYNTHETIC cohort: says nothing about patients)" if evaluation["synthetic"] else ""
    models = evaluation["models"]
    figures = models["winner"]
    lines = [
        f"Winner: trial {winner.number}, {short_params(winner.params)}",
        f"  test Dice   {estimate_text(figures['dice'])}{label}",
        f"  surface     {estimate_text(figures['surface_dice'])}, surface Dice at 5 {_tolerance_unit(figures)}",
        f"  lesions     {estimate_text(figures['lesion_f1'])}, lesion-wise F1",
        f"  precision   {estimate_text(figures['precision'])}",
        f"  recall      {estimate_text(figures['recall'])}",
        f"  HD95        {estimate_text(figures['hd95'], figures['distance_unit'])}",
        *_false_alarms(figures),
        *_overtuning(evaluation["overtuning"]),
    ]
    if winner.number == DEFAULTS:
        return [
            *lines,
            "The defaults themselves won: nothing that was tried did better on validation patients.",
        ]
    comparison = find_comparison(evaluation, "defaults", "dice")
    if comparison is None:
        return [*lines, "The defaults gave no model to compare with (see trial 0)."]
    gain = gain_of(Estimate(**comparison["difference"]), comparison["p_holm"])
    return [
        *lines,
        f"  defaults    {estimate_text(models['defaults']['dice'])}, their test Dice, trained alike",
        f"  gain        {comparison_text(comparison)} ({gain})",
    ]


def _front(evaluation: Mapping[str, Any]) -> list[str]:
    """The Pareto front, where the search had a second objective."""
    found = evaluation.get("pareto")
    if not found:
        return []
    points = [
        f"  trial {p['trial']:>3}  Dice {p['dice']:.3f}  {p['cost']:.3g} {found['unit']}" for p in found["trials"]
    ]
    return [f"Pareto front of validation Dice and {found['cost']}, as searched:", *points, ""]


def _tolerance_unit(figures: Mapping[str, Any]) -> str:
    return str(figures["distance_unit"]).replace("voxels", "pixels")


def _overtuning(overtuning: Mapping[str, float | None]) -> list[str]:
    if overtuning["gap"] is None:
        return []
    return [f"  overtuning  {overtuning['gap']:+.3f}, validation Dice {overtuning['validation']:.3f} minus test Dice"]


def _false_alarms(model: Mapping[str, Any]) -> list[str]:
    free, alarms = model["lesion_free_patients"], model["lesion_free_with_false_alarm"]
    return [f"  no lesion   {alarms} of {free} lesion-free patients with a false alarm"] if free else []


class Gain(StrEnum):
    """What a paired difference to the defaults allows to say."""

    BETTER = "better than the defaults"
    WORSE = "worse than the defaults on test patients"
    NONE = "no significant gain"
    UNKNOWN = "too few patients to say"


def gain_of(difference: Estimate, p: float | None) -> Gain:
    """What a paired difference to the defaults allows to say: more or less where interval and test agree.

    Args:
        difference: mean over patients, with its interval.
        p: of the permutation test; None where too few patients are compared for one.
    """
    if difference.low is None or difference.high is None or p is None or difference.patients < FEWEST_PATIENTS:
        return Gain.UNKNOWN
    if p >= SIGNIFICANT:
        return Gain.NONE
    if difference.low > 0:
        return Gain.BETTER
    return Gain.WORSE if difference.high < 0 else Gain.NONE


def _runner_up(trials: list[TrialRecord], winner: TrialRecord) -> int:
    others = [trial for trial in trials if trial.is_usable and trial.number != winner.number]
    return max(others, key=lambda trial: trial.best or 0.0, default=winner).number
