"""The wheel in a fresh environment, used from a folder that is no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.deep
ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "run_search.py", "data_prep", "lcnn", "search", "experiments")
BUILD_NEEDS = 77
"""The setuptools that pyproject.toml asks for."""
SMALL = (
    "cohort.phantom.patients=12",
    "cohort.phantom.pixel_mm=4.0",
    "cohort.image_size=48",
    "model.width=4",
    "train.epochs=2",
    "scheduler.grace=1",
)


def run(arguments: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    # Neither the checkout nor what the tests' own environment says may lend a hand.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        arguments, check=False, cwd=place, env=environment, capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the console scripts of an environment into which the wheel was installed.

    What it depends on comes from the environment of the tests, whose own installation of the package is a link that a
    path alone does not follow.
    """
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in (*SOURCES, "spaces"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    has_setuptools = int(metadata.version("setuptools").split(".")[0]) >= BUILD_NEEDS
    isolation = ["--no-build-isolation"] if has_setuptools else []
    built = run([*pip, "wheel", "--no-deps", *isolation, "--wheel-dir", str(place), str(source)], place)
    assert built.returncode == 0, built.stderr
    (wheel,) = place.glob("*.whl")
    shutil.rmtree(source)
    folder = place / "environment"
    venv.create(folder)
    python = folder / "bin" / "python"
    installed = run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], place)
    assert installed.returncode == 0, installed.stderr
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    for package in ("search", "spaces", "run_search.py"):
        assert (packages / package).exists()
    found = run([str(python), "-c", "import search, lcnn, data_prep, run_search; print(search.__file__)"], place)
    assert Path(found.stdout.strip()).is_relative_to(folder), found.stderr
    return folder / "bin"


@pytest.mark.parametrize("space", ["lcnn", "spaces/lcnn.yaml"])
def test_a_dry_run_from_any_folder(space: str, scripts: Path, tmp_path: Path) -> None:
    settings = [part for text in SMALL for part in ("--set", text)]
    arguments = [str(scripts / "lcnn-search"), "--space", space, "--profile", "cpu", "--dry-run", *settings]
    done = run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "synthetic" in done.stdout
    assert "trial" in done.stdout


def test_a_phantom_is_built_from_any_folder(scripts: Path, tmp_path: Path) -> None:
    arguments = [str(scripts / "lcnn-data"), "phantom", "head", "--patients", "2", "--pixel-mm", "4", "--jobs", "1"]
    done = run(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "head" / "images").iterdir())) == 2


@pytest.mark.parametrize("name", ["lcnn", "lcnn-data", "lcnn-search"])
def test_every_console_script_has_help_and_refuses_in_one_line(name: str, scripts: Path, tmp_path: Path) -> None:
    helped = run([str(scripts / name), "--help"], tmp_path)
    assert (helped.returncode, helped.stderr) == (0, "")
    refused = run([str(scripts / name), "--nonsense"], tmp_path)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1


def test_a_report_is_asked_for_from_any_folder(scripts: Path, tmp_path: Path) -> None:
    """Its template, style and script are in the wheel."""
    code = (
        "from importlib.resources import files; print(len((files('search.report') / 'assets/page.html').read_text()))"
    )
    done = run([str(scripts / "python"), "-c", code], tmp_path)
    assert int(done.stdout) > 0, done.stderr
