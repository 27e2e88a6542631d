"""Settings by dotted names such as ``optim.lr``, in nested mappings and in settings objects."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from data_prep.common.errors import InputError
from lcnn.config import TrainConfig

RENAMED = {
    "model.window": "model.window_size",
    "cohort.window": "cohort.intensity_window",
    "picture.window": "picture.intensity_window",
}
"""Settings by the names that files and studies of earlier versions have for them."""


def look_up(data: Any, name: str) -> Any:
    """The value of a dotted name.

    Args:
        data: nested mappings, or settings that hold settings.
        name: the dotted name.

    Raises:
        KeyError: a mapping does not have it.
        AttributeError: settings do not have it.
    """
    for part in RENAMED.get(name, name).split("."):
        data = data[part] if isinstance(data, Mapping) else getattr(data, part)
    return data


def assign(data: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    """Set a value in nested mappings, making the sections on the way.

    Args:
        data: changed in place.
        path: the parts of the name; a part may have dots itself.
        value: the new value.
        where: names the origin in the message.

    Raises:
        InputError: the path passes through a value that is no section.
    """
    name = ".".join(path)
    path = RENAMED[name].split(".") if name in RENAMED else path
    for position, part in enumerate(path[:-1]):
        section = data.setdefault(part, {})
        if section is None:
            section = data[part] = {}
        if not isinstance(section, dict):
            raise InputError(f"{where}: {'.'.join(path)}: {'.'.join(path[: position + 1])} is a value, not a section")
        data = section
    for former, now in RENAMED.items():
        if now == ".".join(path):
            data.pop(former.rpartition(".")[2], None)
    data[path[-1]] = value


def replaced(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with other values, by dotted name.

    Raises:
        ValidationError: the values are not allowed, or exclude each other.
    """
    data = config.model_dump(mode="json")
    for name, value in values.items():
        assign(data, name.split("."), value, "settings")
    return TrainConfig.model_validate_json(json.dumps(data))


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, sections included, as a file has them: those of a training stand at the top."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if kind is TrainConfig:
            yield from known_keys(kind, prefix)
            continue
        yield prefix + name
        for option in (kind, *getattr(kind, "__args__", ())):
            if isinstance(option, type) and issubclass(option, BaseModel):
                yield from known_keys(option, f"{prefix}{name}.")
