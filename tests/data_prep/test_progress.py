"""What is said of long work where there is no terminal."""

import pytest

from data_prep.common import progress


def test_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 5.0, 21.0, 21.0, 30.0, 42.0, 42.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.bar("importing", 9) as show:
        for done in (1, 2, 3, 4):
            show(done, 9)
    assert capsys.readouterr().err == "importing: 2 of 9\nimporting: 4 of 9\n"


def test_bytes_are_shown_as_such(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_S", 0.0)
    with progress.bar("fetching", None, in_bytes=True) as show:
        show(2_500_000, None)
        show(5_000_000, 10_000_000)
    assert capsys.readouterr().err == "fetching: 2.5 MB\nfetching: 5.0 MB of 10.0 MB\n"
