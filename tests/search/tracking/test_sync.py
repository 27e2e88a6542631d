"""What W&B's own files hold after a run was told; that nothing is told twice, and nobody waits for W&B."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from records import WrittenRun, read_runs

from search.commands import wandb_sync
from search.console.display import Display
from search.run.folder import RunFolder
from search.run.opened import Run, open_run
from search.tracking.manifest import Manifest
from search.tracking.mode import Mode
from search.tracking.runs import history_rows
from search.tracking.sync import Patience, Synced

KEY = "a" * 40


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may be logged in; the tests are not."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    wandb.teardown()  # W&B reads its settings once a process


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def opened(run: RunFolder) -> Run:
    return open_run(run.root, run.root.parent, Display())


def sync(run: RunFolder, mode: Mode = Mode.OFFLINE, stall_s: float = 60.0) -> Synced:
    return wandb_sync.sync_run(opened(run), mode, pictures_of_patients=True, patience=Patience(stall_s, 120.0))


def kept_pictures(run: RunFolder) -> list[Path]:
    """Copies of the run's picture that W&B holds ready to send."""
    picture = (run.overlays / "best.png").read_bytes()
    return [path for path in (run.root / "wandb").rglob("*") if path.is_file() and path.read_bytes() == picture]


def by_name(runs: list[WrittenRun]) -> dict[str, WrittenRun]:
    return {"-".join(run.id.split("-")[3:]): run for run in runs}


def test_wandb_holds_a_run_a_trial_and_one_for_the_test(run: RunFolder) -> None:
    assert sync(run) == Synced(written=5, known=0)
    written = by_name(read_runs(run.root))
    assert set(written) == {"trial-0", "trial-1", "trial-2", "trial-3", "evaluation"}, "the running trial is not told"
    assert {each.group for each in written.values()} == {"study-cpu"}
    assert {each.project for each in written.values()} == {"lcnn-search"}

    trial = written["trial-0"]
    assert (trial.config["optim.lr"], trial.config["schedule"]) == (1e-3, "cosine_restarts")
    assert trial.config["settings"]["model"]["width"] == 16
    assert (trial.config["cohort_hash"], trial.config["profile"]) == ("c0ffee", "cpu")
    assert [row["epoch"] for row in trial.history] == [1, 2, 3]
    assert {"loss", "dice_loss", "cross_entropy", "alignment_loss", "lr"} <= trial.history[0].keys()
    assert trial.summary["val_dice"] == max(row["val_dice"] for row in trial.history)
    assert [written[f"trial-{n}"].summary["outcome"] for n in range(4)] == [
        "completed",
        "pruned",
        "diverged",
        "crashed",
    ]
    assert written["trial-3"].summary["reason"] == "the worker broke"
    assert [written[f"trial-{n}"].exit_code for n in range(4)] == [0, 0, 0, 1], "only a broken machine is a failure"

    test = written["evaluation"]
    assert test.summary["models.winner.dice.mean"] == 0.61
    assert test.summary["overlays._type"] == "table-file"
    assert len(kept_pictures(run)) == 1


def test_a_second_call_writes_nothing_and_a_third_only_what_is_lost_or_changed(run: RunFolder) -> None:
    sync(run)
    files = sorted(run.root.glob("wandb/offline-run-*"))
    assert sync(run) == Synced(written=0, known=5)
    assert sorted(run.root.glob("wandb/offline-run-*")) == files

    # A kill between W&B's file and the manifest's line: the run is there, and is not known to be whole.
    manifest = run.root / "wandb" / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-10])
    (lost,) = run.root.glob("wandb/offline-run-*-trial-1")
    shutil.rmtree(lost)
    (run.overlays / "median.png").write_bytes((run.overlays / "best.png").read_bytes())
    assert sync(run) == Synced(written=2, known=3)
    assert sync(run) == Synced(written=0, known=5)
    ids = [each.id for each in read_runs(run.root)]
    assert len(ids) == len(set(ids)) == 5


def test_pictures_of_real_patients_stay_here_unless_they_are_asked_for(run: RunFolder) -> None:
    run.evaluation.write_text(run.evaluation.read_text().replace("true", "false"))
    wandb_sync.sync_run(opened(run), Mode.OFFLINE, pictures_of_patients=False, patience=Patience())
    assert not kept_pictures(run)


def test_a_server_that_is_silent_costs_a_bounded_wait_and_one_line(
    run: RunFolder, silent_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    assert wandb_sync.main([str(run.root), "--mode", "online", "--stall", "4"]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    (line,) = said.out.splitlines()
    assert line.startswith("W&B: 5 runs are not written (no answer within 4 s); nothing is lost, later: python -m")
    assert sync(run) == Synced(written=5, known=0), "what is not sent can still be written"


def test_a_search_is_none_the_worse_for_it(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    spec = run.read_spec()
    run.split.write_text("{")
    wandb_sync.after_search(spec, run.root.parent, Mode.OFFLINE, Display(), asked=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("W&B: the runs are not written (")


@pytest.mark.parametrize(("mode", "lines"), [(None, 1), (Mode.OFF, 0)])
def test_without_wandb_a_search_says_so_once_or_is_silent(
    run: RunFolder, mode: Mode | None, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb_sync.after_search(run.read_spec(), run.root.parent, mode, Display(), asked=False)
    assert len(capsys.readouterr().out.splitlines()) == lines
    assert not (run.root / "wandb").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mode", "online"), "error: --wandb online: nobody is logged in"),
        (("--mode", "sideways"), "invalid choice"),
    ],
)
def test_bad_input(run: RunFolder, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = wandb_sync.main([str(run.root), *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (run.root / "wandb").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wandb_sync.main([str(tmp_path / "nothing"), "--mode", "offline"]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(("asked", "mode"), [(None, None), ("off", Mode.OFF), ("offline", Mode.OFFLINE)])
def test_without_an_account_nothing_is_sent(asked: str | None, mode: Mode | None) -> None:
    assert wandb_sync.chosen_mode(asked) == mode


@pytest.mark.parametrize(
    ("asked", "wish", "mode"),
    [
        (None, "disabled", Mode.OFF),
        (None, "offline", Mode.OFFLINE),
        ("offline", "disabled", Mode.OFFLINE),
    ],
)
def test_wandb_own_variable_counts_where_nothing_is_asked(
    asked: str | None, wish: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", wish)
    assert wandb_sync.chosen_mode(asked) == mode


@pytest.mark.parametrize("asked", [None, "online"])
def test_with_an_account_runs_go_online(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_sync.chosen_mode(asked) == Mode.ONLINE


def test_the_study_has_the_last_word_on_a_history(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    history.write_text("epoch,loss,val_dice\n1,0.5,0.9\n2,0.4,\n")
    assert list(history_rows(history, [0.1])) == [{"epoch": 1, "loss": 0.5, "val_dice": 0.1}]
    assert list(history_rows(history, [0.1, 0.2, 0.3]))[1:] == [
        {"epoch": 2, "loss": 0.4, "val_dice": 0.2},
        {"epoch": 3, "val_dice": 0.3},
    ]
    assert list(history_rows(tmp_path / "none.csv", [0.1])) == [{"epoch": 1, "val_dice": 0.1}]


def test_a_manifest_knows_its_target_alone(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    Manifest(path, "offline").add("a", "1")
    assert Manifest(path, "offline").holds("a", "1")
    assert not Manifest(path, "offline").holds("a", "2")
    assert not Manifest(path, "https://server").holds("a", "1")
