"""Optuna's own contract of storages, held by ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.testing.pytest_storages import StorageTestCase

from search.study.storage import StudyStorage


class TestStudyStorage(StorageTestCase):
    """Every case that Optuna ships, over a SQLite file."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[StudyStorage]:
        storage = StudyStorage(f"sqlite:///{tmp_path / 'study.db'}")
        yield storage
        storage.engine.dispose()
