"""A longer budget for a search that has ended: so much more than was done, and nothing else in the way. Pure."""

from typing import Any

from data_prep.common.errors import InputError
from search.spec.settings import BudgetConfig, Extension
from search.study.budget.limits import Limit, Tally, all_reached

NO_POINT_LEFT = "every point of its space was run; to search on, widen its ranges and give it a new --name"


def extended_budget(
    budget: BudgetConfig, extension: Extension, tally: Tally, seconds: float, *, exhausted: bool
) -> tuple[BudgetConfig, list[str]]:
    """The budget with which an ended search goes on for as much as the extension asks.

    The amounts come on top of what was done. Every other limit that has been reached is lifted, as nothing would run
    under it. Two are not: a target Dice, for who set one is content with what has reached it, and the space, which
    holds no further point.

    Args:
        budget: under which the search has ended, with what the command line sets of it.
        extension: how much more.
        tally: what the trials have used.
        seconds: wall-clock time spent searching, over all sessions.
        exhausted: whether nothing is left to propose.

    Returns:
        The new budget, and a line for every limit that was lifted.

    Raises:
        InputError: the search has reached its target, or run every point of its space.
    """
    if exhausted:
        raise InputError(f"{_option(extension)}: {NO_POINT_LEFT}")
    changes: dict[str, Any] = {}
    if extension.trials:
        changes["trials"] = tally.counted + extension.trials
    if extension.hours:
        changes["hours"] = seconds / 3600 + extension.hours
    wider = budget.model_copy(update=changes)
    lines = []
    for limit in all_reached(wider, tally, seconds):
        assert limit.key is not None
        value = getattr(wider, limit.key)
        if limit == Limit.TARGET:
            raise InputError(
                f"{_option(extension)}: budget.target = {value:g} is reached (best Dice {tally.best:.3f}), and nothing "
                "runs beyond it; add --set budget.target=null, or a higher target"
            )
        changes[limit.key] = None
        lines.append(f"budget.{limit.key} = {value:g} was reached and no longer limits the search")
    return budget.model_copy(update=changes), lines


def _option(extension: Extension) -> str:
    """The option that asked, as it was typed."""
    return f"--trials +{extension.trials}" if extension.trials else f"--hours +{extension.hours:g}"
