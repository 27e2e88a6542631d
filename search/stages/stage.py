"""What a stage of a run is."""

from typing import Protocol

from search.run.opened import Run


class Stage(Protocol):
    """A part of a run's course. What it has done is kept, so that it is not done twice."""

    def is_done(self, run: Run) -> bool:
        """Whether the run has nothing left to do here."""
        ...

    def is_on_ray(self, run: Run) -> bool:
        """Whether it needs Ray to be running."""
        ...

    def do(self, run: Run) -> None:
        """Do what is left.

        Raises:
            InputError: something the user can mend.
            RunFailed: it cannot be done on this machine, or no trial gave a value.
            KeyboardInterrupt: stopped from outside; everything so far is kept.
        """
        ...


class OffRay:
    """A stage that runs in this process."""

    def is_on_ray(self, run: Run) -> bool:
        """It does not need Ray."""
        return False


class OnRay:
    """A stage that trains on workers of Ray."""

    def is_on_ray(self, run: Run) -> bool:
        """It needs Ray."""
        return True
