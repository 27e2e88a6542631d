"""Where a run's study lies: in a file of the run folder, or in a database that many runs and machines share."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy import NullPool, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from data_prep.common.errors import InputError, first_line
from data_prep.common.files import refuse_unwritable
from search.spec.settings import StorageConfig

PASSWORD_VARIABLE = "LCNN_STUDY_PASSWORD"
"""Environment variable that holds the password of the study's database, where the URL has none."""
STUDY_ERRORS = (SQLAlchemyError, StorageInternalError)
"""What a database that cannot be read or written raises."""
HIDDEN = "***"
LOCAL_STUDY = "search"
"""Name of the study in a file of its own."""
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""What a URL without a driver stands for."""
PACKAGES = {"postgresql+psycopg": "psycopg[binary]", "mysql+pymysql": "pymysql"}

_PASSWORD_IN_AUTHORITY = re.compile(r"(://[^:/@\s]*):[^@\s]*@")
_PASSWORD_IN_QUERY = re.compile(r"([?&](?:password|passwd)=)[^&\s]*")


def redact(text: str) -> str:
    """The text with the passwords of all URLs in it hidden."""
    return _PASSWORD_IN_QUERY.sub(rf"\1{HIDDEN}", _PASSWORD_IN_AUTHORITY.sub(rf"\1:{HIDDEN}@", text))


@dataclass(frozen=True)
class StudyPlace:
    """Where a run's study lies."""

    url: str
    """With the password; not for eyes and files."""
    name: str
    """Name of the study in the database."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact(self.url)!r}, {self.name!r})"

    @property
    def is_shared(self) -> bool:
        """Whether the database may hold the studies of other runs."""
        return not self.url.startswith("sqlite")


def study_place(run: str, local_url: str, config: StorageConfig) -> StudyPlace:
    """The place of a run's study.

    Args:
        run: the run's name; in a shared database, that of its study.
        local_url: database of a run that names none.
        config: what the space file says.

    Raises:
        InputError: the URL is none, or the database's driver is not installed.
    """
    if config.study is None:
        return StudyPlace(local_url, LOCAL_STUDY)
    try:
        url = make_url(config.study)
    except ArgumentError as error:
        raise InputError(
            f"storage.study: {redact(config.study)}: no database URL; write postgresql://user@host/database"
        ) from error
    url = url.set(drivername=DRIVERS.get(url.drivername, url.drivername))
    if url.password in (None, HIDDEN):
        # Without the variable the driver looks by itself, libpq for example in PGPASSWORD and ~/.pgpass.
        url = url._replace(password=os.environ.get(PASSWORD_VARIABLE))
    try:
        url.get_dialect().import_dbapi()
    except NoSuchModuleError as error:
        raise InputError(
            f"storage.study: {url.drivername}: unknown kind of database; choose from {', '.join(DRIVERS)}"
        ) from error
    except ImportError as error:
        package = PACKAGES.get(url.drivername, error.name)
        raise InputError(
            f"storage.study: the driver of {url.drivername} is not installed; pip install {package}"
        ) from error
    return StudyPlace(url.render_as_string(hide_password=False), run)


def check_study_is_free(place: StudyPlace) -> None:
    """Refuse a new run whose study would be another run's, or has no place; nothing is written.

    Raises:
        InputError: the database holds a study of that name, or does not answer.
    """
    if not place.is_shared:
        file = Path(make_url(place.url).database or "")
        refuse_unwritable(file.parent, f"the study {file.name} is kept there")
        return
    # Without Optuna, which would make its tables; and without a pool, which keeps a connection open for nobody.
    with explaining_study(place), create_engine(place.url, poolclass=NullPool).connect() as connection:
        has_studies = inspect(connection).has_table("studies")
        names = connection.scalars(text("SELECT study_name FROM studies")).all() if has_studies else ()
    if place.name in names:
        raise InputError(
            f"storage.study: {redact(place.url)} already holds a study {place.name}, which is not of this run "
            "folder; use --name, or restore the folder it belongs to"
        )


@contextmanager
def explaining_study(place: StudyPlace) -> Iterator[None]:
    """Turn what a database has to say while it is opened into one line without a password.

    Raises:
        InputError: instead of the database's errors.
    """
    try:
        yield
    except STUDY_ERRORS as error:
        reason = redact(first_line(error.__cause__ or error))
        raise InputError(
            f"storage.study: {redact(place.url)} does not answer ({reason}); see that the server runs and that "
            f"{PASSWORD_VARIABLE} holds the password"
        ) from error
