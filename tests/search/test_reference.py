"""What is generated from the code is not stale, and the schema and the settings classes accept the same files."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from data_prep.common.errors import InputError
from lcnn.settings_file import read_yaml
from search.commands.reference import fields_of, generated, is_stale, main, meaning, options_of, space_schema
from search.spec.settings import Overrides, Spec, load_spec
from search.spec.shipped import shipped_folder

SHIPPED = sorted(shipped_folder().glob("*.yaml"))


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, (owner, annotation) in fields_of(model).items():
        options = options_of(annotation)
        # What chooses among sections, and the name by which a section is chosen, are told by the sections.
        is_constant = get_origin(annotation) is Literal and len(get_args(annotation)) == 1
        if len(options) < 2 and not is_constant:
            yield prefix + name, meaning(owner, name, annotation)
        for option in options:
            yield from settings(option, f"{prefix}{name}.")


def test_every_setting_says_what_it_means() -> None:
    texts = dict(settings(Spec))
    assert {"T", "cohort.phantom.noise_hu", "schedule.t0", "cohort.split.test", "resources.gpus"} <= texts.keys()
    assert not [name for name, text in texts.items() if len(text) < 6]


@pytest.mark.parametrize("path", sorted(generated()), ids=lambda path: path.name)
def test_what_is_generated_is_not_stale(path: Path) -> None:
    assert not is_stale(path, generated()[path]), "run python -m search.commands.reference"


def test_a_stale_file_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.md"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr("search.commands.reference.generated", lambda: {path: "new"})
    assert main(["--check"]) == 1
    assert capsys.readouterr().out == f"{path}: stale\n"
    assert path.read_text(encoding="utf-8") == "old"
    assert main([]) == 0
    assert path.read_text(encoding="utf-8") == "new"
    assert main(["--check"]) == 0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_shipped_files_name_the_schema_and_fit_it(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    marker, _, name = first.partition("$schema=")
    assert marker == "# yaml-language-server: "
    assert (path.parent / name).is_file()
    jsonschema.Draft202012Validator.check_schema(space_schema())
    jsonschema.Draft202012Validator(space_schema()).validate(read_yaml(path))


CHANGES: list[tuple[str, Any, bool]] = [
    ("train.epochs", 4, True),
    ("train.epochs", 0, False),
    ("train.epochs", "4", False),
    ("train.epoch", 4, False),
    ("budget", {"trials": None, "hours": 2}, True),
    ("budget", {"trials": 0}, False),
    ("model.norm", "layer", False),
    ("model.width", 6, False),
    ("cohort.intensity_window", "stroke", True),
    ("cohort.intensity_window", ["brain", "wide"], True),
    ("cohort.intensity_window", ["bone"], False),
    ("cohort.phantom.noise_hu", [1.0, 2.0], True),
    ("cohort.phantom.noise_hu", [1.0], False),
    ("schedule", {"name": "polynomial", "power": 2.0}, True),
    ("schedule", {"name": "polynomial", "warmup": 0.2}, False),
    ("schedule", {"power": 2.0}, False),
    ("exports", [], True),
    ("exports", ["tflite"], False),
    ("profile", "cpu", False),
    ("search", {"optim.lr": {"log": [1e-4, 1e-2]}}, True),
    ("search", {"optim.lr": {"logarithmic": [1e-4, 1e-2]}}, False),
    ("search", {"optim.lr": {"log": [1e-4]}}, False),
    ("search", {"optim.lr": {"log": [1e-4, 2.0]}}, False),
    ("search", {"optim.rate": {"log": [1e-4, 1e-2]}}, False),
    ("search", {"train.epochs": {"int": [2, 8]}}, False),
    ("search", {"T": {"int": [1, 3]}}, True),
    ("search", {"T": {"choice": []}}, False),
    ("search", {"model.norm": {"choice": ["batch", "group"]}}, True),
    ("search", {"loss.class_weights": {"choice": [1]}}, False),
    ("search", {"schedule": {"choice": {"cosine_restarts": {"t0": {"choice": [3, 10]}}, "polynomial": None}}}, True),
    ("search", {"schedule": {"choice": {"cosine": {}}}}, False),
    ("profiles", {"cpu": {"train.epochs": 6, "search.T": None, "confirm": {"top": 1}}}, True),
    ("profiles", {"cpu": {"train.epochs": 0}}, False),
    ("profiles", {"cpu": {"search.T": {"choice": "1, 2"}}}, False),
]


@pytest.mark.parametrize(("name", "value", "is_right"), CHANGES, ids=str)
def test_the_schema_accepts_what_the_settings_accept(tmp_path: Path, name: str, value: Any, is_right: bool) -> None:
    space = copy.deepcopy(SPACE)
    section = space
    *parents, last = name.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    assert jsonschema.Draft202012Validator(space_schema()).is_valid(space) is is_right
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space), encoding="utf-8")
    try:
        load_spec(path, Overrides("cpu"), has_gpu=False).space(path)
    except InputError:
        assert not is_right
    else:
        assert is_right


SPACE: dict[str, Any] = {
    "train": {"epochs": 9},
    "scheduler": {"grace": 1},
    "search": {"T": {"choice": [1, 2]}, "optim.lr": {"log": [1e-4, 1e-2]}},
    "profiles": {"cpu": {"augment.flip": 0.1}},
}
