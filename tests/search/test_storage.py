"""Studies in a database, and checkpoints that outlive the node they were made on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from sqlalchemy.engine import make_url

from data_prep.common.errors import InputError
from lcnn.outcome import Outcome
from search.run.checkpoint_store import CheckpointStore, mirrored
from search.run.database import PASSWORD_VARIABLE, StudyPlace, check_study_is_free, redact, study_place
from search.run.folder import RunFolder, check_spec, write_spec
from search.spec.settings import SamplerConfig, Spec, StorageConfig
from search.spec.space import SearchSpace
from search.study.ledger import Ledger

LOCAL = "sqlite:///study.db"
HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("a postgresql+psycopg://me:s:/cret@host:5432/db b", "a postgresql+psycopg://me:***@host:5432/db b"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("sqlite:////results/study.db", "sqlite:////results/study.db"),
        ("see https://host/page and write to me@host", "see https://host/page and write to me@host"),
    ],
)
def test_passwords_are_hidden(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_a_run_folder_holds_no_password_and_knows_its_run_without(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_spec(run, Spec(storage=StorageConfig(study="postgresql://me:secret@host/db")))
    assert "secret" not in run.spec.read_text()
    assert check_spec(run, Spec(storage=StorageConfig(study="postgresql://me:changed@host/db")))
    with pytest.raises(InputError, match=r"storage\.study: was") as error:
        check_spec(run, Spec(storage=StorageConfig(study="postgresql://me:secret@elsewhere/db")))
    assert "secret" not in str(error.value)


def test_a_study_in_a_file_keeps_its_name_and_one_in_a_database_has_the_runs() -> None:
    assert study_place("lcnn-gpu", LOCAL, StorageConfig()) == StudyPlace(LOCAL, "search")
    place = study_place("lcnn-gpu", LOCAL, StorageConfig(study="postgresql://me@host/db"))
    assert place == StudyPlace("postgresql+psycopg://me@host/db", "lcnn-gpu")


@pytest.mark.parametrize("url", ["postgresql://me@host/db", "postgresql://me:***@host/db"])
def test_a_password_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "s@cret")
    place = study_place("run", LOCAL, StorageConfig(study=url))
    assert make_url(place.url).password == "s@cret"
    assert "cret" not in repr(place)
    monkeypatch.delenv(PASSWORD_VARIABLE)
    assert make_url(study_place("run", LOCAL, StorageConfig(study=url)).url).password is None


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("nonsense", r"^storage.study: nonsense: no database URL; write postgresql://user@host/database$"),
        ("mysql://me:secret@host/db", r"^storage.study: the driver of mysql\+pymysql is not installed; pip install "),
        ("oracel://me:secret@host/db", r"^storage.study: oracel: unknown kind of database; choose from postgresql, "),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        study_place("run", LOCAL, StorageConfig(study=url))
    assert "secret" not in str(error.value)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    place = study_place("run", LOCAL, StorageConfig(study=f"postgresql://me:secret@/db?host={tmp_path}"))
    with pytest.raises(InputError, match=r"^storage.study: postgresql.*me:\*\*\*@.* does not answer") as error:
        check_study_is_free(place)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


# --- checkpoints ----------------------------------------------------------------------------------------


def counting(folder: Path, epochs: int) -> Generator[int, None, Outcome]:
    """A training that keeps the numbers of its epochs."""
    state = folder / "last.pt"
    done = json.loads(state.read_text()) if state.exists() else []
    yield from done
    for epoch in range(len(done) + 1, epochs + 1):
        done.append(epoch)
        state.write_text(json.dumps(done))
        if epoch == 2:
            (folder / "best.pt").write_text("best")
        yield epoch
    return Outcome.COMPLETED


@pytest.fixture(params=["folder", "url"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    shared = tmp_path / "shared"
    return str(shared) if request.param == "folder" else shared.as_uri()


def test_an_epoch_is_in_the_storage_before_it_is_told(location: str, tmp_path: Path) -> None:
    trial = tmp_path / "shared" / "run" / "trials" / "0"
    training = mirrored(CheckpointStore(location), "run/trials/0", lambda folder: counting(folder, 3))
    for epoch in (1, 2, 3):
        assert next(training) == epoch
        assert json.loads((trial / "last.pt").read_text())[-1] == epoch
        assert (trial / "best.pt").exists() == (epoch >= 2)
    with pytest.raises(StopIteration) as end:
        next(training)
    assert end.value.value == Outcome.COMPLETED


def test_a_training_goes_on_from_the_storage_on_another_node(location: str) -> None:
    seen: list[Path] = []

    def begin(folder: Path) -> Generator[int, None, Outcome]:
        seen.append(folder)
        return counting(folder, 4)

    first = mirrored(CheckpointStore(location), "run/trials/0", begin)
    assert [next(first), next(first)] == [1, 2]
    first.close()
    assert not seen[0].exists()
    second = mirrored(CheckpointStore(location), "run/trials/0", begin)
    assert next(second) == 1
    assert (seen[1] / "best.pt").read_text() == "best"
    assert list(second) == [2, 3, 4]


def test_files_that_did_not_change_are_not_brought_again(location: str, tmp_path: Path) -> None:
    training = mirrored(CheckpointStore(location), "0", lambda folder: counting(folder, 4))
    best = tmp_path / "shared" / "0" / "best.pt"
    assert [next(training), next(training)] == [1, 2]
    before = best.stat().st_ino
    assert list(training) == [3, 4]
    assert best.stat().st_ino == before


def test_an_upload_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "shared"))
    file = tmp_path / "last.pt"
    file.write_text("first")
    store.push(file, "0/last.pt")
    with pytest.raises(OSError, match=r"missing\.pt"):
        store.push(tmp_path / "missing.pt", "0/last.pt")
    store.fetch("0", tmp_path / "node")
    assert (tmp_path / "node" / "last.pt").read_text() == "first"
    assert [path.name for path in (tmp_path / "node").iterdir()] == ["last.pt"]


def test_a_run_takes_no_other_runs_place_in_the_storage(location: str, tmp_path: Path) -> None:
    store = CheckpointStore(location)
    store.check_is_free("run")
    store.check_is_free("run")  # an empty folder is nobody's
    (tmp_path / "last.pt").write_text("x")
    store.push(tmp_path / "last.pt", "run/trials/0/last.pt")
    with pytest.raises(InputError, match=r"already holds run, .* use --name"):
        store.check_is_free("run")
    store.check_is_free("another")


@pytest.mark.parametrize(
    ("location", "match"),
    [
        ("s3://key:secret@bucket/folder", "keys do not belong into a URL; give them by the environment"),
        ("nonsense://bucket", r"nonsense://bucket: not a storage .* give a folder, s3:// or gs://"),
    ],
)
def test_a_location_that_cannot_be_used_is_refused(location: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        CheckpointStore(location)
    assert "secret" not in str(error.value)


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .* see that it exists"):
        CheckpointStore(str(tmp_path / "file" / "below")).check_is_free("run")


# --- PostgreSQL -----------------------------------------------------------------------------------------


def find_program(name: str) -> str | None:
    """A program of PostgreSQL; Debian keeps them off the path."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server of our own, without its password, which is in the environment of this module."""
    initdb, pg_ctl = find_program("initdb"), find_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL is not installed (no initdb); apt-get install postgresql")
    # Not pytest's folder: nobody else may enter that, and the server refuses to run as root.
    place = Path(mkdtemp(prefix="pg-"))
    user = "nobody" if os.getuid() == 0 else None
    if user:
        shutil.chown(place, user)
    password = place / "password"
    password.write_text("s@cret")
    data = place / "data"

    def run(*arguments: str) -> None:
        subprocess.run(arguments, user=user, cwd=place, check=True, timeout=120, stdout=subprocess.DEVNULL)

    run(initdb, "-D", str(data), "-U", "me", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8")
    settings = f"-k {place} -c listen_addresses='' -c fsync=off"
    run(pg_ctl, "-D", str(data), "-l", str(place / "log"), "-w", "-o", settings, "start")
    try:
        yield f"postgresql://me@/postgres?host={place}"
    finally:
        run(pg_ctl, "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(place)


@pytest.fixture
def in_postgresql(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], StudyPlace]:
    """The place of a run's study on the server."""
    monkeypatch.setenv(PASSWORD_VARIABLE, "s@cret")
    return lambda run: study_place(run, LOCAL, StorageConfig(study=postgresql))


def search_and_die(run: str, url: str, after: int) -> int:
    """A search in a process of its own that kills itself before the given call to the conductor; its exit code."""
    program = [sys.executable, str(HERE / "sequential_search.py"), run, url, str(after)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    return subprocess.run(program, env=environment, timeout=200, check=False).returncode


def contents(ledger: Ledger) -> list[tuple[object, ...]]:
    return [(t.number, t.params, t.curve, t.outcome) for t in ledger.trials()]


def test_a_search_in_postgresql_survives_a_kill(
    in_postgresql: Callable[[str], StudyPlace], postgresql: str, tmp_path: Path
) -> None:
    from sequential_search import SAMPLER, SPACE, run_one_at_a_time

    place = in_postgresql("killed")
    check_study_is_free(place)
    assert search_and_die("killed", postgresql, after=9) == -signal.SIGKILL
    resumed = Ledger(place.url, place.name, SPACE, SAMPLER)
    assert resumed.trials()[-1].outcome is None
    run_one_at_a_time(resumed)

    whole = Ledger(f"sqlite:///{tmp_path}/whole.db", "search", SPACE, SAMPLER)
    run_one_at_a_time(whole)
    assert contents(resumed) == contents(whole)

    with pytest.raises(InputError, match=r"already holds a study killed, .* use --name"):
        check_study_is_free(place)


def test_two_runs_in_one_database_keep_apart(in_postgresql: Callable[[str], StudyPlace], space: SearchSpace) -> None:
    ledgers = [
        Ledger(place.url, place.name, space, SamplerConfig()) for place in (in_postgresql("one"), in_postgresql("two"))
    ]
    ledgers[0].ask()
    assert [len(ledger) for ledger in ledgers] == [1, 0]


def test_a_wrong_password_is_refused_in_one_line(postgresql: str) -> None:
    place = study_place("run", LOCAL, StorageConfig(study=postgresql.replace("me@", "me:wrong@")))
    with pytest.raises(InputError, match=r"does not answer .*password authentication failed") as error:
        check_study_is_free(place)
    assert "wrong" not in str(error.value)
    assert "\n" not in str(error.value)
