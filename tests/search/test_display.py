"""What a person sees of a search: on a terminal, in a file, in a narrow window."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from lcnn.outcome import Outcome
from search.console import display
from search.console.display import Display
from search.console.progress import SearchProgress
from search.console.trial_table import BARS, TrialTable, sparkline
from search.study.conductor import Event
from search.study.ledger import TrialRecord

ROOT = Path(__file__).parents[2]
PARAMS = {"T": 3, "fusion.local": 0.765, "loss.dice": 0.619, "loss.alignment": 0.0271, "optim.lr": 0.00896}
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def trial(number: int, *curve: float, outcome: Outcome | None = None) -> TrialRecord:
    return TrialRecord(number, PARAMS, curve, outcome, seconds=1.0)


def progress(shown: Display) -> SearchProgress:
    return SearchProgress(
        shown, trials=4, finished=0, best=None, slots=2, steps=9, expected_steps=lambda done: 9.0 - done
    )


def play(on_event: SearchProgress) -> None:
    """A short search: two trials run, one ends."""
    for event in (
        Event(trial(0), "started"),
        Event(trial(1), "started"),
        Event(trial(0, 0.25), "epoch"),
        Event(trial(1, 0.0), "epoch"),
        Event(trial(0, 0.25, 0.5), "epoch"),
        Event(trial(1, 0.0, outcome=Outcome.PRUNED), "finished"),
    ):
        on_event(event)


def in_file() -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    return Display(Console(file=text, highlight=False, soft_wrap=True)), text


def on_terminal(width: int) -> tuple[Display, Console]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=24, highlight=False, soft_wrap=True)
    return Display(console), console


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def drawn(text: str) -> list[str]:
    """What was written to a terminal from the first column on, without its control codes."""
    return re.split(r"[\r\n]+", CONTROL.sub("", text))


def test_a_running_trial_is_one_line_and_the_search_the_last() -> None:
    view = TrialTable([trial(4, 0.0, 0.5, 0.25), trial(12)], 9, "epochs", "status")
    first, second, last = (line.plain for line in view.lines(24))
    settings = "T=3 local=0.765 dice=0.619 alignment=0.0271 lr=0.00896"
    assert first == f"  trial   4  epoch 3/9  Dice 0.250 best 0.500  ▁▅▃         {settings}"
    assert "trial  12  epoch 0/9  Dice   -   best   -  " in second
    assert last == "  status"


def test_folds_are_counted_as_folds() -> None:
    assert "fold 1/5" in TrialTable([trial(0, 0.5)], 5, "folds", "").lines(9)[0].plain


def test_a_terminal_without_bars_gets_none() -> None:
    (line, _) = TrialTable([trial(0, 0.5)], 9, "epochs", "").lines(9, bars=False)
    assert not set(line.plain) & set(BARS)


@pytest.mark.parametrize(("trials", "most"), [(3, 4), (3, 3), (30, 10), (5, 2), (5, 1), (0, 5)])
def test_more_trials_than_lines_are_counted(trials: int, most: int) -> None:
    lines = TrialTable([trial(number) for number in range(trials)], 9, "epochs", "status").lines(most)
    assert len(lines) <= max(2, most)
    assert lines[-1].plain == "  status"
    named = sum("epoch" in line.plain for line in lines)
    hidden = [int(found.group(1)) for line in lines if (found := re.search(r"and (\d+) more", line.plain))]
    assert named + sum(hidden) == trials


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ((), ""),
        ((0.0,), "▁"),
        ((1.0,), "█"),
        ((0.0, 0.5, 0.99), "▁▅█"),
        ((-0.1, 1.5), "▁█"),  # never outside the scale
        (tuple(index / 100 for index in range(100)), "▁▂▃▄▄▅▆▇██"),  # every tenth
    ],
)
def test_a_curve_is_small_bars_of_one_scale(values: tuple[float, ...], bars: str) -> None:
    assert sparkline(values) == bars


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_of_a_search_is_wider_than_the_terminal(width: int) -> None:
    shown, console = on_terminal(width)
    play(progress(shown))
    shown.status("a long status " * 20)
    shown.clear()
    lines = drawn(text_of(console))
    assert any(line.startswith("trial   1  Dice 0.000   1 epoch   ") for line in lines)
    assert any(line.startswith("  trial   0  epoch 2/9  Dice 0.500") for line in lines)
    assert max(map(cell_len, lines)) <= width


def test_what_is_cut_on_a_terminal_is_whole_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display.log, "handlers", [])
    shown, console = on_terminal(40)
    play(progress(shown))
    shown.log_to(tmp_path / "run.log")
    shown.clear()
    assert "lr=0.00896" not in text_of(console)
    assert "lr=0.00896" in (tmp_path / "run.log").read_text(encoding="utf-8")
    for handler in display.log.handlers:
        handler.close()


def test_without_a_terminal_a_line_is_printed_now_and_then() -> None:
    shown, text = in_file()
    play(progress(shown))
    shown.clear()
    lines = text.getvalue().splitlines()
    assert lines == [
        "  0 of 4 trials done, best Dice none yet, slots busy 50%, time left unknown",
        "trial   1  Dice 0.000   1 epoch   pruned     T=3 local=0.765 dice=0.619 alignment=0.0271 lr=0.00896",
    ]


def test_without_a_terminal_nothing_is_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "HEARTBEAT_S", 0.0)
    shown, text = in_file()
    for done in (1, 1, 2, 3):
        shown.progress("work", done, 3)
    assert text.getvalue().splitlines() == ["  work: 1 of 3", "  work: 2 of 3"]


def test_a_real_terminal_of_80_columns_is_left_as_it_was() -> None:
    """On a pseudo-terminal: what is drawn fits its window, the cursor comes back, and only the lines that stay do."""
    code = (
        "from search.console.display import Display; d = Display(); d.status('view ' * 40); d.row('row ' * 40); "
        "d.status('next ' * 40); d.clear(); d.say('end')"
    )
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    program = [sys.executable, "-c", code]
    with subprocess.Popen(program, stdin=terminal, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        text = read_all(reader)
    assert process.returncode == 0, text
    assert max(map(cell_len, drawn(text))) == 80
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again
    assert text.rstrip().endswith("end")


def read_all(reader: int) -> str:
    """What was written to a terminal until its last user has closed it, which Linux reports as an error."""
    parts = []
    while True:
        try:
            part = os.read(reader, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(reader)
    return b"".join(parts).decode()
