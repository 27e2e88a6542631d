"""What a run's trainings may know, from the opened run."""

from data_prep.cohort.normalisation import training_normalisation
from search.execution.trial import Fold, TrialContext
from search.run.opened import Run


def trial_context(run: Run) -> TrialContext:
    """What trials may know; of the split, training and validation patients only."""
    prepared, store = run.prepared, run.prepared.data.store
    return TrialContext(
        folder=run.folder.trials.resolve(),
        store=store.folder.resolve(),
        train=prepared.split.train,
        val=prepared.split.val,
        normalisation=prepared.normalisation,
        slots=run.slots,
        checkpoints=run.spec.storage.checkpoints,
        folds=tuple(Fold(fold.train, fold.val, training_normalisation(store, fold)) for fold in prepared.folds),
        fold_use=run.spec.folds.use,
    )
