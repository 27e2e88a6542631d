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

from data_prep.common.files import write_text_atomically
from lcnn.dotted import replaced
from lcnn.outcome import Outcome
from search.errors import RunFailed
from search.execution.trainings import Trained, Training
from search.run.folder import RunFolder
from search.spec.settings import ConfirmConfig
from search.spec.space import SearchSpace
from search.study.ledger import DEFAULTS, TrialRecord, settings_of


@dataclass(frozen=True)
class Candidate:
    """A trial with the trainings that confirm it."""

    trial: TrialRecord
    trainings: tuple[Training, ...]


@dataclass(frozen=True)
class Confirmation:
    """One training that confirms a candidate, and how it went."""

    seed: int
    fold: int | None
    """Where trials are measured on folds, which of them, from 0."""
    trained: Trained


@dataclass(frozen=True)
class Confirmed:
    """What a candidate's trainings say."""

    trial: TrialRecord
    runs: tuple[Confirmation, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """Best validation Dice with each seed, the mean over its folds; none where a training failed."""
        by_seed: dict[int, list[float]] = {}
        for run in self.runs:
            if run.trained.outcome != Outcome.COMPLETED or run.trained.best is None:
                return ()
            by_seed.setdefault(run.seed, []).append(run.trained.best)
        return tuple(fmean(by_seed[seed]) for seed in sorted(by_seed))

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
        """Epochs for a final training: the median over the trainings of the best epoch."""
        return median_low(run.trained.best_epoch for run in self.runs if run.trained.best_epoch is not None)

    @property
    def regression(self) -> float | None:
        """Search value minus confirmed value."""
        return None if self.mean is None or self.trial.best is None else self.trial.best - self.mean


def candidates(
    config: ConfirmConfig, ranked: Sequence[TrialRecord], space: SearchSpace, folds: int = 0
) -> list[Candidate]:
    """The best trials and the defaults, with their trainings; the best first.

    Args:
        config: how many, and with how many seeds.
        ranked: trials that ended well, the best first.
        space: turns trials into settings.
        folds: with each seed, a training on each of so many folds; 0: one on the split itself.
    """
    chosen = list(ranked[: config.top])
    chosen += [trial for trial in ranked if trial.number == DEFAULTS and trial not in chosen]
    return [Candidate(trial, _trainings(trial, config, space, folds)) for trial in chosen]


def _trainings(trial: TrialRecord, config: ConfirmConfig, space: SearchSpace, folds: int) -> tuple[Training, ...]:
    settings = settings_of(trial, space)
    first = settings.train.seed + 1  # the search itself used the seed of the file
    return tuple(
        Training(
            f"{trial.number}-{seed}" + ("" if fold is None else f"-fold-{fold}"),
            replaced(settings, {"train.seed": seed}),
            settings.train.epochs,
            fold,
        )
        for seed in range(first, first + config.seeds)
        for fold in (range(folds) if folds else [None])
    )


def confirmed(candidates: Sequence[Candidate], trained: Mapping[str, Trained]) -> list[Confirmed]:
    """The candidates by confirmed value, the best first; those that do not train reliably last.

    Raises:
        RunFailed: none trains reliably.
    """
    results = [
        Confirmed(
            candidate.trial,
            tuple(Confirmation(t.config.train.seed, t.fold, trained[t.key]) for t in candidate.trainings),
        )
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


def write_confirmation(folder: RunFolder, results: Sequence[Confirmed]) -> None:
    """confirm.csv: a row a training."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "seed", "fold", "outcome", "epochs", "best_epoch", "best_val_dice", "search_val_dice"])
    for result in results:
        for run in result.runs:
            writer.writerow(
                [
                    result.trial.number,
                    run.seed,
                    run.fold,
                    run.trained.outcome.value,
                    len(run.trained.curve),
                    run.trained.best_epoch,
                    run.trained.best,
                    result.trial.best,
                ]
            )
    write_text_atomically(folder.confirmation, buffer.getvalue())


def validation_dice(trial: TrialRecord, confirmation: Mapping[str, Any] | None) -> float | None:
    """A trial's validation Dice: the confirmed one, or that of the search where it was not confirmed.

    Args:
        trial: the trial.
        confirmation: that of `confirmation_summary`; None where nothing was confirmed.
    """
    rows = confirmation["trials"] if confirmation else ()
    return next((row["confirmed_val_dice"] for row in rows if row["trial"] == trial.number), trial.best)


def confirmation_summary(results: Sequence[Confirmed]) -> dict[str, Any]:
    """The confirmation for evaluation.json, the winner first."""
    return {
        "seeds": len({run.seed for run in results[0].runs}),
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
