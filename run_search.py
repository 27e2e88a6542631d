"""Search LCNN's hyperparameters, train the best configuration, test it once.

python run_search.py --space spaces/lcnn.yaml              run; the same command resumes after any stop
python run_search.py --space spaces/lcnn.yaml --dry-run    validate, show the plan, estimate the time
python run_search.py --retrain results/lcnn-cpu --trial 3  train and test one trial of a finished search
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from data_prep.errors import InputError

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


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Search LCNN's hyperparameters, train the best configuration, test it once. Whatever is "
        "interrupted, by Ctrl-C or a crash, goes on with the same command.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--space", type=Path, metavar="FILE", help="the space file: cohort, settings, ranges, budget")
    what.add_argument(
        "--retrain",
        type=Path,
        metavar="RUN",
        help="train a trial of this run folder on all training patients and test it",
    )
    parser.add_argument("--trial", type=int, metavar="N", help="which trial --retrain takes (default: the winner)")
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
    parser.add_argument("--trials", type=int, metavar="N", help="configurations to try (budget.trials)")
    parser.add_argument("--hours", type=float, metavar="H", help="stop searching after so long (budget.hours)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="folder of all runs")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="run on a Ray cluster that is already there: its head, or auto on one of its nodes",
    )
    options = parser.parse_args(arguments)
    if options.trial is not None and options.retrain is None:
        parser.error("--trial goes with --retrain RUN")
    if options.retrain and (options.dry_run or options.set or options.trials or options.hours or options.name):
        parser.error("--retrain takes a run as it is: only --trial and --results go with it")
    if options.retrain and options.address:
        parser.error("--retrain runs on this machine; leave --address out")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    # Imported after parsing: torch, Ray and MONAI take seconds, which --help need not wait for.
    import torch  # noqa: PLC0415

    from search import plan, retrain, runner  # noqa: PLC0415
    from search.display import Display  # noqa: PLC0415
    from search.errors import RunFailed  # noqa: PLC0415
    from search.spec import Overrides, load_spec  # noqa: PLC0415

    display = Display()
    try:
        if options.retrain:
            retrain.retrain(options.retrain, options.trial, options.results, display)
            return 0
        overrides = Overrides(options.profile, tuple(options.set), options.name, options.trials, options.hours)
        spec = load_spec(options.space, overrides, has_gpu=torch.cuda.is_available())
        if options.dry_run:
            plan.dry_run(spec, str(options.space), options.results, display)
        else:
            runner.run_search(spec, str(options.space), options.results, display, options.address)
    except InputError as error:
        display.clear()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunFailed, OSError) as error:
        display.clear()
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        display.clear()
        print("Stopped. What is done is kept; the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A polite kill is treated like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
