"""The main command: a space file's search, to its evaluated end, or on from wherever it stopped."""

from search.execution.searching import limit_reached
from search.execution.session.cluster import check_address
from search.report.page import write_report
from search.report.summary import closing_summary
from search.run.checks import Asked, check_cohort_and_network, check_run
from search.run.opened import Run
from search.run.session import QUIET, RayView, Session
from search.spec.settings import Extension, Spec
from search.stages.walk import is_finished, walk
from search.study.budget.extension import NO_POINT_LEFT, extended_budget
from search.study.budget.limits import Limit, Tally
from search.study.ledger import Ledger


def run_search(
    run: Run,
    *,
    extension: Extension,
    warm_start: str | None = None,
    address: str | None = None,
    view: RayView = QUIET,
) -> None:
    """Run a search to its evaluated end, or go on with one that was interrupted.

    Args:
        run: the run of the space file.
        extension: what a finished run gets on top.
        warm_start: another run, whose best settings are tried right after the defaults.
        address: of a Ray cluster to run on; None: this machine.
        view: what Ray is to show; of a cluster, its own dashboard is there or not.

    Raises:
        InputError: something the user can mend.
        RunFailed: no trial gave a value, or the study's database broke off.
        KeyboardInterrupt: stopped from outside; everything so far is kept.
    """
    check_cohort_and_network(run)
    with run.folder.locked():
        resumed, warm = check_run(run, Asked(bool(extension), warm_start, address))
        run.session = Session(resumed, address, view, warm)
        if resumed:
            if extension:
                run.spec = extended(run, extension)
            if is_finished(run):
                show_finished(run)
                return
        if address is not None:
            check_address(address)
        walk(run)


def show_finished(run: Run) -> None:
    """The result of a run that has nothing left to do."""
    limit = limit_reached(run.spec, run.ledger)
    run.display.say(
        f"{run.folder.root} is finished ({limit}); nothing is run again. {how_to_extend(limit, run.ledger)}"
    )
    write_report(run)
    run.display.say(closing_summary(run.folder, run.ledger))


def how_to_extend(limit: Limit | None, ledger: Ledger) -> str:
    """What to do where a finished search is not enough.

    Args:
        limit: what ended it.
        ledger: its study.
    """
    if ledger.is_exhausted():
        return NO_POINT_LEFT.capitalize()
    target = "; with it --set budget.target=null, or a higher one" if limit == Limit.TARGET else ""
    return f"To extend it: --trials +{len(ledger)} or --hours +1{target}"


def extended(run: Run, extension: Extension) -> Spec:
    """The spec with the budget that a finished run gets; an unfinished run goes on to the budget that it has.

    So the same command can be given again after an interruption without extending the run twice.

    Raises:
        InputError: the run has reached its target, or run every point of its space.
    """
    asked, say = run.spec, run.display.say
    run.spec = asked.model_copy(update={"budget": run.folder.read_spec().budget})
    kept = run.spec.budget.model_copy(update={limit: getattr(asked.budget, limit) for limit in extension.limits})
    if not is_finished(run):
        say("The run is unfinished, so it goes on to the budget it has; an extension is for a finished run")
        return asked.model_copy(update={"budget": kept})
    tally, ledger = Tally(run.ledger.trials()), run.ledger
    budget, lifted = extended_budget(kept, extension, tally, ledger.search_seconds, exhausted=ledger.is_exhausted())
    for line in lifted:
        say(f"Extended: {line}")
    return asked.model_copy(update={"budget": budget})
