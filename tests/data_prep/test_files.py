"""Files and folders that are wholly there or not there at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.common.files import replacing, replacing_folder, write_text_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_replaces_the_old_one_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with replacing(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def fail_in_file(target: Path, error: type[BaseException]) -> None:
    with replacing(target) as partial:
        partial.write_text("half of the n")
        raise error


def fail_in_folder(target: Path, error: type[BaseException]) -> None:
    with replacing_folder(target) as partial:
        (partial / "content").write_text("half")
        (partial / "below").mkdir()
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_inside_keeps_the_old_file_and_leaves_no_partial(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "file.txt").write_text("old")
    with pytest.raises(error):
        fail_in_file(tmp_path / "file.txt", error)
    assert (tmp_path / "file.txt").read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_error_inside_makes_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail_in_file(tmp_path / "file.txt", KeyError)
    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [True, False])
def test_a_folder_that_is_there_stays_or_gives_way(tmp_path: Path, keep: bool) -> None:
    target = tmp_path / "folder"
    for content in ("old", "new"):
        with replacing_folder(target, keep_existing=keep) as partial:
            (partial / content).touch()
    assert names(target) == ["old" if keep else "new"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("keep", [True, False])
def test_an_error_inside_keeps_the_old_folder(tmp_path: Path, keep: bool) -> None:
    def fail() -> None:
        with replacing_folder(tmp_path / "folder", keep_existing=keep) as partial:
            (partial / "half").touch()
            raise ValueError

    with replacing_folder(tmp_path / "folder") as partial:
        (partial / "old").touch()
    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert names(tmp_path / "folder") == ["old"]
    assert names(tmp_path) == ["folder"]


def test_partial_file_is_hidden_and_beside_its_target(tmp_path: Path) -> None:
    with replacing(tmp_path / "file.txt") as partial:
        partial.write_text("")
        assert partial.parent == tmp_path
        assert partial.name.startswith(".")


def test_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, synced, fsync = tmp_path / "file.txt", [], os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_size, target.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    write_text_atomically(target, "seven b")
    assert synced == [(7, False)]


def test_text_is_utf8_in_a_folder_made_for_it(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "a" / "b" / "file.txt", "Läsion 3 µl\n")
    assert (tmp_path / "a" / "b" / "file.txt").read_bytes() == "Läsion 3 µl\n".encode()


def test_folder_takes_its_name_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a" / "store"
    with replacing_folder(target) as partial:
        (partial / "content").write_text("x")
        assert not target.exists()
        assert partial.parent == target.parent
    assert names(tmp_path / "a") == ["store"]
    assert (target / "content").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failing_folder_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail_in_folder(tmp_path / "store", error)
    assert names(tmp_path) == []


def test_folder_that_appears_first_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with replacing_folder(target) as partial:
        (partial / "content").write_text("second")
        target.mkdir()
        (target / "content").write_text("first")
    assert (target / "content").read_text() == "first"
    assert names(tmp_path) == ["store"]


def test_file_in_the_place_of_a_folder_is_an_error_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "store"
    target.write_text("a file")
    with pytest.raises(OSError, match="store"), replacing_folder(target) as partial:
        (partial / "content").write_text("x")
    assert target.read_text() == "a file"
    assert names(tmp_path) == ["store"]


KILLED = """
import os, sys
from pathlib import Path
from data_prep.common.files import replacing, replacing_folder
target = Path(sys.argv[1])
with replacing(target / "file.txt") as partial, replacing_folder(target / "store") as folder:
    partial.write_text("half")
    (folder / "content").write_text("half")
    os._exit(9)
"""


def test_killed_process_leaves_the_old_file_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == 9
    assert (tmp_path / "file.txt").read_text() == "old"
    assert not (tmp_path / "store").exists()


def test_partial_folder_of_a_killed_process_with_the_same_id_is_replaced(tmp_path: Path) -> None:
    # In a container a process often has the id that it had in the run before.
    left = tmp_path / f".store.{os.getpid()}.partial"
    left.mkdir()
    (left / "stale").write_text("half")
    with replacing_folder(tmp_path / "store") as partial:
        (partial / "content").write_text("x")
    assert names(tmp_path / "store") == ["content"]
