"""Numbers in words, and paths in commands."""

import shlex
from collections.abc import Iterable
from pathlib import Path


def counted(count: int, noun: str) -> str:
    """So many of something: 1 epoch, 2 epochs."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def few(names: Iterable[str], most: int = 3) -> str:
    """The first names and how many there are beside them: a, b, c and 4 more."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def pasted(path: Path | str) -> str:
    """A path, or another single word, as it stands in a command that is to be pasted into a shell."""
    return shlex.quote(str(path))
