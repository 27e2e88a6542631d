#!/usr/bin/env bash
# ray[tune] 2.60.0: Tuner.fit() installs an answer to SIGUSR1, also where TUNE_DISABLE_SIGINT_HANDLER=1 asks it to leave
# signals alone, and does not take it away again. Afterwards the signal, by which batch schedulers announce that a job
# ends, sets an event that nobody looks at: a program whose own answer was replaced never hears of it.
# Seen: "answer after fit: signal_interrupt_tune_run", "own answer was called: False".
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet 'ray[tune]==2.60.0'
cd "$place"
cat > seen.py <<'PYTHON'
import os
import signal
import sys
import time

os.environ |= {"TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}

import ray
from ray import tune

called = []


def own(number, frame):
    called.append(number)


def trial(config):
    tune.report({"value": 1.0})


signal.signal(signal.SIGUSR1, own)
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
config = tune.RunConfig(storage_path=os.getcwd(), name="run", verbose=0)
tune.Tuner(trial, run_config=config).fit()
ray.shutdown()
answer = getattr(signal.getsignal(signal.SIGUSR1), "__name__", "none")
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(1)
print(f"ray {ray.__version__}: answer after fit: {answer}, own answer was called: {bool(called)}")
sys.exit(0 if answer == "signal_interrupt_tune_run" and not called else 1)
PYTHON
"$place/venv/bin/python" seen.py 2> errors || { code=$?; tail -5 errors; exit "$code"; }
