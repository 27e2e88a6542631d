"""What a person sees while a run works: calm lines, and on a terminal a live view below them."""

import logging
import sys
import time
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from data_prep.common.progress import HEARTBEAT_S

log = logging.getLogger("search.run")


class Display:
    """Prints to standard output and to the run's log.

    Args:
        console: where to; on a terminal, a view that changes is kept below the lines.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._last_beat = -HEARTBEAT_S
        self._last_plain = ""
        self._unlogged: list[str] = []

    def log_to(self, path: Path) -> None:
        """Keep a copy of all lines, those already said included, with their times in ``path``."""
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(handler)
        for text in self._unlogged:
            log.info(text)
        self._unlogged.clear()

    def say(self, text: str = "") -> None:
        """A line that stays."""
        self._console.print(Text(text))
        self._log(text)

    def row(self, text: str) -> None:
        """A line that stays, one of many alike: on a terminal it is cut where the window ends, in the log it is not."""
        shown = Text(text)
        if self._console.is_terminal:
            shown.truncate(self._console.width, overflow="ellipsis")
        self._console.print(shown)
        self._log(text)

    def show(self, view: RenderableType, plain: str) -> None:
        """How things stand now.

        Args:
            view: takes the place of the view before it, below the lines that stay; for terminals.
            plain: the same in one line, which is printed now and then where there is no terminal.
        """
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(view, refresh=True)
        elif plain != self._last_plain and time.monotonic() - self._last_beat >= HEARTBEAT_S:
            self._last_beat, self._last_plain = time.monotonic(), plain
            self.say(f"  {plain}")

    def status(self, text: str) -> None:
        """How things stand now, in one line."""
        self.show(Text(text, style="dim", no_wrap=True, overflow="ellipsis"), text)

    def clear(self) -> None:
        """Take the view away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def failed(self, reason: str) -> None:
        """Why the program ends, on standard error."""
        self.clear()
        log.info("failed: %s", reason)
        sys.stderr.write(f"failed: {reason}\n")
        sys.stderr.flush()

    def progress(self, what: str, done: int, total: int) -> None:
        """Status of a piece of work that is counted; what is complete, the next line says."""
        if done < total:
            self.status(f"{what}: {done} of {total}")

    def _log(self, text: str) -> None:
        if not log.handlers:
            self._unlogged.append(text)
        log.info(text)
