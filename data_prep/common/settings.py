"""Settings classes and the files of earlier versions."""

from collections.abc import Mapping
from typing import Any


def renamed(data: Mapping[str, Any], former: str, name: str) -> Mapping[str, Any]:
    """The values of a section, with the one that had another name in earlier versions under its own.

    Raises:
        ValueError: both are given.
    """
    if former not in data:
        return data
    if name in data:
        raise ValueError(f"{former} is the former name of {name}; give one of the two")
    return {name if key == former else key: value for key, value in data.items()}
