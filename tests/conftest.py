"""What holds for all tests; it also makes this folder's helpers importable from them."""

import os
import sys

import pytest

# Whoever runs the tests may be logged in to W&B; what the tests train does not belong there.
os.environ["WANDB_MODE"] = "disabled"
# Tests run side by side; threads of theirs that wait for a core take as much of it as those that work.
os.environ["OMP_NUM_THREADS"] = "1"
# The tests start many processes of ours, which need not compile the same files again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONG = ("e2e", "execution", "placement", "experiments")
"""Folders whose files take a minute each where others take a second."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that the short ones fill what is left of each of the processes."""
    ranks = {folder: rank for rank, folder in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.parent.name, len(LONG)))
