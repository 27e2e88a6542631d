"""Checkpoints of trials: the best of those that can still win stay, the rest goes, from the run's storage too.

A trial that has ended is not trained on, so its ``last.pt`` goes at once. Its ``best.pt``, the model of its best
epoch, stays while the trial is among the best. ``history.csv`` always stays.
"""

from collections.abc import Iterable

from search.execution.trial import TrialContext, stored_as
from search.run.checkpoint_store import CheckpointStore
from search.study.ledger import DEFAULTS, TrialRecord


class CheckpointKeeper:
    """Removes checkpoints as trials end.

    Args:
        context: says where trials keep their files: in a folder each, named by number, and in the storage.
        most: trials whose best model is kept, beside the defaults'.
        trials: the trials so far; what an earlier session left behind is removed.

    Raises:
        OSError: the storage does not answer.
    """

    def __init__(self, context: TrialContext, most: int, trials: Iterable[TrialRecord]) -> None:
        self._context, self._most = context, most
        self._contenders: dict[int, float] = {}
        self._storage = None if context.checkpoints is None else CheckpointStore(context.checkpoints)
        # Listed once for all trials of earlier sessions: asking a storage for each of thousands would take minutes.
        self._listed: list[str] | None = None
        if self._storage is not None:
            self._listed = self._storage.files(stored_as(context, ""))
        for trial in trials:
            if trial.outcome is not None:
                self.ended(trial)
        self._listed = None

    def ended(self, trial: TrialRecord) -> None:
        """Keep what the ended trial may win by, and remove what it has beaten.

        Raises:
            OSError: the storage does not answer.
        """
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
        trained = self._context.folder / str(number)
        for file in (trained / name, *trained.glob(f"fold-*/{name}")):
            file.unlink(missing_ok=True)
        if self._storage is not None:
            for key in self._stored_files(str(number)):
                if key.rpartition("/")[2] == name:
                    self._storage.remove(key)

    def _stored_files(self, number: str) -> list[str]:
        """Keys of what the storage holds of a trial."""
        assert self._storage is not None
        below = stored_as(self._context, number)
        if self._listed is None:
            return self._storage.files(below)
        return [key for key in self._listed if key.startswith(f"{below}/")]
