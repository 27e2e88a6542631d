"""The first stage: the cohort, compiled and split, and the run folder with its study."""

from search.placement.resources import thread_warning
from search.run.checkpoint_store import CheckpointStore
from search.run.folder import write_environment, write_spec
from search.run.opened import Run
from search.stages.stage import OffRay


class Prepare(OffRay):
    """Open the cohort, and begin the run where it is new."""

    def is_done(self, run: Run) -> bool:
        """In each session anew: what follows works on the opened cohort."""
        return run.is_prepared

    def do(self, run: Run) -> None:
        """Announce the session, then open; where the cohort is refused, no half-made run is left behind."""
        if not run.session.resumed and run.spec.storage.checkpoints:
            CheckpointStore(run.spec.storage.checkpoints).check_is_free(run.folder.root.resolve().name)
        announce(run)
        _ = run.prepared
        write_spec(run.folder, run.spec)
        write_environment(run.folder)
        run.display.log_to(run.folder.root / "run.log")
        if run.session.warm:
            start_warm(run)


def announce(run: Run) -> None:
    """Say what is about to happen, and on what."""
    say, slots, spec = run.display.say, run.slots, run.spec
    say(f"Run folder: {run.folder.root}" + (" (resumed)" if run.session.resumed else ""))
    hardware = f"{slots.gpus} GPU" if slots.gpus else "no GPU found"
    say(f"Profile: {spec.profile or 'none'} ({hardware}); trials: {slots}")
    if run.place.is_phantom:
        say(f"Cohort: no data in {spec.cohort.root}/, so the SYNTHETIC phantom cohort is used ({run.place.root})")
    else:
        say(f"Cohort: {run.place.root}")
    if run.session.address is None and (warning := thread_warning(spec.resources)):
        say(warning)


def start_warm(run: Run) -> None:
    """Line up another run's best settings behind the defaults, and say which of them do not fit."""
    warm = run.session.warm
    assert warm is not None
    new, best = run.ledger.warm_start(warm.points), len(warm.points) + len(warm.refused)
    run.display.say(f"Warm start: {new} of the other run's best {best} settings come next")
    for refusal in warm.refused:
        run.display.say(f"  left out: {refusal}")
