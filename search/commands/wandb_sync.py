"""Tell W&B of a run, after the fact: its trials, epoch by epoch, and its test.

python -m search.wandb_sync results/lcnn-cpu                   online where logged in, else offline
python -m search.wandb_sync results/lcnn-cpu --mode offline    files below the run folder, for `wandb sync` to send

Everything comes from the study and the run folder. What W&B has is not sent again: the command may be given as often
as one likes, after a crash too. WANDB_PROJECT (default lcnn-search) and WANDB_ENTITY say where it goes.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.cohort.split import read_split
from data_prep.common.cli_errors import Parser, cli_errors
from data_prep.common.errors import InputError, first_line
from data_prep.common.wording import pasted
from search.console.display import Display
from search.run.evaluation import read_evaluation
from search.run.folder import RunFolder, read_environment, run_folder
from search.run.opened import Run, open_run
from search.run.prepare import is_synthetic
from search.spec.settings import Spec
from search.tracking.mode import Mode, is_logged_in
from search.tracking.runs import Group, TrackedRun, evaluation_run, search_key, trial_run
from search.tracking.sync import FOLDER, Patience, Synced, sync

HINT = "W&B: off, for nobody is logged in (wandb login); --wandb offline keeps its files, --wandb off says nothing"
WISHES = {"disabled": Mode.OFF, "offline": Mode.OFFLINE, "dryrun": Mode.OFFLINE}
NOT_LOGGED_IN = "nobody is logged in to W&B on this machine; run `wandb login`, or choose offline"


def chosen_mode(asked: str | None) -> Mode | None:
    """What ``--wandb`` means here, and without it W&B's own WANDB_MODE; None: nobody asked, and nobody is logged in.

    Raises:
        InputError: online was asked for, and nobody is logged in.
    """
    if asked is None and (wish := os.environ.get("WANDB_MODE")) in WISHES:
        return WISHES[wish]
    if asked is None:
        return Mode.ONLINE if is_logged_in() else None
    mode = Mode(asked)
    if mode == Mode.ONLINE and not is_logged_in():
        raise InputError(f"--wandb online: {NOT_LOGGED_IN}")
    return mode


def after_search(spec: Spec, results: Path, mode: Mode | None, display: Display, *, asked: bool) -> None:
    """Tell W&B of a run that has just ended; whatever W&B does, the run is none the worse for it.

    Args:
        spec: the run's space file.
        results: folder of all runs.
        mode: from `chosen_mode`.
        display: gets one line.
        asked: whether W&B was asked for; otherwise pictures of real patients stay here.
    """
    if mode is None:
        display.say(HINT)
    elif mode != Mode.OFF:
        root = run_folder(results, spec).root
        try:
            synced = sync_run(open_run(root, results, display), mode, pictures_of_patients=asked, patience=Patience())
        except (InputError, OSError) as error:
            synced = Synced(0, 0, fault=first_line(error))
        display.say(report(synced, root, mode))


def sync_run(run: Run, mode: Mode, *, pictures_of_patients: bool, patience: Patience) -> Synced:
    """Bring W&B up to date about a run.

    Args:
        run: the run.
        mode: offline or online.
        pictures_of_patients: also pictures of test patients, where the cohort is not synthetic.
        patience: how long W&B is waited for.

    Raises:
        InputError: a damaged run, or another command is working on it.
    """
    with run.folder.locked():
        runs = list(tracked(run, pictures_of_patients=pictures_of_patients))
        return sync(runs, run.folder.root, mode, patience)


def tracked(run: Run, *, pictures_of_patients: bool) -> Iterator[TrackedRun]:
    """All that W&B is to know of a run: trials that have ended, and the test, if there was one."""
    group, folder = group_of(run.folder, run.spec), run.folder
    for trial in run.ledger.trials():
        if trial.outcome is not None:
            yield trial_run(group, trial, run.space, folder.trials / str(trial.number))
    if folder.evaluation.exists():
        evaluation = read_evaluation(folder)
        show = pictures_of_patients or evaluation["synthetic"]
        pictures = sorted(folder.overlays.glob("*.png")) if show else []
        yield evaluation_run(group, evaluation, run.ledger.trial(evaluation["winner"]), run.space, pictures)


def group_of(run: RunFolder, spec: Spec) -> Group:
    """What all W&B runs of a search share."""
    name = run.root.resolve().name
    sessions = read_environment(run)
    synthetic = is_synthetic(spec.cohort)
    facts = {
        "run": name,
        "profile": spec.profile,
        "cohort_hash": read_split(run.split).cohort_hash,
        "synthetic": synthetic,
        "image_size": spec.cohort.image_size,
        "split_seed": spec.cohort.split.seed,
        "sampler": spec.sampler.name,
        "sampler_seed": spec.sampler.seed,
        "scheduler": spec.scheduler.name,
    }
    return Group(name, search_key(name, sessions[0]["started"] if sessions else ""), facts, synthetic)


def report(synced: Synced, root: Path, mode: Mode) -> str:
    """What was done, in one line."""
    again = f"python -m search.wandb_sync {pasted(root)} --mode {mode}"
    if synced.fault is not None:
        missing = synced.missing or "the"
        return f"W&B: {missing} runs are not written ({synced.fault}); nothing is lost, later: {again}"
    done = f"W&B ({mode}): {synced.written} runs written, {synced.known} were there"
    sending = f"; to send them: wandb sync {pasted(root / FOLDER)}/offline-run-*" if mode == Mode.OFFLINE else ""
    return done + sending


@cli_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder, like results/lcnn-cpu")
    parser.add_argument("--mode", choices=[Mode.OFFLINE.value, Mode.ONLINE.value], help="default: see above")
    parser.add_argument("--no-pictures", action="store_true", help="keep pictures of real patients here")
    parser.add_argument(
        "--stall", type=float, default=Patience.stall_s, metavar="S", help="give up after S seconds without progress"
    )
    options = parser.parse_args(arguments)
    display = Display()
    mode = chosen_mode(options.mode) or Mode.OFFLINE
    patience = Patience(options.stall, total_s=float("inf"))
    run = open_run(options.run, options.run.parent, display)
    synced = sync_run(run, mode, pictures_of_patients=not options.no_pictures, patience=patience)
    display.say(report(synced, options.run, mode))
    return 0 if synced.fault is None else 1


if __name__ == "__main__":
    sys.exit(main())
