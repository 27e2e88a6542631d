"""Work on many patients: on all cores, one patient at a time a process, with a bar on a terminal."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
Result = TypeVar("Result")
HEARTBEAT_S = 20.0
"""Without a terminal, a line of progress at most this often."""
CHUNKS_A_PROCESS = 4
"""Items under way for every process: enough that none waits, few enough that results do not pile up."""


@contextmanager
def bar(what: str, total: int | None, *, in_bytes: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on standard error, without a terminal a line now and then; call what it gives: done and total."""
    if not sys.stderr.isatty():
        yield _lines(what, in_bytes=in_bytes)
        return
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done, whole: progress.update(task, completed=done, total=whole)


def _lines(what: str, *, in_bytes: bool) -> Callable[[int, int | None], None]:
    last = time.monotonic()

    def show(done: int, whole: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= HEARTBEAT_S:
            last = time.monotonic()
            amount = f"{done / 1e6:.1f} MB" if in_bytes else str(done)
            total = "" if whole is None else f" of {whole / 1e6:.1f} MB" if in_bytes else f" of {whole}"
            sys.stderr.write(f"{what}: {amount}{total}\n")
            sys.stderr.flush()

    return show


def in_processes(
    work: Callable[[Item], Result], items: Iterable[Item], *, jobs: int, what: str
) -> Iterator[tuple[Item, Result]]:
    """Each item with its result, in the items' order; only a few results are held at a time.

    Args:
        work: a function at the top of a module, as it is sent to other processes.
        items: what it is called with.
        jobs: processes; with 1 it is this one.
        what: the bar's words.
    """
    listed = list(items)
    with bar(what, len(listed)) as show:
        results = map(work, listed) if jobs == 1 else _pooled(work, listed, min(jobs, len(listed) or 1))
        for done, (item, result) in enumerate(zip(listed, results, strict=True), start=1):
            show(done, len(listed))
            yield item, result


def _pooled(work: Callable[[Item], Result], items: list[Item], jobs: int) -> Iterator[Result]:
    # Spawned, not forked: a fork copies the threads' locks of libraries as they happen to be.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=context) as pool:
        waiting = iter(items)
        futures = []
        try:
            for item in waiting:
                futures.append(pool.submit(work, item))
                if len(futures) >= jobs * CHUNKS_A_PROCESS:
                    yield futures.pop(0).result()
            while futures:
                yield futures.pop(0).result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
