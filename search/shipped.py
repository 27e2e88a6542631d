"""The space files that come with the package, found from any folder."""

from importlib.resources import files
from pathlib import Path

FOLDER = "spaces"
"""Beside the packages, in a checkout as in a wheel."""


def shipped_folder() -> Path:
    """Where the shipped space files are."""
    return Path(str(files("search"))).parent / FOLDER


def find_space(path: Path) -> Path:
    """The space file that is meant: the one at ``path``, else the shipped one of that name.

    ``lcnn``, ``lcnn.yaml`` and ``spaces/lcnn.yaml`` name the same shipped file. A path that names nothing comes back as
    it is, for its reader to refuse.
    """
    if path.exists() and not path.is_dir():
        return path
    parts = path.with_suffix(".yaml").parts
    is_shipped_name = path.suffix in ("", ".yaml") and parts in ((path.stem + ".yaml",), (FOLDER, path.stem + ".yaml"))
    shipped = shipped_folder() / f"{path.stem}.yaml"
    return shipped if is_shipped_name and shipped.is_file() else path
