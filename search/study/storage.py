"""The study in memory, over Optuna's database: reading asks memory, writing goes to the database first.

Optuna's own cache asks the database again for every trial that is not finished, and for every question. With ten
thousand trials in a study and a thousand running, that is most of what a decision costs. Here a trial is read once.

One process writes a study (a run folder is locked). Others may look on, and may add trials or finish those that
they run: `StudyStorage.refresh` finds that. What nobody may do is write to a trial that this process runs; where
another process has ended such a trial, the next write to it fails.
"""

import copy
import json
import math
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, check_distribution_compatibility, distribution_to_json
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, Table

from search.study import reading as study_reading

BUSY_SECONDS = 60
"""Readers such as optuna-dashboard may hold SQLite's lock for a moment."""
SQLITE_SETTINGS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL")
"""Commits go to study.db-wal, and the operating system writes them to the disk when it likes. A killed process loses
nothing that it committed. A power cut can lose the last commits, never the study: what is lost are the last epochs,
which a trial reports again from its checkpoint. Both files belong to the study: copy them together.
(sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous)"""
TABLES = (*study_reading.TABLES, "study_user_attributes")


class StudyStorage(BaseStorage):
    """One study, for Optuna and the ledger: the first that is created or looked up.

    Other studies of the database are answered by Optuna's own storage, unhurried.

    Args:
        url: the database, as Optuna's RDBStorage takes it.
    """

    def __init__(self, url: str) -> None:
        self._backend = open_database(url)
        self._is_sqlite = self._backend.engine.dialect.name == "sqlite"
        metadata = sqlalchemy.MetaData()
        metadata.reflect(self._backend.engine, only=TABLES)
        self._tables: dict[str, Table] = dict(metadata.tables)
        self._connection: Connection | None = None
        self._is_stale = True
        self._study: int | None = None
        self._attrs: dict[str, dict[str, Any]] = {}
        self._trials: list[FrozenTrial] = []
        self._numbers: dict[int, int] = {}
        self._open: set[int] = set()
        self._mine: set[int] = set()
        self._distributions: dict[str, BaseDistribution] = {}
        self._changed: set[int] = set()
        self._seen_version: int | None = None
        self._shown: Sequence[FrozenTrial] | None = None

    @property
    def engine(self) -> Engine:
        """The database's engine, with one connection."""
        return self._backend.engine

    # --- for the ledger ---------------------------------------------------------------------------------

    def take_changed(self) -> set[int]:
        """Numbers of the trials that have changed since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def trial(self, number: int) -> FrozenTrial:
        """One trial, by its number.

        Raises:
            KeyError: there is none of that number.
        """
        self._require_loaded()
        if not 0 <= number < len(self._trials):
            raise KeyError(number)
        return self._trials[number]

    def unfinished(self) -> list[FrozenTrial]:
        """Trials that have not ended, by number."""
        return [self._trials[number] for number in sorted(self._open)]

    @contextmanager
    def showing(self, trials: Sequence[FrozenTrial] | None) -> Iterator[None]:
        """Within the block the study seems to consist of these trials (None: of all); writing goes on as ever."""
        self._shown = trials
        try:
            yield
        finally:
            self._shown = None

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """What is written in the block is committed at its end, together or, where an error leaves it, not at all."""
        if self._connection is not None:
            yield self._connection
            return
        self._backend.remove_session()
        try:
            with self._backend.engine.begin() as self._connection:
                # Optuna's own statements join: their commits then end nothing but its session.
                self._backend.scoped_session(bind=self._connection, join_transaction_mode="rollback_only")
                yield self._connection
                self._backend.remove_session()
        except BaseException:
            self._is_stale = True  # memory may say more than the database now
            raise
        finally:
            self._connection = None
            self._backend.remove_session()

    def refresh(self) -> None:
        """Take in what other processes have written since the last look."""
        if self._connection is not None or self._shown is not None or self._study is None:
            return
        self._require_loaded()
        if self._is_sqlite:
            version = self._version()
            if version == self._seen_version:
                return
            self._seen_version = version
            known = self._open  # whoever wrote may have written to any of them
        else:
            known = self._open - self._mine
        for number in sorted(known):
            self._take_in(self._backend.get_trial(self._trials[number]._trial_id))
        self._take_in_new()
        self._attrs.clear()

    # --- for Optuna: the study --------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """See `BaseStorage`."""
        return self._open_first(self._backend.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        """See `BaseStorage`."""
        self._backend.delete_study(study_id)
        if study_id == self._study:
            self._study, self._is_stale = None, True

    def get_study_id_from_name(self, study_name: str) -> int:
        """See `BaseStorage`."""
        return self._open_first(self._backend.get_study_id_from_name(study_name))

    def _open_first(self, study_id: int) -> int:
        if self._study is None:
            self._study = study_id
        return study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        """See `BaseStorage`."""
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See `BaseStorage`."""
        if study_id != self._study:
            return self._backend.get_study_directions(study_id)
        if "directions" not in self._attrs:
            self._attrs["directions"] = {"all": self._backend.get_study_directions(study_id)}
        return list(self._attrs["directions"]["all"])

    def get_all_studies(self) -> list[Any]:
        """See `BaseStorage`."""
        return self._backend.get_all_studies()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        if study_id != self._study:
            self._backend.set_study_user_attr(study_id, key, value)
            return
        known, text = self.get_study_user_attrs(study_id), json.dumps(value)
        keys = {"study_id": study_id, "key": key}
        self._put("study_user_attributes", keys, {"value_json": text}, is_known=key in known)
        self._attrs["user"] = {**known, key: json.loads(text)}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        self._backend.set_study_system_attr(study_id, key, value)
        if study_id == self._study:
            self._attrs.pop("system", None)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """See `BaseStorage`."""
        if study_id != self._study:
            return self._backend.get_study_user_attrs(study_id)
        self.refresh()
        if "user" not in self._attrs:
            self._attrs["user"] = self._backend.get_study_user_attrs(study_id)
        return self._attrs["user"]

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """See `BaseStorage`."""
        if study_id != self._study:
            return self._backend.get_study_system_attrs(study_id)
        self.refresh()
        if "system" not in self._attrs:
            self._attrs["system"] = self._backend.get_study_system_attrs(study_id)
        return self._attrs["system"]

    # --- for Optuna: its trials -------------------------------------------------------------------------

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See `BaseStorage`."""
        if not self._holds(trial_id):
            return self._backend.get_trial(trial_id)
        return self._trials[self._numbers[trial_id]]

    def _holds(self, trial_id: int) -> bool:
        """Whether the trial is of the study that is kept in memory."""
        if self._study is None:
            return False
        self._require_loaded()
        return trial_id in self._numbers

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See `BaseStorage`."""
        if study_id != self._study:
            return self._backend.get_all_trials(study_id, deepcopy, states)
        self.refresh()
        trials = self._candidates(states)
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(list(trials)) if deepcopy else list(trials)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See `BaseStorage`."""
        if study_id != self._study:
            return self._backend.get_trial_id_from_study_id_trial_number(study_id, trial_number)
        return self.trial(trial_number)._trial_id

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See `BaseStorage`."""
        if study_id != self._study:
            return self._backend.create_new_trial(study_id, template_trial)
        self.refresh()
        with self.transaction() as connection:
            if self._is_sqlite and template_trial is None:
                trial_id = self._insert_trial(connection, study_id)
            else:
                trial_id = self._backend.create_new_trial(study_id, template_trial)
            row = self._row(trial_id)
            if row.number > len(self._trials) or template_trial is not None:
                self._take_in_new()  # with those of another process that came between
            else:
                self._take_in(_new_trial(trial_id, row.number, row.datetime_start))
        self._mine.add(self._numbers[trial_id])
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """See `BaseStorage`."""
        if not self._holds(trial_id):
            self._backend.set_trial_param(trial_id, param_name, param_value_internal, distribution)
            return
        trial = self.get_trial(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        if param_name in self._distributions:
            check_distribution_compatibility(self._distributions[param_name], distribution)
        row = {"param_value": param_value_internal, "distribution_json": distribution_to_json(distribution)}
        self._write("trial_params", trial, {"param_name": param_name}, row, is_known=param_name in trial.params)
        value = distribution.to_external_repr(param_value_internal)
        self._distributions.setdefault(param_name, distribution)
        self._change(
            trial,
            params={**trial.params, param_name: value},
            distributions={**trial.distributions, param_name: distribution},
        )

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """See `BaseStorage`."""
        if not self._holds(trial_id):
            self._backend.set_trial_intermediate_value(trial_id, step, intermediate_value)
            return
        trial = self.get_trial(trial_id)
        if math.isfinite(intermediate_value):
            row = {"intermediate_value": intermediate_value, "intermediate_value_type": "FINITE"}
            is_known = step in trial.intermediate_values
            self._write("trial_intermediate_values", trial, {"step": step}, row, is_known=is_known)
        else:
            with self.transaction():
                self._backend.set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._change(trial, intermediate_values={**trial.intermediate_values, step: intermediate_value})

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        if not self._holds(trial_id):
            self._backend.set_trial_user_attr(trial_id, key, value)
            return
        trial = self.get_trial(trial_id)
        text = json.dumps(value)
        row = {"value_json": text}
        self._write("trial_user_attributes", trial, {"key": key}, row, is_known=key in trial.user_attrs)
        self._change(trial, user_attrs={**trial.user_attrs, key: json.loads(text)})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See `BaseStorage`."""
        if not self._holds(trial_id):
            self._backend.set_trial_system_attr(trial_id, key, value)
            return
        trial = self.get_trial(trial_id)
        text = json.dumps(value)
        row = {"value_json": text}
        self._write("trial_system_attributes", trial, {"key": key}, row, is_known=key in trial.system_attrs)
        self._change(trial, system_attrs={**trial.system_attrs, key: json.loads(text)})

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """See `BaseStorage`."""
        if not self._holds(trial_id):
            return self._backend.set_trial_state_values(trial_id, state, values)
        trial = self.get_trial(trial_id)
        with self.transaction():
            is_set = self._backend.set_trial_state_values(trial_id, state, values)
            if is_set:
                row = self._row(trial_id)
                times = {"datetime_start": row.datetime_start, "datetime_complete": row.datetime_complete}
                self._change(trial, state=state, values=values and list(values), **times)
        if is_set and state == TrialState.RUNNING:
            self._mine.add(trial.number)
        return is_set

    # --- memory -----------------------------------------------------------------------------------------

    def _require_loaded(self) -> None:
        if not self._is_stale:
            return
        if self._study is None:
            raise RuntimeError("a study is opened before its trials are read")
        self._seen_version = self._version() if self._is_sqlite else None
        with self.transaction() as connection:
            trials = study_reading.read_trials(connection, self._tables, self._study)
        self._trials, self._numbers, self._open = [], {}, set()
        self._attrs.clear()
        for trial in trials:
            self._take_in(trial)
        self._is_stale = False

    def _take_in(self, trial: FrozenTrial) -> None:
        """Keep a trial as the database has it."""
        if trial.number == len(self._trials):
            self._trials.append(trial)
        else:
            self._trials[trial.number] = trial
        self._numbers[trial._trial_id] = trial.number
        if trial.state.is_finished():
            self._open.discard(trial.number)
        else:
            self._open.add(trial.number)
        for name, distribution in trial.distributions.items():
            self._distributions.setdefault(name, distribution)
        self._changed.add(trial.number)

    def _change(self, trial: FrozenTrial, **parts: Any) -> None:
        """Put a changed copy in the trial's place; whoever holds the old one keeps what was true then."""
        changed = copy.copy(trial)
        for name, part in parts.items():
            setattr(changed, name, part)
        self._take_in(changed)

    def _candidates(self, states: Container[TrialState] | None) -> Sequence[FrozenTrial]:
        """All trials that may be in one of the states."""
        if self._shown is not None:
            return self._shown
        self._require_loaded()
        if states is not None and not any(state.is_finished() for state in TrialState if state in states):
            return self.unfinished()
        return self._trials

    # --- database ---------------------------------------------------------------------------------------

    def _write(
        self, table: str, trial: FrozenTrial, key: dict[str, Any], row: dict[str, Any], *, is_known: bool
    ) -> None:
        """One row that belongs to a trial. Optuna's own way asks three questions first, all answered in memory."""
        self.check_trial_is_updatable(trial._trial_id, trial.state)
        self._put(table, {"trial_id": trial._trial_id, **key}, row, is_known=is_known)
        self._mine.add(trial.number)

    def _put(self, table: str, keys: dict[str, Any], row: dict[str, Any], *, is_known: bool) -> None:
        target = self._tables[table]
        with self.transaction() as connection:
            if is_known:
                where = [target.c[name] == value for name, value in keys.items()]
                connection.execute(target.update().where(*where), row)
            else:
                connection.execute(target.insert(), {**keys, **row})

    def _insert_trial(self, connection: Connection, study_id: int) -> int:
        """A new trial with the next number. SQLite has one writer at a time, so no other can take the number."""
        table = self._tables["trials"]
        number = sqlalchemy.select(sqlalchemy.func.count()).where(table.c.study_id == study_id).scalar_subquery()
        row = {"study_id": study_id, "state": TrialState.RUNNING.name, "datetime_start": datetime.now()}
        key = connection.execute(table.insert().values(number=number, **row)).inserted_primary_key
        assert key is not None
        return int(key[0])

    def _version(self) -> int:
        """Changes whenever another connection commits to the SQLite file, and never by this one."""
        with self._backend.engine.connect() as connection:
            return int(connection.exec_driver_sql("PRAGMA data_version").scalar_one())

    def _row(self, trial_id: int) -> Any:
        trials = self._tables["trials"].c
        wanted = sqlalchemy.select(trials.number, trials.datetime_start, trials.datetime_complete)
        with self.transaction() as connection:
            return connection.execute(wanted.where(trials.trial_id == trial_id)).one()

    def _take_in_new(self) -> None:
        trials = self._tables["trials"].c
        newest = max(self._numbers, default=0)
        wanted = sqlalchemy.select(trials.trial_id).where(trials.study_id == self._study, trials.trial_id > newest)
        with self.transaction() as connection:
            for trial_id in connection.scalars(wanted.order_by(trials.trial_id)).all():
                self._take_in(self._backend.get_trial(trial_id))


def _new_trial(trial_id: int, number: int, start: datetime | None) -> FrozenTrial:
    return FrozenTrial(
        number=number,
        trial_id=trial_id,
        state=TrialState.RUNNING,
        datetime_start=start,
        datetime_complete=None,
        value=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def open_database(url: str) -> RDBStorage:
    """Optuna's storage of a database; a SQLite file gets one connection and the settings above."""
    if not url.startswith("sqlite"):
        # A server drops connections that were silent for as long as an epoch may take.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    settings = {"connect_args": {"timeout": BUSY_SECONDS}, "pool_size": 1}
    storage = RDBStorage(url, engine_kwargs=settings)
    storage.remove_session()
    sqlalchemy.event.listen(storage.engine, "connect", _set_up_sqlite)
    storage.engine.dispose()  # the connection that made the tables has not heard of the settings
    return storage


def _set_up_sqlite(connection: Any, record: object) -> None:
    for setting in SQLITE_SETTINGS:
        connection.execute(setting).close()
