"""The private parts of MLflow that facscale uses are still there and still work."""

import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import mlflow.server
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.store.artifact import artifact_repository_registry

from facscale.compat import IncompatibleVersionError
from facscale.compat.mlflow import (
    SHARED_VIEW_PARAMETER,
    SHARED_VIEW_TAG_PREFIX,
    delete_artifact,
    read_sqlite_runs,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """MLflow's SQLite file with a run, a run without values, and a deleted one."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    api = MlflowClient(f"sqlite:///{path}")
    experiment = api.create_experiment("bp4d", artifact_location=path.parent.as_uri())
    run = api.create_run(experiment, start_time=5, run_name="first").info.run_id
    metrics = [Metric("f1", 0.5, 0, 0), Metric("f1", 0.25, 1, 1), Metric("nan", float("nan"), 0, 0)]
    api.log_batch(run, metrics=metrics, params=[Param("lr", "0.1")], tags=[RunTag("row", "clp")])
    api.create_run(experiment, start_time=6, run_name="second")
    api.delete_run(api.create_run(experiment, start_time=7).info.run_id)
    return path


def read(path, experiment="bp4d"):
    return read_sqlite_runs(path, experiment=experiment, timeout_s=10)


def test_a_sqlite_file_holds_what_mlflows_client_returns(store):
    api = MlflowClient(f"sqlite:///{store}")
    entities = api.search_runs([api.get_experiment_by_name("bp4d").experiment_id], order_by=["attributes.start_time"])
    expected = [
        {"id": run.info.run_id, "name": run.info.run_name, "status": run.info.status, "start": run.info.start_time}
        | {"tags": run.data.tags, "params": run.data.params, "metrics": run.data.metrics}
        for run in entities
    ]
    assert len(expected) == 2
    assert repr(read(store)) == repr(expected)  # as text, because nan does not equal itself
    assert "nan" in str(read(store)[0]["metrics"])
    assert read(store, experiment="disfa") is None


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("ALTER TABLE latest_metrics RENAME TO newest_metrics", "no such table: latest_metrics"),
        ("ALTER TABLE runs RENAME COLUMN lifecycle_stage TO stage", r"no such column: run\.lifecycle_stage"),
    ],
)
def test_a_schema_that_was_not_tried_is_named_with_the_versions(store, tmp_path, statement, name):
    path = tmp_path / "mlflow.db"
    path.write_bytes(store.read_bytes())
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA legacy_alter_table = ON")
        database.execute(statement)
    with pytest.raises(IncompatibleVersionError, match=rf"mlflow {version('mlflow')} has no .*\({name}\)"):
        read(path)


def test_a_file_of_another_program_is_an_error_of_sqlite(tmp_path):
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE runs (name)")
    with pytest.raises(sqlite3.OperationalError, match="no such table: alembic_version"):
        read(tmp_path / "other.db")


def test_an_artifact_is_deleted(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    delete_artifact(tmp_path.as_uri(), "a.txt", tracking_uri="sqlite://")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_a_name_that_is_gone_is_named_with_the_versions(tmp_path, monkeypatch):
    monkeypatch.delattr(artifact_repository_registry, "get_artifact_repository")
    with pytest.raises(IncompatibleVersionError, match=rf"mlflow {version('mlflow')} has no .*get_artifact_repository"):
        delete_artifact(tmp_path.as_uri(), "a.txt", tracking_uri="sqlite://")


def test_mlflows_pages_still_read_shared_views():
    folder = Path(mlflow.server.__file__).parent / "js" / "build" / "static" / "js"
    pages = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.js"))
    assert f'"{SHARED_VIEW_TAG_PREFIX}"' in pages
    assert f'"{SHARED_VIEW_PARAMETER}"' in pages
