"""How a command ends when something is wrong: one line on standard error, and an exit code."""

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, ParamSpec

from data_prep.common.errors import InputError, disk_line

P = ParamSpec("P")
STOPPED = "Stopped. What is done is kept; the same command goes on from there."


class Parser(argparse.ArgumentParser):
    """A command line whose faults are answered in one line, as all bad input is."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


POLITE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals by which schedulers, terminals and people ask a program to end."""


def stop_on_signals() -> None:
    """Have a polite kill end this process as Ctrl-C does. A signal that is ignored already, as by nohup, stays so."""
    for number in POLITE:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def cli_errors(main: Callable[P, int | None]) -> Callable[P, int]:
    """A command's main function, which then answers bad input and broken disks by exit code 2, and Ctrl-C by 130.

    Other exceptions are faults of ours, and keep their traceback.
    """

    @functools.wraps(main)
    def answered(*arguments: P.args, **options: P.kwargs) -> int:
        try:
            return main(*arguments, **options) or 0
        except InputError as error:
            return _end(2, f"error: {error}")
        except BrokenPipeError:
            # Whoever read our output has gone, as `head` does; Python must not fail on flushing the rest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            return _end(2, f"error: {disk_line(error)}")
        except KeyboardInterrupt:
            return _end(130, STOPPED)

    return answered


def _end(code: int, text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return code
