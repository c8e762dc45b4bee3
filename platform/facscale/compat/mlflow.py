"""Private parts of MLflow, tried with MLflow 3.17.2. `tests/unit/compat/test_mlflow.py` checks that they exist."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from facscale.compat import IncompatibleVersionError, load_private

TRIED = "3.17.2"
# MLflow's experiment pages read this tag (a name follows) when their address has this parameter.
SHARED_VIEW_TAG_PREFIX = "mlflow.sharedViewState."
SHARED_VIEW_PARAMETER = "viewStateShareKey"

SELECT_SCHEMA = "SELECT version_num FROM alembic_version"
SELECT_EXPERIMENT = "SELECT experiment_id FROM experiments WHERE name = ?"
SELECT_RUNS = """
    SELECT run.run_uuid, run.name, run.status, run.start_time FROM runs AS run
    WHERE run.experiment_id = ? AND run.lifecycle_stage = 'active' ORDER BY run.start_time, run.run_uuid
"""
SELECT_VALUES = """
    SELECT run.run_uuid, held.key, {column} FROM {table} AS held JOIN runs AS run ON run.run_uuid = held.run_uuid
    WHERE run.experiment_id = ? AND run.lifecycle_stage = 'active'
"""
VALUE_COLUMNS = {
    "tags": "held.value",
    "params": "held.value",
    "latest_metrics": "CASE WHEN held.is_nan THEN NULL ELSE held.value END",
}


def load(module: str, name: str) -> Any:
    """Import a private name of MLflow. Raises IncompatibleVersionError where it is absent."""
    return load_private(module, name, distribution="mlflow", tried=TRIED)


def read_sqlite_runs(path: Path, *, experiment: str, timeout_s: float) -> list[dict[str, Any]] | None:
    """Read an experiment's runs that are not deleted from MLflow's SQLite file, the oldest first; None without it.

    A run has "id", "name", "status", "start" (milliseconds since 1970) and the mappings "tags", "params" and "metrics"
    (the latest values). Raises sqlite3.Error for a file that is not MLflow's, IncompatibleVersionError for a file of
    MLflow's with another schema.

    MLflow's own way is `MlflowClient.search_runs`, which builds several objects for each value: for 2,000 runs of 50
    metrics and 60 parameters it takes 10 s, this function 0.7 s.
    """
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=timeout_s)) as database:
        database.execute(SELECT_SCHEMA).fetchall()  # all files of MLflow have this table
        try:
            experiment_id = database.execute(SELECT_EXPERIMENT, [experiment]).fetchone()
            if experiment_id is None:
                return None
            runs = database.execute(SELECT_RUNS, experiment_id).fetchall()
            values: dict[str, dict[str, dict[str, Any]]] = {table: defaultdict(dict) for table in VALUE_COLUMNS}
            for table, column in VALUE_COLUMNS.items():
                query = SELECT_VALUES.format(table=table, column=column)
                for run, key, value in database.execute(query, experiment_id):
                    values[table][run][key] = value
        except sqlite3.OperationalError as error:
            if "no such" not in str(error):  # table or column
                raise
            name = f"such SQLite schema ({error})"
            raise IncompatibleVersionError(name, distribution="mlflow", tried=TRIED) from None
    for metrics in values["latest_metrics"].values():
        metrics.update({key: float("nan") for key, value in metrics.items() if value is None})
    return [
        {
            "id": run,
            "name": name,
            "status": status,
            "start": start,
            "tags": values["tags"][run],
            "params": values["params"][run],
            "metrics": values["latest_metrics"][run],
        }
        for run, name, status, start in runs
    ]


def delete_artifact(artifact_uri: str, path: str, *, tracking_uri: str) -> None:
    """Delete a file below a run's artifact URI from the store that holds it.

    MlflowClient deletes runs, but not their artifacts. Raises MlflowException or OSError, and IncompatibleVersionError.
    """
    get_repository = load("mlflow.store.artifact.artifact_repository_registry", "get_artifact_repository")
    get_repository(artifact_uri, tracking_uri=tracking_uri).delete_artifacts(path)
