"""What must hold where the package is installed and the current folder is anybody's."""

import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.common.errors import InputError
from search.console.words import search_command
from search.run import folder as run_folder
from search.spec.settings import Overrides, load_spec
from search.spec.shipped import find_space, shipped_folder

SHIPPED = shipped_folder() / "lcnn.yaml"


@pytest.mark.parametrize("name", ["lcnn", "lcnn.yaml", "spaces/lcnn.yaml", "spaces/lcnn"])
def test_a_shipped_space_file_is_found_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lcnn").mkdir()  # as in a checkout, where a folder has the name
    assert find_space(Path(name)).samefile(SHIPPED)
    assert load_spec(Path(name), Overrides("cpu"), has_gpu=False).name == "lcnn"


@pytest.mark.parametrize("name", ["mine.yaml", "studies/lcnn.yaml", "lcnn.json", "spaces/other/lcnn.yaml", "../lcnn"])
def test_no_other_path_is_taken_for_a_shipped_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^{name}: No such file or directory; give the path of a space file"):
        load_spec(Path(name), Overrides("cpu"), has_gpu=False)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "n" * 300])
def test_a_path_that_no_file_can_have_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="give the path of a space file"):
        load_spec(Path(name), Overrides("cpu"), has_gpu=False)


def test_a_file_of_ones_own_comes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "spaces" / "lcnn.yaml"
    own.parent.mkdir()
    own.write_text("name: own\n", encoding="utf-8")
    assert find_space(Path("spaces/lcnn.yaml")).read_text(encoding="utf-8") == "name: own\n"


@pytest.mark.parametrize(
    ("started", "shown"),
    [("/opt/env/bin/lcnn-search", "lcnn-search"), ("run_search.py", "python run_search.py")],
)
def test_a_next_command_is_named_as_this_one_was_started(
    started: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started, "--space", "lcnn"])
    assert search_command() == shown


def test_an_installed_copy_is_not_told_by_the_commit_of_the_repository_around_it(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    installed, kept = tmp_path / ".venv" / "code.py", tmp_path / "code.py"
    installed.parent.mkdir()
    for file in (installed, kept):
        file.write_text("", encoding="utf-8")
    subprocess.run([*git, "add", "code.py"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    assert run_folder._commit(installed) is None
    assert len(str(run_folder._commit(kept))) == 40
