"""A search without Ray, one trial after the other; as a program it kills itself where it is told to.

python sequential_search.py RUN URL DIE_AFTER
"""

import os
import signal
import sys

from curves import dice_after, epoch_result

from lcnn.config import TrainConfig
from lcnn.outcome import Outcome
from search.run.database import study_place
from search.spec.settings import BudgetConfig, SamplerConfig, StorageConfig
from search.spec.space import SearchSpace
from search.study.conductor import Conductor
from search.study.ledger import Ledger
from search.study.scheduling.schedulers import Asha, Decision

EPOCHS, TRIALS = 4, 6
SAMPLER = SamplerConfig(startup=2)
SPACE = SearchSpace(
    {"fusion.local": {"uniform": [0.3, 0.95]}, "optim.lr": {"log": [1e-4, 1e-2]}}, TrainConfig(), "file"
)


def run_one_at_a_time(ledger: Ledger, die_after: int = 0) -> None:
    """Run the search to its end, or kill this process at the given call to the conductor."""
    conductor = Conductor(ledger, SPACE, Asha(1, 2, EPOCHS), budget=BudgetConfig(trials=TRIALS), epochs=EPOCHS)
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    while (proposal := conductor.next_trial()) is not None:
        for epoch in range(proposal.known_epochs + 1, EPOCHS + 1):
            count()
            if conductor.report(proposal.number, epoch_result(epoch, dice_after(proposal.config, epoch))) == (
                Decision.STOP
            ):
                break
        else:
            conductor.finish(proposal.number, Outcome.COMPLETED)


if __name__ == "__main__":
    run, url, die_after = sys.argv[1:]
    place = study_place(run, "", StorageConfig(study=url))
    run_one_at_a_time(Ledger(place.url, place.name, SPACE, SAMPLER), int(die_after))
