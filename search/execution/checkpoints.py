"""Checkpoints of trials on disk: the best of those that can still win stay, the rest goes.

A trial that has ended is not trained on, so its ``last.pt`` goes at once. Its ``best.pt``, the model of its best
epoch, stays while the trial is among the best. ``history.csv`` always stays.
"""

from collections.abc import Iterable
from pathlib import Path

from search.study.ledger import DEFAULTS, TrialRecord


class CheckpointKeeper:
    """Removes checkpoints as trials end.

    Args:
        folder: has a folder a trial, named by its number.
        most: trials whose best model is kept, beside the defaults'.
        trials: the trials so far; what an earlier sitting left behind is removed.
    """

    def __init__(self, folder: Path, most: int, trials: Iterable[TrialRecord]) -> None:
        self._folder, self._most = folder, most
        self._contenders: dict[int, float] = {}
        for trial in trials:
            if trial.outcome is not None:
                self.ended(trial)

    def ended(self, trial: TrialRecord) -> None:
        """Keep what the ended trial may win by, and remove what it has beaten."""
        self._remove(trial.number, "last.pt")
        if trial.number == DEFAULTS:
            return
        if not trial.is_usable or trial.best is None:
            self._remove(trial.number, "best.pt")
            return
        self._contenders[trial.number] = trial.best
        if len(self._contenders) > self._most:
            loser = min(self._contenders, key=lambda number: (self._contenders[number], -number))
            del self._contenders[loser]
            self._remove(loser, "best.pt")

    def _remove(self, number: int, name: str) -> None:
        trained = self._folder / str(number)
        for file in (trained / name, *trained.glob(f"fold-*/{name}")):
            file.unlink(missing_ok=True)
