"""How trials are shown, the same in all figures: which are drawn, by which mark, in which words."""

from collections.abc import Sequence

from data_prep.common.wording import counted
from search.console.words import short_params
from search.report.evidence import Evidence
from search.report.figures.figure import LegendEntry, mark
from search.report.figures.marks import OUTCOME_SHAPES, Shape, covering, dot
from search.study.ledger import DEFAULTS, TrialRecord

MOST_DRAWN = 200
"""Trials drawn in a figure: of more, the best and an even sample of the others."""
MOST_STRONG = 60
"""Lines of a figure that can be told apart at full strength."""
DICE = "validation Dice"


def drawn(evidence: Evidence, most: int = MOST_DRAWN) -> list[TrialRecord]:
    """The trials that a figure draws, the best last and so on top; winner and defaults are among them."""
    ranked = sorted((trial for trial in evidence.trials if trial.curve), key=lambda trial: trial.best or 0.0)
    if len(ranked) <= most:
        return ranked
    rest, best = ranked[: -most // 2], ranked[-most // 2 :]
    sample = {rest[i * len(rest) // (most // 2)].number for i in range(most // 2)}
    chosen = {DEFAULTS, evidence.evaluation["winner"], *sample, *(trial.number for trial in best)}
    return [trial for trial in ranked if trial.number in chosen]


def density(shown: Sequence[TrialRecord]) -> str:
    """Class of lines that are so many that each must be fainter."""
    return "dense" if len(shown) > MOST_STRONG else ""


def sample_note(evidence: Evidence, shown: Sequence[TrialRecord]) -> str | None:
    """What a figure says where it does not draw all trials."""
    with_curve = sum(bool(trial.curve) for trial in evidence.trials)
    if len(shown) == with_curve:
        return None
    return f"{len(shown)} of {with_curve} trials are drawn: the best and an even sample of the others."


def trial_tip(trial: TrialRecord, step: str) -> str:
    """A trial in one line, for the pointer; ``step`` is what its steps are called."""
    best = "no value" if trial.best is None else f"Dice {trial.best:.3f}"
    course = f"{trial.outcome or 'unfinished'}, {best}, {counted(len(trial.curve), step)}"
    return f"Trial {trial.number}: {course}; {short_params(trial.params)}"


def outcome_class(trial: TrialRecord) -> str:
    """Class of a trial's marks."""
    return f"outcome-{trial.outcome}" if trial.outcome else "outcome-unfinished"


def shape_of(trial: TrialRecord) -> Shape:
    """Shape of a trial's marks."""
    return OUTCOME_SHAPES[trial.outcome] if trial.outcome else Shape.RING


def outcome_legend(trials: Sequence[TrialRecord]) -> tuple[LegendEntry, ...]:
    """The outcomes that there are."""
    found = {trial.outcome for trial in trials}
    return tuple(
        LegendEntry(mark(dot(9, 7, shape, f"outcome-{outcome}")), outcome.value)
        for outcome, shape in OUTCOME_SHAPES.items()
        if outcome in found
    )


def dice_range(values: Sequence[float]) -> tuple[float, float]:
    """An axis for values of Dice."""
    low, high = covering(values)
    return max(0.0, low), min(1.0, high)


def whole(ticks: Sequence[float]) -> list[float]:
    """The whole numbers among the ticks: there is no half an epoch."""
    return [tick for tick in ticks if tick == int(tick)]
