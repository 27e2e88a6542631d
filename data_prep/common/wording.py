"""Numbers in words, and paths in commands."""

import shlex
from pathlib import Path


def counted(count: int, noun: str) -> str:
    """So many of something: 1 epoch, 2 epochs."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def pasted(path: Path | str) -> str:
    """A path, or another single word, as it stands in a command that is to be pasted into a shell."""
    return shlex.quote(str(path))
