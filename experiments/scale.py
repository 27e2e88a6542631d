"""What one driver can feed: a search with 1 to 1000 workers, simulated on a virtual clock.

    python -m experiments.scale                                  the gpu profile of spaces/lcnn.yaml
    python -m experiments.scale --workers 1 --filled 10000       a decision's cost in a study of 10,000 trials
    python -m experiments.scale --run results/lcnn-cpu           curves and times that a run has recorded

The conductor, the study (a SQLite file, or --study URL), the sampler and the scheduler are the real ones; only the
training is not: a worker that trains an epoch lets the clock run on by the epoch's time. One driver serves all
workers, one after the other, and what its decisions took is added to the clock, measured as they are taken. A worker
waits for the answer to every epoch, as Ray Tune's do. Ray's own cost is not in it.

The clock stops when the first worker asks for a trial in vain, so that no idling at the end is counted. Efficiency is
the share of the workers' time spent training, over the same share of one worker. Compare fleets by it: trials an hour
favour large fleets here, for the trials that end before the clock stops are the short ones.

Without --run the trainings follow a SYNTHETIC model: a curve rises as height * (1 - exp(-epoch / pace)), its height
falling with the distance from a fixed point of the space (learning rate 2e-3, fusion 0.6, Dice share 0.5), its pace
drawn between 2 and 8 epochs; an epoch takes --epoch-seconds for T = 1 and a sixth more for every further slice on
either side (the operations that experiments.cost counts), times a factor drawn between 0.8 and 1.2 a trial. With
--run, a trial draws one of the run's trials, and a curve that was cut short stays at its last value.
"""

import argparse
import heapq
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from sqlalchemy import Engine

from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError, first_line
from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from lcnn.training.fit import EpochResult
from search.run.database import STUDY_ERRORS
from search.spec.settings import BudgetConfig, Overrides, Spec, load_spec
from search.spec.space import Alternatives, Params, Range, SearchSpace
from search.study.conductor import Conductor, Proposal
from search.study.ledger import FOLDER, OUTCOME, SECONDS, Ledger
from search.study.scheduling.schedulers import Decision, build_scheduler

T = TypeVar("T")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""How a decision is timed; cpu leaves out waiting for the disk and for other programs."""
TRIALS_A_WORKER = 2
"""At least so many, or most of a large fleet would still be in its first trial when the clock stops."""
FILLED_EPOCHS = 12
"""Epochs of a trial that is there before the clock starts."""


class Courses(Protocol):
    """How trainings go."""

    label: str

    def course(self, number: int, config: TrainConfig, epochs: int) -> tuple[Sequence[float], float]:
        """Validation Dice after every epoch, and the seconds of one epoch."""


class SyntheticCourses:
    """The model of the module's head."""

    def __init__(self, epoch_seconds: float) -> None:
        self.epoch_seconds = epoch_seconds
        self.label = f"SYNTHETIC curves, {epoch_seconds:g} s an epoch at T = 1"

    def course(self, number: int, config: TrainConfig, epochs: int) -> tuple[Sequence[float], float]:
        """See `Courses`."""
        draw = random.Random(number)
        distance = (
            abs(math.log10(config.optim.lr / 2e-3)) + abs(config.fusion.local - 0.6) + abs(config.loss.dice - 0.5)
        )
        height, pace = max(0.05, 0.8 - 0.3 * distance + draw.gauss(0, 0.02)), draw.uniform(2, 8)
        curve = [max(0.0, height * (1 - math.exp(-epoch / pace))) for epoch in range(1, epochs + 1)]
        return curve, self.epoch_seconds * (1 + (config.T - 1) / 6) * draw.uniform(0.8, 1.2)


class RecordedCourses:
    """Trials of an earlier run, drawn by number."""

    def __init__(self, recorded: Sequence[tuple[Sequence[float], float]], label: str) -> None:
        self._recorded = recorded
        self.label = label

    @classmethod
    def of_run(cls, folder: Path) -> "RecordedCourses":
        """Every trial of a run folder's study that trained for an epoch.

        Raises:
            InputError: there is no study, or no such trial in it.
        """
        path = folder / "study.db"
        if not path.is_file():
            raise InputError(f"{path}: not found; --run takes the folder of a run, as results/lcnn-cpu")
        try:
            trials = optuna.load_study(study_name="search", storage=f"sqlite:///{path.resolve()}").trials
        except (*STUDY_ERRORS, KeyError) as error:
            raise InputError(f"{path}: not a readable study ({first_line(error)}); choose another --run") from error
        recorded = [
            ([value for _, value in sorted(t.intermediate_values.items())], t.user_attrs[SECONDS])
            for t in trials
            if t.intermediate_values and t.user_attrs.get(SECONDS)
        ]
        if not recorded:
            raise InputError(f"{path}: no trial has an epoch; choose another --run")
        courses = [(curve, seconds / len(curve)) for curve, seconds in recorded]
        return cls(courses, f"curves and times of the {len(courses)} trials of {folder}")

    def course(self, number: int, config: TrainConfig, epochs: int) -> tuple[Sequence[float], float]:
        """See `Courses`."""
        curve, seconds = random.Random(number).choice(self._recorded)
        return [*curve, *[curve[-1]] * epochs][:epochs], seconds


@dataclass
class Costs:
    """Seconds that each decision took, by kind."""

    next_trial: list[float] = field(default_factory=list)
    report: list[float] = field(default_factory=list)
    finish: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Fleet:
    """A simulated search."""

    workers: int
    ended: int
    """Trials that ended before a worker asked in vain."""
    hours: float
    """Virtual time until then."""
    trained_seconds: float
    """Training in it, over all workers."""
    costs: Costs

    @property
    def trials_an_hour(self) -> float:
        """Trials ended in an hour of virtual time."""
        return self.ended / self.hours

    @property
    def training_share(self) -> float:
        """Share of the workers' time spent training."""
        return self.trained_seconds / (self.hours * 3600 * self.workers)


@dataclass
class _Worker:
    proposal: Proposal
    curve: Sequence[float]
    epoch_seconds: float
    epoch: int
    """The one in training."""


class Simulation:
    """Events on a virtual clock around a real conductor.

    Args:
        conductor: of a study in which no trial is open.
        courses: how trainings go.
        workers: how many train at the same time.
        epochs: full budget of a trial.
        clock: seconds now, for timing decisions.
    """

    def __init__(
        self, conductor: Conductor, courses: Courses, *, workers: int, epochs: int, clock: Callable[[], float]
    ) -> None:
        self._conductor, self._courses, self._clock = conductor, courses, clock
        self._workers, self._epochs = workers, epochs
        self._driver_free = 0.0
        self._events: list[tuple[float, int, _Worker | None]] = []
        self._order = 0
        self._trained = 0.0
        self._ended = 0
        self.costs = Costs()

    def run(self) -> Fleet:
        """All trials, to the end of the budget; what is reported is the part up to the first refusal."""
        for _ in range(self._workers):
            self._at(0.0, None)
        fleet: Fleet | None = None
        while self._events:
            now, _, worker = heapq.heappop(self._events)
            if worker is not None:
                self._epoch_ends(now, worker)
            elif fleet is None and not self._start(now):
                fleet = self._fleet(max(now, self._driver_free))
        assert fleet is not None  # the budget ends, and every worker asks once more
        return fleet

    def _at(self, when: float, worker: _Worker | None) -> None:
        """A worker turns to the driver: with an epoch, or (None) for a trial."""
        self._order += 1
        heapq.heappush(self._events, (when, self._order, worker))

    def _start(self, asked: float) -> bool:
        proposal = self._timed(asked, self.costs.next_trial, self._conductor.next_trial)
        if proposal is None:
            self.costs.next_trial.pop()
            return False
        curve, seconds = self._courses.course(proposal.number, proposal.config, self._epochs)
        self._train(_Worker(proposal, curve, seconds, 1))
        return True

    def _train(self, worker: _Worker) -> None:
        self._at(self._driver_free + worker.epoch_seconds, worker)

    def _epoch_ends(self, now: float, worker: _Worker) -> None:
        number, value = worker.proposal.number, worker.curve[worker.epoch - 1]
        result = EpochResult(worker.epoch, 1.0, 1.0, 1.0, 0.1, value, 1e-3, 0.0, worker.epoch_seconds)
        self._trained += worker.epoch_seconds
        decision = self._timed(now, self.costs.report, partial(self._conductor.report, number, result))
        if decision == Decision.CONTINUE and worker.epoch < self._epochs:
            worker.epoch += 1
            self._train(worker)
            return
        if decision == Decision.CONTINUE:
            end = partial(self._conductor.finish, number, Outcome.COMPLETED)
            self._timed(self._driver_free, self.costs.finish, end)
        self._ended += 1
        self._at(self._driver_free, None)

    def _timed(self, asked: float, costs: list[float], decide: Callable[[], T]) -> T:
        """Let the driver decide as soon as it is free, and move its clock on by what that took."""
        start = self._clock()
        answer = decide()
        costs.append(self._clock() - start)
        self._driver_free = max(self._driver_free, asked) + costs[-1]
        return answer

    def _fleet(self, now: float) -> Fleet:
        trained = self._trained
        for ends, _, worker in self._events:
            if worker is not None:
                trained += worker.epoch_seconds - max(0.0, ends - now)  # an epoch under way, as far as it has come
        return Fleet(self._workers, self._ended, now / 3600, trained, self.costs)


def draw_point(space: SearchSpace, draw: random.Random) -> Params:
    """A random point of the space."""
    point: Params = {}
    for entry in space.entries.values():
        chooser = entry.chooser if isinstance(entry, Alternatives) else entry
        point[chooser.name] = _draw_value(chooser, draw)
        if isinstance(entry, Alternatives):
            searched = entry.options[str(point[chooser.name])].searched
            point |= {r.name: _draw_value(r, draw) for _, r in searched}
    return point


def _draw_value(searched: Range, draw: random.Random) -> Any:
    d = searched.distribution
    if isinstance(d, CategoricalDistribution):
        return draw.choice(d.choices)
    if isinstance(d, IntDistribution):
        return draw.randint(d.low, d.high)
    assert isinstance(d, FloatDistribution)
    return math.exp(draw.uniform(math.log(d.low), math.log(d.high))) if d.log else draw.uniform(d.low, d.high)


def fill(engine: Engine, name: str, space: SearchSpace, courses: Courses, number: int) -> None:
    """Put finished trials of `FILLED_EPOCHS` epochs into the empty study ``name``: a third completed, the rest pruned.

    Their points are random. Rows go straight into Optuna's tables: seconds, where its own way takes minutes.
    """
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in metadata.tables}
    with engine.begin() as connection:
        studies = metadata.tables["studies"].c
        study = connection.scalar(sqlalchemy.select(studies.study_id).where(studies.study_name == name))
        first = connection.scalar(sqlalchemy.select(sqlalchemy.func.max(metadata.tables["trials"].c.trial_id))) or 0
        for i in range(number):
            _add_rows(rows, study, first + 1 + i, i, space, courses)
        for table in metadata.tables.values():
            if rows[table.name]:
                connection.execute(table.insert(), rows[table.name])


def _add_rows(
    rows: dict[str, list[dict[str, Any]]], study: Any, trial_id: int, number: int, space: SearchSpace, courses: Courses
) -> None:
    point = draw_point(space, random.Random(number))
    curve, seconds = courses.course(number, space.config(point), FILLED_EPOCHS)
    outcome = Outcome.COMPLETED if number % 3 == 0 else Outcome.PRUNED
    state = "COMPLETE" if outcome == Outcome.COMPLETED else "PRUNED"
    trial, now = {"trial_id": trial_id}, datetime.now()
    times = {"datetime_start": now, "datetime_complete": now}
    rows["trials"].append({**trial, **times, "number": number, "study_id": study, "state": state})
    value = max(curve) if outcome == Outcome.COMPLETED else curve[-1]
    rows["trial_values"].append({**trial, "objective": 0, "value": value, "value_type": "FINITE"})
    for searched in (r for r in space.ranges() if r.name in point):
        internal = searched.distribution.to_internal_repr(point[searched.name])
        text = distribution_to_json(searched.distribution)
        param = {"param_name": searched.name, "param_value": internal, "distribution_json": text}
        rows["trial_params"].append({**trial, **param})
    for epoch, dice in enumerate(curve, start=1):
        step = {"step": epoch, "intermediate_value": dice, "intermediate_value_type": "FINITE"}
        rows["trial_intermediate_values"].append({**trial, **step})
    attrs = {FOLDER: f"trials/{number}", OUTCOME: outcome.value, SECONDS: seconds * FILLED_EPOCHS}
    rows["trial_user_attributes"] += [{**trial, "key": k, "value_json": json.dumps(v)} for k, v in attrs.items()]


@dataclass(frozen=True)
class Setting:
    """One simulation but for the number of workers."""

    spec: Spec
    courses: Courses
    trials: int
    filled: int = 0
    clock: str = "wall"


def simulate(setting: Setting, workers: int, url: str, name: str) -> Fleet:
    """Simulate a search of ``setting.trials`` trials, beside those that are filled in, in a new study."""
    spec = setting.spec
    space = SearchSpace(spec.search, spec.training, "space")
    ledger = Ledger(url, name, space, spec.sampler)
    if len(ledger):
        raise InputError(f"{url}: holds a study {name} already; choose another database")
    if setting.filled:
        fill(ledger.engine, name, space, setting.courses, setting.filled)
        ledger = Ledger(url, name, space, spec.sampler)
    scheduler = build_scheduler(spec.scheduler, spec.epochs)
    budget = setting.filled + setting.trials
    conductor = Conductor(ledger, space, scheduler, budget=BudgetConfig(trials=budget), epochs=spec.epochs)
    clock = CLOCKS[setting.clock]
    return Simulation(conductor, setting.courses, workers=workers, epochs=spec.epochs, clock=clock).run()


def summary(fleet: Fleet, single: Fleet | None) -> dict[str, Any]:
    """A fleet's figures, as printed and written; efficiency is null without a simulation of one worker."""
    return {
        "workers": fleet.workers,
        "trials_ended": fleet.ended,
        "virtual_hours": fleet.hours,
        "trials_an_hour": fleet.trials_an_hour,
        "training_share": fleet.training_share,
        "efficiency": fleet.training_share / single.training_share if single else None,
        "decision_ms": {kind: cost_ms(seconds) for kind, seconds in asdict(fleet.costs).items() if seconds},
    }


def cost_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Mean, median and 95th percentile in milliseconds."""
    ordered = sorted(seconds)
    p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
    figures = {"mean": statistics.fmean(ordered), "median": statistics.median(ordered), "p95": p95}
    return {"count": len(ordered), **{name: 1e3 * value for name, value in figures.items()}}


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000], help="(default 1 10 100 1000)")
    parser.add_argument(
        "--trials", type=int, default=200, help=f"a search; at least {TRIALS_A_WORKER} a worker are run (default 200)"
    )
    parser.add_argument("--filled", type=int, default=0, help="finished trials in the study before the clock starts")
    parser.add_argument("--epoch-seconds", type=float, default=60.0, help="of the synthetic model (default 60)")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="take curves and times from this run's study")
    parser.add_argument("--study", metavar="URL", help="database to use (default: a SQLite file, thrown away)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="how decisions are timed (default wall)")
    parser.add_argument("--space", type=Path, default=Path("spaces/lcnn.yaml"))
    parser.add_argument("--profile", default="gpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the figures here too")
    options = parser.parse_args(arguments)
    _run(options)
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.trials < 1 or options.filled < 0 or min(options.workers) < 1 or options.epoch_seconds <= 0:
        raise InputError("--trials, --workers and --epoch-seconds must be above 0, --filled not below 0")
    if options.out and not options.out.parent.is_dir():
        raise InputError(f"--out: {options.out.parent} is no folder; make it first")
    spec = load_spec(options.space, Overrides(options.profile, tuple(options.set)), has_gpu=False)
    courses: Courses = RecordedCourses.of_run(options.run) if options.run else SyntheticCourses(options.epoch_seconds)
    print(f"{courses.label}; {spec.sampler.name}, {spec.scheduler.name}, at most {spec.epochs} epochs a trial")
    print(f"{options.filled} trials in the study before; decisions timed by {options.clock} clock; ms: mean/median/p95")
    print("workers  trials ended  virtual hours  trials/hour  efficiency  next_trial        report            finish")
    rows, single = [], None
    for workers in sorted(set(options.workers)):
        trials = max(options.trials, TRIALS_A_WORKER * workers)
        setting = Setting(spec, courses, trials, options.filled, options.clock)
        fleet = _simulate_somewhere(setting, workers, options.study)
        single = fleet if workers == 1 else single
        rows.append(summary(fleet, single))
        _print_row(rows[-1])
    if options.out:
        settings = {"filled": options.filled, "clock": options.clock, "courses": courses.label}
        options.out.write_text(json.dumps({**settings, "fleets": rows}, indent=2) + "\n", encoding="utf-8")


def _simulate_somewhere(setting: Setting, workers: int, url: str | None) -> Fleet:
    with tempfile.TemporaryDirectory(prefix="lcnn-scale-") as folder:
        try:
            return simulate(setting, workers, url or f"sqlite:///{folder}/study.db", f"scale-{workers}")
        except (*STUDY_ERRORS, ImportError) as error:
            raise InputError(f"--study: {url}: cannot be used ({first_line(error)})") from error


def _print_row(row: dict[str, Any]) -> None:
    efficiency = "-" if row["efficiency"] is None else f"{row['efficiency']:.3f}"
    costs = (row["decision_ms"].get(kind) for kind in ("next_trial", "report", "finish"))
    cells = (f"{c['mean']:.1f}/{c['median']:.1f}/{c['p95']:.1f}" if c else "-" for c in costs)
    print(
        f"{row['workers']:7d}  {row['trials_ended']:12d}  {row['virtual_hours']:13.2f}  {row['trials_an_hour']:11.1f}  "
        f"{efficiency:>10}  " + "  ".join(f"{cell:<16}" for cell in cells).rstrip(),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
