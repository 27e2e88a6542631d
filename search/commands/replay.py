"""Run one trial again from its record, and say what differs: is a figure of the study what its settings give?"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.common.errors import InputError
from data_prep.common.files import write_text_atomically
from data_prep.common.wording import counted
from lcnn.outcome import Outcome
from search.console.display import Display
from search.console.words import short_params
from search.errors import RunFailed
from search.execution.context import trial_context
from search.execution.measuring.slots import recalled_slots
from search.execution.trainings import Trained, Training, run_trainings
from search.execution.trial import TrialContext
from search.execution.tune_search import ray_running
from search.run.folder import RunFolder, describe_environment, read_environment
from search.run.opened import open_run
from search.study.ledger import Ledger, TrialRecord, settings_of


@dataclass(frozen=True)
class EpochDifference:
    """An epoch whose value is not the recorded one."""

    epoch: int
    recorded: float | None
    replayed: float | None


@dataclass(frozen=True)
class Replay:
    """What a replay found."""

    trial: int
    outcome_recorded: str
    outcome_replayed: str
    epochs: tuple[EpochDifference, ...]
    """Epochs that differ, in order."""
    environment: Mapping[str, tuple[Any, Any]]
    """What is not as in the run's last session: recorded and now."""

    @property
    def is_identical(self) -> bool:
        """Whether every value and the outcome are the recorded ones."""
        return not self.epochs and self.outcome_recorded == self.outcome_replayed


def replay(run_root: Path, number: int, results: Path, display: Display) -> None:
    """Train a trial again, with its settings, seed and epochs, and compare it with its record.

    Args:
        run_root: the run.
        number: the trial.
        results: folder of all runs, for the compiled cohort.
        display: where to report.

    Raises:
        InputError: no run, no such trial, or one without an epoch.
        RunFailed: the replay differs from the record.
    """
    run = open_run(run_root, results, display)
    with run.folder.locked():
        trial = _trial(run.ledger, run.folder, number)
        display.say(f"Replaying trial {number} for {counted(len(trial.curve), 'epoch')}: {short_params(trial.params)}")
        _ = run.prepared
        run.slots = recalled_slots(run)
        # From the start, not from what an interrupted replay left: that is what is to be shown.
        context = replay_context(trial_context(run), run.folder)
        shutil.rmtree(context.folder, ignore_errors=True)
        training = Training(str(number), settings_of(trial, run.space), len(trial.curve))
        try:
            with ray_running(run.slots, on_death=display.failed):
                trained = run_trainings(
                    [training], context, lambda done: display.progress("replay, epochs", done, training.epochs)
                )[training.key]
        finally:
            display.clear()
            shutil.rmtree(context.folder, ignore_errors=True)
        found = compare(trial, trained, read_environment(run.folder)[-1], describe_environment())
        path = run.folder.replays / f"{number}.json"
        write_text_atomically(path, json.dumps({**asdict(found), "is_identical": found.is_identical}, indent=1) + "\n")
    for line in report(found, len(trial.curve)):
        display.say(line)
    if not found.is_identical:
        raise RunFailed(f"the replay of trial {number} differs from its record; see {path}")


def replay_context(context: TrialContext, run: RunFolder) -> TrialContext:
    """What a replay may know: as its trial, but with a folder of its own, and no storage to go on from."""
    return replace(context, folder=(run.replays / "work").resolve(), checkpoints=None)


def compare(trial: TrialRecord, trained: Trained, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Replay:
    """Hold a replay against the record.

    Args:
        trial: the record.
        trained: the replay, of as many epochs.
        recorded: the environment of the run's last session.
        now: the environment of the replay.
    """
    # A trial that was stopped is replayed up to where it was stopped, which it completes.
    stopped = trial.outcome in (None, Outcome.PRUNED)
    expected = Outcome.COMPLETED if stopped else trial.outcome
    assert expected is not None
    values = list(trained.curve) + [None] * (len(trial.curve) - len(trained.curve))
    return Replay(
        trial=trial.number,
        outcome_recorded=expected.value,
        outcome_replayed=trained.outcome.value,
        epochs=tuple(
            EpochDifference(epoch, before, after)
            for epoch, (before, after) in enumerate(zip(trial.curve, values, strict=True), start=1)
            if before != after
        ),
        environment=_changes(recorded, now),
    )


def _changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = ("python", "packages", "platform", "cores", "gpus", "commit")
    changes = {key: (recorded.get(key), now.get(key)) for key in keys if recorded.get(key) != now.get(key)}
    if "packages" in changes:
        before, after = (found or {} for found in changes.pop("packages"))
        changes |= {
            name: (before.get(name), after.get(name))
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        }
    return changes


def report(found: Replay, epochs: int) -> Sequence[str]:
    """What is printed."""
    lines = [
        f"  not as in the run: {name} was {before}, is {after}" for name, (before, after) in found.environment.items()
    ]
    if found.is_identical:
        all_of_them = f"all {epochs} epochs are" if epochs > 1 else "its epoch is"
        return [*lines, f"Trial {found.trial}: {all_of_them} identical to the record, bit for bit"]
    if found.outcome_recorded != found.outcome_replayed:
        lines.append(f"  it ended {found.outcome_replayed}, where the record says {found.outcome_recorded}")
    for difference in found.epochs:
        after = "nothing" if difference.replayed is None else f"{difference.replayed:.6f}"
        lines.append(f"  epoch {difference.epoch}: recorded {difference.recorded:.6f}, replayed {after}")
    return lines


def _trial(ledger: Ledger, run: RunFolder, number: int) -> TrialRecord:
    with_curve = [trial.number for trial in ledger.trials() if trial.curve]
    if number not in with_curve:
        shown = ", ".join(str(n) for n in with_curve[:20]) or "none"
        raise InputError(f"--trial {number}: no trial of {run.root} with an epoch to replay; choose from {shown}")
    return ledger.trial(number)
