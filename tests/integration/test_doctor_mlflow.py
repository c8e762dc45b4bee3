"""The right to write, asked of a real MLflow server: one that lets everybody in, and one with accounts."""

from __future__ import annotations

import socket

import pytest
from mlflow import MlflowClient

from facscale.doctor import DiagnosticContext
from facscale.doctor.checks.tracker import check_mlflow
from facscale.doctor.runner import Check, run_check
from facscale.track.permission import SCRATCH_EXPERIMENT, WriteAccessError, check_write_access
from guarded import ADMIN, READER

pytestmark = pytest.mark.slow("two MLflow servers start")


@pytest.fixture
def nobody(monkeypatch):
    """Who has no credentials."""
    for name in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


@pytest.mark.usefixtures("nobody")
def test_whoever_may_write_leaves_nothing(mlflow_server):
    api = MlflowClient(mlflow_server.url)
    before = all_runs(api)
    assert check_write_access(mlflow_server.url) > 0
    assert check_write_access(mlflow_server.url) > 0  # the experiment that was deleted is used again
    assert [one.name for one in api.search_experiments() if one.name.startswith(SCRATCH_EXPERIMENT)] == []
    assert all_runs(api) == before


def all_runs(api):
    """The ids of all runs that are not deleted."""
    return {run.info.run_id for run in api.search_runs([one.experiment_id for one in api.search_experiments()])}


@pytest.mark.usefixtures("nobody")
def test_a_server_that_is_not_there_is_a_problem_with_a_mend(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    (one,) = run_check(Check("MLflow", 1, "ray", 60, check_mlflow), DiagnosticContext())
    assert one.severity == "problem"
    assert "does not answer" in one.message
    assert one.fix.startswith("check the address")


def test_without_a_server_there_is_a_warning(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (one,) = check_mlflow(DiagnosticContext())
    assert one.severity == "warning"
    assert "MLFLOW_TRACKING_URI" in one.fix


@pytest.fixture
def known_as(monkeypatch):
    def become(name, password):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return become


@pytest.mark.usefixtures("nobody")
class TestAccounts:
    def test_who_says_nothing_is_told_what_to_say(self, guarded_mlflow):
        with pytest.raises(WriteAccessError, match="asks for a login.*MLFLOW_TRACKING_USERNAME"):
            check_write_access(guarded_mlflow)

    def test_a_wrong_password(self, guarded_mlflow, known_as):
        known_as(ADMIN[0], "not-that-password")
        with pytest.raises(WriteAccessError, match="refuses our credentials; MLFLOW_TRACKING_USERNAME is set"):
            check_write_access(guarded_mlflow)

    def test_who_may_write(self, guarded_mlflow, known_as):
        known_as(*ADMIN)
        assert check_write_access(guarded_mlflow) > 0

    def test_who_may_only_read(self, guarded_mlflow, known_as, monkeypatch):
        monkeypatch.setattr("facscale.track.permission._get_user", lambda: "shared")
        known_as(*ADMIN)
        MlflowClient(guarded_mlflow).create_experiment(f"{SCRATCH_EXPERIMENT}-shared")
        known_as(*READER)
        with pytest.raises(WriteAccessError, match="accepts our login, but does not let us make a run"):
            check_write_access(guarded_mlflow)
