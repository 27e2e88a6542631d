"""Search LCNN's hyperparameters, train the best configuration, test it once.

python run_search.py --space spaces/lcnn.yaml              run; the same command resumes after any stop
python run_search.py --space spaces/lcnn.yaml --dry-run    validate, show the plan, estimate the time
python run_search.py --retrain results/lcnn-cpu --trial 3  train and test one trial of a finished search
python run_search.py --replay results/lcnn-cpu --trial 3   run one trial again and hold it against its record
"""

import argparse
import gc
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.common.cli_errors import STOPPED, Parser, stop_on_signals
from data_prep.common.errors import InputError, first_line

if TYPE_CHECKING:
    from search.console.display import Display

EXAMPLES = """
examples:
  without data (a synthetic cohort is built and labelled so):
    python run_search.py --space spaces/lcnn.yaml
  own data, as DATA/images/<patient>/<slice>.png and DATA/masks/<patient>/<slice>.png:
    python run_search.py --space spaces/lcnn.yaml --set cohort.root=DATA --name mystudy
  a quick look, or a longer search over fewer settings:
    python run_search.py --space spaces/lcnn.yaml --trials 4 --set train.epochs=4 --name quick
    python run_search.py --space spaces/lcnn.yaml --hours 8 --set search.T=null --set T=2 --name t2

exit codes: 0 done, 1 the search failed, 2 bad input (one line says what and where), 130 stopped (resumable)
"""

STUDY_REMEDY = "make room on its disk or mend its database, then the same command goes on"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        description="Search LCNN's hyperparameters, train the best configuration, test it once. Whatever is "
        "interrupted, by Ctrl-C or a crash, goes on with the same command.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--space",
        type=Path,
        metavar="FILE",
        help="the space file: cohort, settings, ranges, budget; or lcnn, which is shipped",
    )
    what.add_argument(
        "--retrain",
        type=Path,
        metavar="RUN",
        help="train a trial of this run folder on all training patients and test it",
    )
    what.add_argument(
        "--replay", type=Path, metavar="RUN", help="run a trial of this run folder again and say what differs"
    )
    parser.add_argument(
        "--trial", type=int, metavar="N", help="which trial --retrain (default: the winner) or --replay takes"
    )
    parser.add_argument("--dry-run", action="store_true", help="validate, show the plan and an estimate of its time")
    parser.add_argument(
        "--profile",
        default="auto",
        metavar="NAME",
        help="hardware profile of the space file; auto (default) takes gpu where there is one, else cpu",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, for example train.epochs=20; may be given several times; search.KEY=null fixes a range",
    )
    parser.add_argument("--name", metavar="NAME", help="name of the run folder (default: the space file's name)")
    parser.add_argument(
        "--trials", metavar="N", help="configurations to try (budget.trials); +N: so many more, for a finished run"
    )
    parser.add_argument(
        "--hours",
        metavar="H",
        help="stop searching after so long (budget.hours); +H: so much longer, for a finished run",
    )
    parser.add_argument(
        "--warm-start", metavar="RUN", help="first try the best settings of another run (its folder or study URL)"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="folder of all runs")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="run on a Ray cluster that is already there: its head, or auto on one of its nodes",
    )
    parser.add_argument(
        "--no-dashboard",
        action="store_true",
        help="search without Ray's dashboard, which takes some 150 MB of memory",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show what Ray, its workers and Tune write")
    parser.add_argument(
        "--wandb",
        choices=["offline", "online", "off"],
        help="tell W&B of the run at its end (default: online where logged in, else off); offline: as files in the run",
    )
    options = parser.parse_args(arguments)
    of_run = "--retrain" if options.retrain else "--replay" if options.replay else None
    if options.trial is not None and of_run is None:
        parser.error("--trial goes with --retrain RUN or --replay RUN")
    of_search = (
        "dry_run",
        "set",
        "trials",
        "hours",
        "name",
        "warm_start",
        "address",
        "wandb",
        "no_dashboard",
        "verbose",
    )
    if of_run and any(getattr(options, name) for name in of_search):
        parser.error(f"{of_run} takes a run as it is, on this machine: only --trial and --results go with it")
    if options.replay and options.trial is None:
        parser.error("--replay needs --trial N")
    options.trials, options.more_trials = _amount(parser, "--trials", "budget.trials", options.trials, int)
    options.hours, options.more_hours = _amount(parser, "--hours", "budget.hours", options.hours, float)
    return options


def _amount(
    parser: argparse.ArgumentParser, name: str, key: str, text: str | None, number: Callable[[str], float]
) -> tuple[Any, Any]:
    """A number as an amount in all, or with a plus in front as an amount on top; the other is None or 0."""
    if text is None:
        return None, 0
    try:
        value = number(text.removeprefix("+"))
    except ValueError:
        parser.error(f"{name}: {text} is not a number; write {name} 20, or {name} +20 for so much more")
    if not 0 < value < math.inf:
        adds = "adds nothing" if text.startswith("+") else f"is no amount for {key}"
        parser.error(f"{name}: {text} {adds}; give a number above 0")
    if not text.startswith("+"):
        return value, 0
    return None, value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = parse(arguments)
    stop_on_signals()
    try:
        return _answer(options)
    except KeyboardInterrupt:
        sys.stderr.write(f"{STOPPED}\n")
        return 130
    finally:
        if arguments is not None:
            gc.unfreeze()  # our caller's objects too; a process of our own ends sooner without


def _answer(options: argparse.Namespace) -> int:
    # Imported after parsing: torch, Ray and MONAI take seconds, which --help need not wait for.
    from search.console.display import Display  # noqa: PLC0415
    from search.errors import RunFailed  # noqa: PLC0415
    from search.run.database import STUDY_ERRORS, redact  # noqa: PLC0415

    display = Display()
    try:
        with _importing():
            command = _command(options, display)
        command()
    except InputError as error:
        return _end(display, 2, f"error: {error}")
    except (RunFailed, OSError) as error:
        return _end(display, 1, f"failed: {error}")
    except STUDY_ERRORS as error:
        reason = redact(first_line(error.__cause__ or error))
        return _end(display, 1, f"failed: the study cannot be written ({reason}); {STUDY_REMEDY}")
    finally:
        display.clear()
    return 0


@contextmanager
def _importing() -> Iterator[None]:
    """Look for no garbage meanwhile, nor later in what was made: it stays, and looking costs a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _command(options: argparse.Namespace, display: "Display") -> Callable[[], None]:
    """What the command line asks for, with all that it imports."""
    if options.retrain:
        from search.commands.retrain import retrain  # noqa: PLC0415

        return lambda: retrain(options.retrain, options.trial, options.results, display)
    if options.replay:
        from search.commands.replay import replay  # noqa: PLC0415

        return lambda: replay(options.replay, options.trial, options.results, display)
    return _search(options, display)


def _search(options: argparse.Namespace, display: "Display") -> Callable[[], None]:
    from search.spec.hardware import has_gpu  # noqa: PLC0415
    from search.spec.settings import Extension, Overrides, command_line_limits, load_spec  # noqa: PLC0415

    # The space and its ranges first: who wrote them wrongly need not wait for torch and Ray.
    overrides = Overrides(options.profile, tuple(options.set), options.name, options.trials, options.hours)
    spec = load_spec(options.space, overrides, has_gpu=has_gpu())
    spec.space(options.space)

    from search.run.opened import run_of  # noqa: PLC0415

    run = run_of(spec, options.space, options.results, display)
    if options.dry_run:
        from search.commands.dry_run import dry_run  # noqa: PLC0415
        from search.run.checks import Asked  # noqa: PLC0415

        asked = Asked(bool(options.more_trials or options.more_hours), options.warm_start, options.address)
        return lambda: dry_run(run, str(options.space), asked)

    from search.commands import wandb_sync  # noqa: PLC0415
    from search.commands.search import run_search  # noqa: PLC0415
    from search.run.session import RayView  # noqa: PLC0415

    wandb_mode = wandb_sync.chosen_mode(options.wandb)

    def search() -> None:
        run_search(
            run,
            extension=Extension(options.more_trials, options.more_hours, command_line_limits(overrides)),
            warm_start=options.warm_start,
            address=options.address,
            view=RayView(dashboard=not options.no_dashboard, verbose=options.verbose),
        )
        wandb_sync.after_search(spec, options.results, wandb_mode, display, asked=options.wandb is not None)

    return search


def _end(display: "Display", code: int, text: str) -> int:
    """Say why the command ends on standard error; the exit code."""
    display.clear()
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
