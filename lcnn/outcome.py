"""How a training ended: a value that is recorded, not an exception that is lost."""

from enum import StrEnum


class Outcome(StrEnum):
    """The ways a training can end.

    Bad configurations (diverged, infeasible) and broken machines (crashed) are never mixed up: the first are
    reported to the sampler as bad points, the second are retried and never scored.
    """

    COMPLETED = "completed"
    """Trained to its last epoch, or stopped early because it no longer improved."""
    PRUNED = "pruned"
    """Stopped by the scheduler as one of the worse."""
    DIVERGED = "diverged"
    """A loss or gradient became NaN or infinite."""
    INFEASIBLE = "infeasible"
    """Does not fit into memory."""
    CRASHED = "crashed"
    """The machinery failed more often than it is retried."""
