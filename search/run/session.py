"""What one session of a run is asked for, beside what its space file says."""

from dataclasses import dataclass

from search.run.warm_start import WarmStart


@dataclass(frozen=True)
class RayView:
    """What Ray is to show."""

    dashboard: bool = False
    """Open the dashboard. Each trial then has a worker of its own: Ray names a worker once, when it starts."""
    verbose: bool = False
    """Let Ray, its workers and Tune write to the terminal."""


QUIET = RayView()


@dataclass(frozen=True)
class Session:
    """One session of a run."""

    resumed: bool = False
    """Whether the run was there before."""
    address: str | None = None
    """Of the Ray cluster to run on; None: this machine."""
    view: RayView = QUIET
    """What Ray is to show; of a cluster, its own dashboard is there or not."""
    warm: WarmStart | None = None
    """What another run has to offer, tried right after the defaults."""
