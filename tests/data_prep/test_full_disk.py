"""A disk that is full or read-only: one line with the place, exit code 2, nothing half-written, and a rerun goes on."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.cohort.compiled import compile_cohort
from data_prep.preprocessing.picture import PictureConfig


def fill(disk: Path) -> None:
    """Leave no room at all."""
    try:
        (disk / "filler").write_bytes(bytes(2**21))
    except OSError:
        return
    raise AssertionError("the disk is larger than it should be")


def remount(how: str) -> Callable[[Path], object]:
    return lambda disk: subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


STATES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]] = {
    "full": (fill, lambda disk: (disk / "filler").unlink(), "No space left on device"),
    "read-only": (remount("ro"), remount("rw"), "Read-only file system"),
}
COMMANDS = {
    "check": ["check", "cohort", "--jobs", "1", "--out", "disk/out"],
    "check --fix": ["check", "disk/cohort", "--fix", "--jobs", "1", "--out", "out"],
    "stats": ["stats", "cohort", "--jobs", "1", "--out", "disk/out"],
    "index": ["index", "disk/cohort"],
}


@pytest.fixture
def _cohorts(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_cohort: Callable[..., Path]) -> None:
    """One on the disk, with a mask to be mended, and one beside it."""
    monkeypatch.chdir(tmp_path)
    for place in ("cohort", "disk/cohort"):
        write_cohort(place)
    blurred = np.zeros((32, 32), dtype=np.uint8)
    blurred[8:14, 8:14] = np.arange(220, 256).reshape(6, 6)
    Image.fromarray(blurred).save(disk / "cohort" / "masks" / "p1" / "2.png")


def pictures(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for part in ("images", "masks") for path in (root / part).rglob("*.png")}


@pytest.mark.usefixtures("_cohorts")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_one_line_and_goes_on_later(
    disk: Path, capsys: pytest.CaptureFixture[str], command: str, state: str
) -> None:
    spoil, mend, reason = STATES[state]
    before = pictures(disk / "cohort")
    spoil(disk)
    assert main(COMMANDS[command]) == 2
    errors = capsys.readouterr().err
    assert (errors.count("\n"), errors.startswith("error: disk/")) == (1, True), errors
    assert reason in errors
    mend(disk)
    assert pictures(disk / "cohort") == before
    assert not list(disk.rglob("*.partial"))
    assert main(COMMANDS[command]) in (0, 1)
    if command == "check --fix":
        with Image.open(disk / "cohort" / "masks" / "p1" / "2.png") as mask:
            assert set(np.unique(np.asarray(mask)).tolist()) == {0, 255}


@pytest.mark.usefixtures("_cohorts")
@pytest.mark.parametrize("state", STATES)
def test_a_compiled_cohort_is_whole_or_absent(disk: Path, state: str) -> None:
    spoil, mend, reason = STATES[state]
    spoil(disk)
    with pytest.raises(OSError, match=reason):
        compile_cohort(Path("cohort"), disk / "cache", PictureConfig(image_size=32))
    mend(disk)
    assert not list(disk.rglob("*.partial"))
    assert (
        compile_cohort(
            Path("cohort"), disk / "cache", PictureConfig(image_size=32, crop="none")
        ).store.images_NSS.shape[0]
        == 9
    )
