"""Settings in YAML files: read strictly, and refused in one line."""

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from data_prep.common.errors import InputError, first_line
from lcnn.config import TRAINING, HoldsTraining, Schedule
from lcnn.dotted import known_keys

SCHEDULES = tuple(option.model_fields["name"].default for option in get_args(get_args(Schedule)[0]))
Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], data: Mapping[str, Any], where: str) -> Model:
    """Build settings from plain data.

    Raises:
        InputError: one line with ``where``, the key, what is wrong and the remedy.
    """
    try:
        # Through JSON, so that lists become tuples while text is never taken for a number.
        values = model.gathered(data) if issubclass(model, HoldsTraining) else data
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise InputError(f"{where}: {describe(error, model)}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: a value that YAML cannot mean here ({error}); quote it") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Key and YAML value of a ``key=value`` text from the command line.

    Raises:
        InputError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text}: expected key=value, for example --set train.epochs=20")
    return key.strip(), parse_yaml(value, f"--set {text}")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as people mean it: ``1e-3`` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text.

    Raises:
        InputError: with the line of the fault.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}:" if error.problem_mark else ""
        raise InputError(f"{where}:{line} {error.problem}; mend the YAML") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: {first_line(error)}; mend the YAML") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        InputError: missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; give the path of a space file, for example spaces/lcnn.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; give the path of a space file") from error
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of sections, found {type(data).__name__}")
    return data


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault of a validation as ``key: what; remedy``, and how many more there are."""
    faults = error.errors(include_url=False)
    first = faults[0]
    loc = first["loc"][1:] if first["loc"][:1] == (TRAINING,) else first["loc"]
    key = ".".join(str(part) for part in loc if not _is_union_tag(part, loc))
    if first["type"] == "extra_forbidden":
        text = f"{key}: unknown key; {_nearest(key, model)}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        shown = json.dumps(first["input"], default=str)
        text = ": ".join(filter(None, (key, message[0].lower() + message[1:])))
        if len(shown) <= 60 and first["type"] not in ("missing", "value_error"):
            text += f" (given: {shown})"
    return text + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _is_union_tag(part: object, loc: tuple[int | str, ...]) -> bool:
    """Whether pydantic put the chosen schedule's name between the field and its setting."""
    return loc[0] == "schedule" and part in SCHEDULES


def _nearest(key: str, model: type[BaseModel]) -> str:
    known = [name for name in known_keys(model) if name != key]
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    if not close:
        leaf = key.rsplit(".", 1)[-1]
        close = [name for name in known if name.rsplit(".", 1)[-1] == leaf][:1]
    return f"did you mean {close[0]}?" if close else f"known keys: {', '.join(key for key in known if '.' not in key)}"
