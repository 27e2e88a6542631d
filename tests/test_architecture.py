"""The house rules that no single module can hold."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "data_prep": {"data_prep"},
    "lcnn": {"lcnn", "data_prep"},
    "search": {"search", "lcnn", "data_prep"},
}
ORDER = {
    "data_prep": "common intensity volumes preprocessing cohort phantom sources quality importing commands",
    "lcnn": "network training inference scoring export",
    "search": "spec placement study console run execution winner report tracking stages commands",
}
"""The rooms of each package, in order: each may import those before it."""
KNOW_RAY = {"execution"}
OURS = {*ALLOWED, "experiments", "run_search"}


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        reached = {name.split(".")[0] for name in imports(path)} & OURS
        assert reached <= ALLOWED[package], path.name


@pytest.mark.parametrize("package", ["data_prep", "lcnn"])
def test_only_search_knows_ray_optuna_and_wandb(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"ray", "optuna", "wandb"}, path.name


@pytest.mark.parametrize("package", ORDER)
def test_the_rooms_of_a_package_stand_on_each_other_one_way(package: str) -> None:
    """What is decided and recorded knows no Ray; Ray's side knows no winner; and none knows the commands around it."""
    rooms = ORDER[package].split()
    found = {path.name for path in (ROOT / package).iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert found == set(rooms)
    for place, room in enumerate(rooms):
        for path in (ROOT / package / room).rglob("*.py"):
            names = {name.split(".")[1] for name in imports(path) if name.startswith(f"{package}.")} & set(rooms)
            assert names <= set(rooms[: place + 1]), path.relative_to(ROOT)


@pytest.mark.parametrize("room", [room for room in ORDER["search"].split() if room not in KNOW_RAY])
def test_only_the_room_of_execution_knows_ray(room: str) -> None:
    for path in (ROOT / "search" / room).rglob("*.py"):
        assert "ray" not in {name.split(".")[0] for name in imports(path)}, path.name


def test_there_are_no_import_cycles() -> None:
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): {
            name for name in imports(path) if name.split(".")[0] in OURS
        }
        for package in ALLOWED
        for path in (ROOT / package).rglob("*.py")
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail, module])
        if module not in done:
            for further in graph.get(module, ()):
                visit(further, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(line: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", line)
    assert found, line
    return canonical(found.group())


def test_every_dependency_is_pinned_within_its_range() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {requirement_name(line): line.partition("==")[2] for line in lines if line and not line.startswith("#")}
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]:
        wanted = Requirement(text)
        assert canonical(wanted.name) in pins, text
        assert wanted.specifier.contains(pins[canonical(wanted.name)]), text


def test_the_conda_environment_has_no_list_of_its_own() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    names = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert {requirement_name(name) for name in names} == {"python", "pip", "make"}
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
