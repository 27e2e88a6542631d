"""Writes W&B runs, in a process of its own that may be killed: whatever W&B does, nobody waits for it.

Reads a job as JSON from standard input; answers a line for every run that is written: its id.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import CommError, UsageError

from data_prep.common.errors import first_line

INIT_TIMEOUT_S = 30.0


def write(run: dict[str, Any], folder: Path, project: str, mode: str) -> None:
    """Write one run.

    Args:
        run: a `search.tracking.runs.TrackedRun` as a mapping.
        folder: W&B's files go into ``wandb`` below it.
        project: the W&B project.
        mode: offline or online.

    Raises:
        CommError, UsageError: W&B could not be reached, or refused.
    """
    for broken_off in (folder / "wandb").glob(f"*run-*-{run['id']}"):
        shutil.rmtree(broken_off)
    # Nothing of this machine goes along: no console, code, commit, host name or load.
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        init_timeout=INIT_TIMEOUT_S,
        save_code=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    with wandb.init(
        project=project,
        dir=str(folder),
        id=run["id"],
        name=run["name"],
        group=run["group"],
        job_type=run["job_type"],
        tags=run["tags"],
        config=run["config"],
        mode="online" if mode == "online" else "offline",
        # A run that was broken off is taken up under its id; epochs that the server has are not taken twice.
        resume="allow" if mode == "online" else None,
        settings=settings,
    ) as written:
        written.define_metric("*", step_metric="epoch")
        for row in run["history"]:
            written.log(row, step=int(row["epoch"]), commit=True)
        if run["pictures"]:
            rows = [[Path(path).stem, wandb.Image(path)] for path in run["pictures"]]
            written.log({"overlays": wandb.Table(columns=["test patient", "picture"], data=rows)}, commit=True)
        # After the last epoch, whose own value would else be the summary's.
        written.summary.update(run["summary"])
        written.finish(exit_code=int(run["failed"]))


def main() -> int:
    """Write the runs of the job that standard input holds; the exit code."""
    job = json.load(sys.stdin)
    for run in job["runs"]:
        try:
            write(run, Path(job["folder"]), job["project"], job["mode"])
        except (CommError, UsageError) as error:
            sys.stderr.write(f"\n{first_line(error)}\n")
            return 1
        sys.stdout.write(run["id"] + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
