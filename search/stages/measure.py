"""The second stage: how many trials fit side by side, by what trainings are seen to take."""

from search.execution.measuring.cluster_probe import slots_measured_there
from search.execution.measuring.slots import measured_slots
from search.execution.session.cluster import slots_on_cluster
from search.run.opened import Run
from search.stages.train_finally import TrainFinally


class Measure:
    """Measure the memory of trials, and plan the trial slots by it."""

    def is_done(self, run: Run) -> bool:
        """Once nothing is left to be trained."""
        return TrainFinally().is_done(run)

    def is_on_ray(self, run: Run) -> bool:
        """On a cluster it is measured there."""
        return run.session.address is not None

    def do(self, run: Run) -> None:
        """Measure what no session has measured yet; on a cluster, see also that its nodes can run trials."""
        if run.session.address is None:
            run.slots = measured_slots(run)
            return
        folder = None if run.spec.storage.checkpoints else run.folder.root.resolve()
        run.slots = slots_on_cluster(run.spec.resources, run.prepared.data.store.folder.resolve(), folder)
        run.slots = slots_measured_there(run)
