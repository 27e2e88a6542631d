"""What trainings take of a pool's memory, and what share of the pool follows for each.

A profile is all that decides the memory of a training. The profiles that a space can propose are measured before the
search (see `search.execution.measuring.probe`); here is what follows from the uses, without measuring anything.

A pool is a GPU, or on a computer without one its main memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from pydantic import ValidationError

from lcnn.config import TrainConfig
from lcnn.dotted import RENAMED, look_up, replaced
from search.spec.space import SearchSpace, Value

ACCUMULATION = "train.accumulation"
PROFILE_FIELDS = (
    "T",
    "model.width",
    "model.levels",
    "model.window_size",
    "model.heads",
    "model.norm",
    "model.global_backbone",
    "train.batch_size",
    ACCUMULATION,
    "train.precision",
)
"""The settings that decide, with the size of the pictures, how much memory a training takes."""
ORDER: Mapping[str, Sequence[str]] = {
    "model.norm": ("group", "batch"),
    "model.global_backbone": ("resnext14_4x2d", "resnext50_32x4d"),
    "train.precision": ("bf16", "fp16", "auto", "fp32"),
}
"""Named values from the least to the most demanding; numbers demand more the larger they are."""
MOST_SHAPES = 16
"""Shapes that are measured at most: each takes seconds, and has to wait for the one before."""
MARGIN = 0.15
"""Memory that a trial is given beyond its use: a long training's allocator breaks its memory into pieces."""
SHARES: Mapping[str, int] = {"cuda": 16, "cpu": 256}
"""Shares of a pool are multiples of one in so many. Of a GPU they are exact in binary and to Ray's four decimals, and
few, so that a worker often finds another trial of its own share; main memory may be for as many as there are cores."""

Peaks = Mapping["MemoryProfile", float]
"""Peak memory in bytes by profile; infinity for one that ran out of memory."""


@dataclass(frozen=True)
class MemoryProfile:
    """Everything about a training that its memory depends on."""

    image_size: int
    """Side of the pictures in pixels."""
    config: TrainConfig
    """The fields of `PROFILE_FIELDS`; all others at their defaults, so that equal profiles are equal."""
    windows: int = 1
    """In which slices come."""

    @classmethod
    def of(cls, config: TrainConfig, image_size: int, windows: int = 1) -> "MemoryProfile":
        """The profile of a training."""
        return cls.from_fields({name: look_up(config, name) for name in PROFILE_FIELDS}, image_size, windows)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Value], image_size: int, windows: int = 1) -> "MemoryProfile":
        """The profile with these values, by dotted name.

        Raises:
            ValidationError: the values exclude each other.
        """
        return cls(image_size, replaced(TrainConfig(), fields), windows)

    def fields(self) -> dict[str, Value]:
        """Its values by dotted name."""
        return {name: look_up(self.config, name) for name in PROFILE_FIELDS}

    def leaner(self) -> Iterator["MemoryProfile"]:
        """This profile, then those of the same training in ever smaller micro-batches, down to one stack at a time."""
        yield self
        train = self.config.train
        if train.accumulation >= train.batch_size:
            return
        try:
            smaller = with_accumulation(self.config, min(2 * train.accumulation, train.batch_size))
        except ValidationError:
            return  # batch normalisation needs two stacks at once
        yield from replace(self, config=smaller).leaner()


def with_accumulation(config: TrainConfig, accumulation: int) -> TrainConfig:
    """The same training in so many micro-batches a step.

    Raises:
        ValidationError: the network cannot be trained in micro-batches of that size.
    """
    return replaced(config, {ACCUMULATION: accumulation})


# --- the profiles of a space -----------------------------------------------------------------------------------------

Grid = Mapping[str, tuple[Value, ...]]
"""Values that are measured of each searched field of `PROFILE_FIELDS`, from the least to the most demanding."""


def demand(name: str, value: Value) -> float:
    """Puts a field's values in order of the memory that they ask for."""
    if name in ORDER:
        return ORDER[name].index(str(value))
    assert isinstance(value, int | float)
    return -value if name == ACCUMULATION else value


def profile_grid(space: SearchSpace, most: int = MOST_SHAPES) -> Grid:
    """The values to measure.

    Where all of them together make more than ``most`` profiles, every second value of the longest range is left
    out, again and again; a value that is left out counts as the next more demanding one, which always stays.
    """
    grid = {
        searched.name: tuple(sorted(searched.edge_values(), key=partial(demand, searched.name)))
        for searched in space.ranges()
        if RENAMED.get(searched.name, searched.name) in PROFILE_FIELDS
    }
    while math.prod(len(values) for values in grid.values()) > most:
        longest = max(grid, key=lambda name: len(grid[name]))
        grid[longest] = grid[longest][::-2][::-1]
    return grid


def space_profiles(space: SearchSpace, grid: Grid, image_size: int, windows: int = 1) -> list[MemoryProfile]:
    """Every profile of the grid whose values go together; that of the defaults is the first."""
    profiles = [stand_in(space.defaults, grid, image_size, windows)]
    for values in product(*grid.values()):
        try:
            config = replaced(space.defaults, dict(zip(grid, values, strict=True)))
            profiles.append(MemoryProfile.of(config, image_size, windows))
        except ValidationError:
            continue  # the conductor records such trials without starting them
    return list(dict.fromkeys(profile for profile in profiles if profile))


def stand_in(config: TrainConfig, grid: Grid, image_size: int, windows: int = 1) -> MemoryProfile | None:
    """The profile of the grid that asks for as much memory as ``config`` or just more; None where there is none."""
    fields: dict[str, Value] = {}
    for name, values in grid.items():
        wanted = demand(name, look_up(config, name))
        enough = [value for value in values if demand(name, value) >= wanted]
        if not enough:
            return None
        fields[name] = enough[0]
    try:
        return MemoryProfile.of(replaced(config, fields), image_size, windows)
    except ValidationError:
        return None


# --- from uses to shares ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placement:
    """How a training is fitted onto a pool."""

    share: float
    """Of one pool; 0 where trials do not share by memory."""
    accumulation: int
    """Micro-batches a step."""
    memory_bytes: float | None = None
    """Peak memory of the training; None where it was not measured."""


def share_of(peak_bytes: float, pool_bytes: int, shares: int) -> float:
    """Share of a pool that a training of this use gets; more than 1 where it does not fit."""
    if math.isinf(peak_bytes):
        return math.inf
    return math.ceil(peak_bytes * (1 + MARGIN) / pool_bytes * shares) / shares


def place(profile: MemoryProfile, pool_bytes: int, peaks: Peaks, shares: int) -> Placement | None:
    """Fit a profile onto an empty pool, in smaller micro-batches where it has to be.

    Returns:
        The share and the micro-batches; None where even the smallest do not fit. A profile that was not measured
        gets a whole pool.
    """
    measured = None
    for leaner in profile.leaner():
        if leaner not in peaks:
            break
        measured = leaner
        share = share_of(peaks[leaner], pool_bytes, shares)
        if share <= 1:
            return Placement(share, leaner.config.train.accumulation, peaks[leaner])
    if measured is None:
        return Placement(1.0, profile.config.train.accumulation)
    # On a pool of its own, a training that was seen to fit needs no margin for its neighbours' sake.
    peak = peaks[measured]
    return Placement(1.0, measured.config.train.accumulation, peak) if peak <= pool_bytes else None


@dataclass(frozen=True)
class MemoryPlan:
    """The uses of a space's profiles on one kind of pool."""

    pool_bytes: int
    context_bytes: int
    """Of a use, what a worker takes besides the tensors of its training."""
    image_size: int
    grid: Grid
    peaks: Peaks
    shares: int
    """A share is a multiple of one in so many."""
    windows: int = 1
    """In which slices come."""

    @property
    def largest_share(self) -> float:
        """Share of the trial that asks for most, where it fits."""
        return max(self._shares())

    @property
    def smallest_share(self) -> float:
        """Share of the trial that asks for least; 1 where none fits."""
        return min(self._shares())

    def _shares(self) -> list[float]:
        shares = [share_of(peak, self.pool_bytes, self.shares) for peak in self.peaks.values()]
        return [share for share in shares if share <= 1] or [1.0]

    def __str__(self) -> str:
        fitting = [peak / 1e9 for peak in self.peaks.values() if peak <= self.pool_bytes]
        takes = f"{min(fitting):.1f} to {max(fitting):.1f}" if fitting else "more than all"
        return f"a trial takes {takes} of {self.pool_bytes / 1e9:.1f} GB"

    def place(self, config: TrainConfig, accumulation: int | None = None) -> Placement | None:
        """Fit a training onto an empty pool.

        Args:
            config: its settings.
            accumulation: micro-batches that it was begun with: a training that goes on keeps to them.

        Returns:
            Its share and micro-batches; None where it does not fit even one stack at a time.
        """
        own = config.train.accumulation
        profile = stand_in(config, self.grid, self.image_size, self.windows)
        if profile is None:
            return Placement(1.0, accumulation or own)
        # The stand-in may have other micro-batches than the training; what counts is how often they are halved.
        base = profile.config.train.accumulation
        if ACCUMULATION not in self.grid:
            own = base  # the settings of a trial that was begun may be given as it ran, halved already
        if accumulation is not None:
            peak = self._peak(profile, base * accumulation / own)
            share = min(1.0, share_of(peak, self.pool_bytes, self.shares))
            return Placement(share, accumulation, None if math.isinf(peak) else peak)
        found = place(profile, self.pool_bytes, self.peaks, self.shares)
        if found is None:
            return None
        halved = min(own * found.accumulation // base, max(own, config.train.batch_size))
        return replace(found, accumulation=halved)

    def _peak(self, profile: MemoryProfile, accumulation: float) -> float:
        """Of the profile in at least so many micro-batches; infinity where it was not measured."""
        leaner = (profile for profile in profile.leaner() if profile.config.train.accumulation >= accumulation)
        return self.peaks.get(next(leaner, profile), math.inf)
