"""Numbers in words, and paths in commands, held against a real shell."""

import subprocess
from pathlib import Path

import pytest

from data_prep.common.wording import counted, few, pasted


@pytest.mark.parametrize(("count", "words"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs")])
def test_a_noun_follows_its_number(count: int, words: str) -> None:
    assert counted(count, "epoch") == words


@pytest.mark.parametrize(("names", "words"), [("", ""), ("abc", "a, b, c"), ("abcde", "a, b, c and 2 more")])
def test_of_many_names_a_few_are_told(names: str, words: str) -> None:
    assert few(iter(names)) == words


@pytest.mark.parametrize("name", ["plain", "two words", "quote's", "Ärzte $HOME", "-dash;ls", "a*b"])
def test_a_shell_reads_a_pasted_path_as_the_path(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    command = f"printf '%s|' {pasted(path)} end"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"{path}|end|"
