#!/usr/bin/env bash
# optuna 5.0.0, sqlalchemy 2.1.9: optuna.get_all_study_names() on a database that Optuna has never seen does not only
# read. RDBStorage creates its tables in it first, a version row included, so whoever only looks needs the right to
# create, and leaves the tables behind.
# Seen: "tables before: 0", "studies: []", "tables after: 13", "version rows: 1".
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet optuna==5.0.0 sqlalchemy==2.1.9
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import sqlite3
import sys

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def count(question: str) -> int:
    with sqlite3.connect("somebodys.db") as database:
        return database.execute(question).fetchone()[0]


tables = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'"
before = count(tables)
names = optuna.get_all_study_names("sqlite:///somebodys.db")
after = count(tables)
versions = count("SELECT COUNT(*) FROM version_info")
print(f"optuna {optuna.__version__}: tables before: {before}, studies: {names}, tables after: {after}, "
      f"version rows: {versions}")
sys.exit(0 if (before, names, versions) == (0, [], 1) and after > 0 else 1)
PYTHON
