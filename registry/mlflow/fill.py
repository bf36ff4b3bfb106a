"""Fills models and versions straight into the SQLite database of a server.

fill.py DATABASE PREFIX MODELS VERSIONS
"""

import sqlite3
import sys
import time

database, prefix, models, versions = sys.argv[1:]
now = int(time.time() * 1000)
names = [f"{prefix}{i:05d}" for i in range(int(models))]
with sqlite3.connect(database, timeout=60) as db:
    db.executemany(
        "INSERT INTO registered_models (name, creation_time, last_updated_time) VALUES (?, ?, ?)",
        [(n, now, now) for n in names],
    )
    db.executemany(
        "INSERT INTO model_versions (name, version, creation_time, last_updated_time,"
        " current_stage, source, status) VALUES (?, ?, ?, ?, 'None', ?, 'READY')",
        [
            (n, v, now, now, f"mlflow-artifacts:/{n}/{v}")
            for n in names
            for v in range(1, int(versions) + 1)
        ],
    )
    db.executemany(
        "INSERT INTO registered_model_aliases (name, alias, version) VALUES (?, 'champion', ?)",
        [(n, int(versions)) for n in names],
    )
    db.executemany(
        "INSERT INTO model_version_tags (name, version, key, value) VALUES (?, 1, 'k', ?)",
        [(n, n) for n in names],
    )
