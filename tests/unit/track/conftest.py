"""Trackers without a server: SQLite files, copied from a file whose tables are created once."""

from __future__ import annotations

import shutil

import pytest
from mlflow import MlflowClient


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def make_store(tmp_path, empty_store):
    """A function that returns the URI of a new tracker in a folder of that name."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy2(empty_store, folder / "mlflow.db")
        return f"sqlite:///{folder / 'mlflow.db'}"

    return make


@pytest.fixture
def store(make_store):
    return make_store("store")
