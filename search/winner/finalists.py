"""From a searched study to a trained winner: the best trials confirmed, the winner and the defaults trained finally."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from data_prep.common.wording import counted
from lcnn.outcome import Outcome
from search.errors import RunFailed
from search.execution.context import trial_context
from search.execution.trainings import run_trainings
from search.run.opened import Run
from search.spec.settings import Spec
from search.study.ledger import DEFAULTS, Ledger, TrialRecord
from search.study.objectives.pareto import cost_of, front
from search.winner.confirm import (
    Confirmed,
    candidates,
    confirmation_lines,
    confirmed,
    write_confirmation,
)
from search.winner.final import FinalJob, final_job, train_final


@dataclass(frozen=True)
class Finalist:
    """A trial that may win, and for how many epochs its final training runs."""

    trial: TrialRecord
    epochs: int | None = None
    """None: for the trial's own best epoch."""


def ranking(spec: Spec, ledger: Ledger) -> list[TrialRecord]:
    """Trials that ended well, the best first; where a cost counts too, those on the front of both before all others."""
    ranked = ledger.ranking()
    cost = cost_of(spec.objective)
    if cost is None:
        return ranked
    best = front(ranked, cost)
    on_front = {trial.number for trial in best}
    return [*best, *(trial for trial in ranked if trial.number not in on_front)]


def finalists(run: Run) -> tuple[list[Finalist], list[Confirmed]]:
    """The trials that may win, the best first: by confirmed value, or by search value where nothing is confirmed.

    Raises:
        RunFailed: not one of the best trials trained again.
    """
    spec, display = run.spec, run.display
    ranked = ranking(spec, run.ledger)
    if not spec.confirm.top:
        return [Finalist(trial) for trial in ranked], []
    chosen = candidates(spec.confirm, ranked, run.space, spec.folds.count)
    trainings = [training for candidate in chosen for training in candidate.trainings]
    numbers = ", ".join(str(candidate.trial.number) for candidate in chosen)
    seeds = counted(spec.confirm.seeds, "other seed")
    display.say(f"Confirming trials {numbers} with {seeds} each, at the full budget")
    total = sum(training.epochs for training in trainings)
    try:
        trained = run_trainings(
            trainings,
            replace(trial_context(run), folder=run.folder.confirm.resolve()),
            lambda done: display.progress("confirmation, epochs", done, total),
        )
    finally:
        display.clear()
    results = confirmed(chosen, trained)
    write_confirmation(run.folder, results)
    for line in confirmation_lines(results):
        display.say(line)
    return [Finalist(result.trial, result.epochs) for result in results if result.mean is not None], results


def train_winner(ranked: Sequence[Finalist], run: Run) -> dict[str, FinalJob]:
    """Train the winner and, beside it, the defaults on training and validation patients.

    Where the winner does not train again, the next best takes its place; defaults that do not are left out.

    Args:
        ranked: who may win, the best first.
        run: the run.

    Returns:
        What was trained, by role (winner, defaults).

    Raises:
        RunFailed: no trial trained again.
    """
    left = list(ranked)
    while left:
        roles = {"winner": left[0]}
        if others := [finalist for finalist in left[1:] if finalist.trial.number == DEFAULTS]:
            roles["defaults"] = others[0]
        jobs = {role: final_job(finalist.trial, run.space, finalist.epochs) for role, finalist in roles.items()}
        outcomes = train(jobs, run)
        failed = {job.number for job in jobs.values() if outcomes[job.number] != Outcome.COMPLETED}
        for role, job in jobs.items():
            if job.number in failed:
                run.display.say(f"The final training of the {role} (trial {job.number}) ended {outcomes[job.number]}")
        if jobs["winner"].number not in failed:
            return {role: job for role, job in jobs.items() if job.number not in failed}
        left = [finalist for finalist in left if finalist.trial.number not in failed]
    raise RunFailed(f"no final training completed; see {run.folder.final}")


def train(jobs: Mapping[str, FinalJob], run: Run) -> dict[int, Outcome]:
    """Train every job on training and validation patients; how each ended, by number."""
    display = run.display
    for role, job in jobs.items():
        display.say(
            f"Training the {role} (trial {job.number}) on training and validation patients "
            f"for {counted(job.epochs, 'epoch')}, its best by validation"
        )
    total = sum(job.epochs for job in jobs.values())
    try:
        return train_final(
            list(jobs.values()),
            trial_context(run),
            run.folder.final,
            lambda done: display.progress("final training, epochs", done, total),
        )
    finally:
        display.clear()
