"""Confirmation: the best trials and the defaults, trained again with other seeds before a winner is named.

A search's best value is the largest of many noisy ones and therefore too high, the more so the more trials there
were (the winner's curse; Cawley and Talbot 2010, On Over-fitting in Model Selection). Trainings with seeds that the
search has not used tell what the settings are worth; how much the winner loses by it is its regression.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median_low, stdev
from typing import Any

from data_prep.files import write_text_atomically
from lcnn.outcome import Outcome
from search.errors import RunFailed
from search.execution.trainings import Trained, Training, settings_of
from search.placement.memory import replaced
from search.run_folder import RunFolder
from search.space import SearchSpace
from search.spec import ConfirmConfig
from search.study.ledger import DEFAULTS, Ledger, TrialRecord


@dataclass(frozen=True)
class Candidate:
    """A trial with the trainings that confirm it."""

    trial: TrialRecord
    trainings: Mapping[int, Training]
    """By seed."""


@dataclass(frozen=True)
class Confirmed:
    """What a candidate's trainings say."""

    trial: TrialRecord
    trained: Mapping[int, Trained]
    """By seed."""

    @property
    def values(self) -> tuple[float, ...]:
        """Best validation Dice of each training, in order of the seeds; none where one of them failed."""
        values = [training.best for training in self.trained.values() if training.outcome == Outcome.COMPLETED]
        found = tuple(value for value in values if value is not None)
        return found if len(found) == len(self.trained) else ()

    @property
    def mean(self) -> float | None:
        """Mean of the values; None for settings that do not train reliably."""
        return fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds; None for fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def epochs(self) -> int:
        """Epochs for a final training: the median over the seeds of the best epoch."""
        return median_low(t.best_epoch for t in self.trained.values() if t.best_epoch is not None)

    @property
    def regression(self) -> float | None:
        """Search value minus confirmed value."""
        return None if self.mean is None or self.trial.best is None else self.trial.best - self.mean


def candidates(config: ConfirmConfig, ledger: Ledger, space: SearchSpace) -> list[Candidate]:
    """The best trials by search value and the defaults, with their trainings; the best first."""
    ranked = ledger.ranking()
    chosen = ranked[: config.top]
    chosen += [trial for trial in ranked if trial.number == DEFAULTS and trial not in chosen]
    return [Candidate(trial, _trainings(trial, config, space)) for trial in chosen]


def _trainings(trial: TrialRecord, config: ConfirmConfig, space: SearchSpace) -> dict[int, Training]:
    settings = settings_of(trial, space)
    first = settings.train.seed + 1  # the search itself used the seed of the file
    return {
        seed: Training(
            f"{trial.number}-{seed}",
            replaced(settings, {"train.seed": seed}),
            settings.train.epochs,
        )
        for seed in range(first, first + config.seeds)
    }


def confirmed(candidates: Sequence[Candidate], trained: Mapping[str, Trained]) -> list[Confirmed]:
    """The candidates by confirmed value, the best first; those that do not train reliably last.

    Raises:
        RunFailed: none trains reliably.
    """
    results = [
        Confirmed(candidate.trial, {seed: trained[training.key] for seed, training in candidate.trainings.items()})
        for candidate in candidates
    ]
    if all(result.mean is None for result in results):
        raise RunFailed("not one of the best trials trained again with another seed; see the folder confirm/")
    return sorted(results, key=lambda result: (result.mean is None, -(result.mean or 0.0), result.trial.number))


def confirmation_lines(results: Sequence[Confirmed]) -> list[str]:
    """A line a candidate, and the winner's regression."""
    lines = []
    for result in results:
        found = "did not train reliably" if result.mean is None else f"{result.mean:.3f}"
        spread = "" if result.sd is None else f" (sd {result.sd:.3f})"
        lines.append(f"  trial {result.trial.number:>3}  searched {result.trial.best:.3f}  confirmed {found}{spread}")
    winner = results[0]
    lines.append(f"  expected regression of the winner, searched minus confirmed: {winner.regression:+.3f}")
    return lines


def write_confirmation(run: RunFolder, results: Sequence[Confirmed]) -> None:
    """confirm.csv: a row a training."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "seed", "outcome", "epochs", "best_epoch", "best_val_dice", "search_val_dice"])
    for result in results:
        for seed, training in result.trained.items():
            writer.writerow(
                [
                    result.trial.number,
                    seed,
                    training.outcome.value,
                    len(training.curve),
                    training.best_epoch,
                    training.best,
                    result.trial.best,
                ]
            )
    write_text_atomically(run.confirmation, buffer.getvalue())


def validation_dice(trial: TrialRecord, results: Sequence[Confirmed]) -> float | None:
    """A trial's validation Dice: the confirmed one, or that of the search where it was not confirmed."""
    return next((result.mean for result in results if result.trial.number == trial.number), trial.best)


def confirmation_summary(results: Sequence[Confirmed]) -> dict[str, Any]:
    """The confirmation for evaluation.json, the winner first."""
    return {
        "seeds": len(results[0].trained),
        "trials": [
            {
                "trial": result.trial.number,
                "search_val_dice": result.trial.best,
                "confirmed_val_dice": result.mean,
                "sd": result.sd,
                "regression": result.regression,
            }
            for result in results
        ],
    }
