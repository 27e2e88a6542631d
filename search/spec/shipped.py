"""Where the packages lie, and the space files that come with them, found from any folder."""

import os
from importlib.resources import files
from pathlib import Path

PACKAGES = Path(str(files("search"))).parent
"""The folder that the packages lie in: a checkout, or where they are installed."""
FOLDER = "spaces"
"""Beside the packages, in a checkout as in a wheel."""


def shipped_folder() -> Path:
    """Where the shipped space files are."""
    return PACKAGES / FOLDER


def find_space(path: Path) -> Path:
    """The space file that is meant: the one at ``path``, else the shipped one of that name.

    ``lcnn``, ``lcnn.yaml`` and ``spaces/lcnn.yaml`` name the same shipped file. A path that names nothing comes back as
    it is, for its reader to refuse.
    """
    # os.path, as pathlib raises where a folder on the way cannot be read; that is for the reader to say.
    if os.path.exists(path) and not os.path.isdir(path):
        return path
    for shipped in shipped_folder().glob("*.yaml"):
        names = (shipped.stem, shipped.name)
        if path in [Path(name) for name in names] or path in [Path(FOLDER, name) for name in names]:
            return shipped
    return path
