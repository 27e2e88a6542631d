"""How many processes work at once."""

import argparse

from data_prep.common.errors import InputError
from data_prep.common.machine import available_cores


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """Give a command the option ``--jobs``."""
    parser.add_argument("--jobs", type=int, default=available_cores(), help="processes (default: all cores)")


def check_jobs(jobs: int) -> None:
    """Refuse to work with nobody.

    Raises:
        InputError: ``--jobs`` below 1.
    """
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: at least one process is needed")
