"""Fetches many runs of an experiment from a tracker.

MLflow needs about 10 ms for each run of a hundred values, most of it in the server. So a server is asked by several
requests side by side, one for each first digit of the runs' ids (random hexadecimal numbers), which its workers share
among them. A SQLite file is read directly, which is 14 times faster than MLflow. All ways give the same runs, which a
test checks.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

import facscale.track.client  # noqa: F401 - sets timeout and retries of MLflow's requests
from facscale.compat import IncompatibleVersionError
from facscale.compat.mlflow import read_sqlite_runs
from facscale.errors import UserError
from facscale.track.login import LOGIN_HINT, is_login_refused
from facscale.track.registry import SCORE_TAG_PREFIX

PAGE_SIZE = 1000  # runs in one answer
MAX_REQUESTS = 8  # at once
TIMEOUT_S = 120
TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
SQLITE = "sqlite:///"
log = logging.getLogger("facscale.track")


class QueryError(UserError):
    """The experiment does not exist, or the tracker does not answer the query."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as the tracker has it; metrics are the latest values."""

    id: str
    name: str
    start: int  # milliseconds since 1970
    status: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same job, wherever it ran; "" for runs that facscale did not create."""
        return self.tags.get("facscale.key", "")

    @property
    def parent(self) -> str:
        """The id of the run that it is nested in, or ""."""
        return self.tags.get("mlflow.parentRunId", "")


@dataclass(frozen=True)
class ScoredModel:
    """A version of a registered model, and its highest score on a data set."""

    name: str
    version: str
    score: float  # mean F1 in [0, 1]

    @property
    def uri(self) -> str:
        """How `facscale predict` names it."""
        return f"models:/{self.name}/{self.version}"


def search_runs(uri: str, *, experiment: str, filter: str = "") -> list[TrackedRun]:  # noqa: A002 - MLflow's word
    """Return all runs of an experiment that are not deleted, the oldest first.

    filter: in MLflow's language, such as `tags.method = 'clp' and metrics.`f1/mean` > 0.5`; the tracker applies it, and
    runs that it leaves out cost nothing. Raises QueryError for an experiment that does not exist, a filter that the
    tracker does not understand, and a tracker that does not answer.
    """
    runs = None
    try:
        if uri.startswith(SQLITE) and not filter:
            runs = _search_sqlite(uri, experiment=experiment)
        if runs is None:
            runs = _search_mlflow(uri, experiment=experiment, filter=filter)
    except (MlflowException, sqlite3.Error) as error:
        raise _make_query_error(uri, error) from error
    return sorted(runs, key=lambda run: (run.start, run.id))


def list_experiments(uri: str) -> list[str]:
    """Return the names of all experiments except MLflow's own default one. Raises QueryError."""
    try:
        names = [experiment.name for experiment in MlflowClient(uri).search_experiments()]
    except MlflowException as error:
        raise _make_query_error(uri, error) from error
    return sorted(name for name in names if name != "Default")


def read_artifact(uri: str, *, run: str, path: str) -> bytes | None:
    """Return the content of a file that a run has kept; None if it has no such file."""
    api = MlflowClient(uri)
    if path not in {file.path for file in api.list_artifacts(run)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(api.download_artifacts(run, path, folder)).read_bytes()


def list_model_versions(uri: str) -> dict[str, list[str]]:
    """Return the registered models' versions, "clp/3", by the id of their run. Raises QueryError."""
    versions: dict[str, list[str]] = {}
    token: str | None = None
    try:
        while True:
            page = MlflowClient(uri).search_model_versions(max_results=PAGE_SIZE, page_token=token)
            for version in page:
                versions.setdefault(version.run_id or "", []).append(f"{version.name}/{version.version}")
            token = page.token
            if not token:
                return versions
    except MlflowException as error:
        raise _make_query_error(uri, error) from error


def find_best_model(uri: str, *, prefix: str) -> ScoredModel | None:
    """Find the version with the highest score among the registered models whose names begin with `prefix`.

    Returns None where none has a score. Raises QueryError if the tracker does not answer.
    """
    try:
        with _patient_requests():
            api = MlflowClient(uri)
            names = [model.name for model in api.search_registered_models(f"name LIKE '{prefix}%'")]
            versions = [version for name in names for version in api.search_model_versions(f"name = '{name}'")]
    except (MlflowException, OSError) as error:
        raise _make_query_error(uri, error) from None
    scored = [
        ScoredModel(version.name, str(version.version), float(value))
        for version in versions
        for tag, value in version.tags.items()
        if tag.startswith(SCORE_TAG_PREFIX)
    ]
    return max(scored, key=lambda model: (model.score, -int(model.version)), default=None)


def _make_query_error(uri: str, error: Exception) -> QueryError:
    """Explain the error of a tracker that does not answer a query."""
    if is_login_refused(error):
        return QueryError(f"{uri} refuses our login; {LOGIN_HINT}")
    return QueryError(f"{uri} does not answer the query: {str(error).splitlines()[0]}")


def _search_sqlite(uri: str, *, experiment: str) -> list[TrackedRun] | None:
    """Read the file; None if it has no such experiment, or can only be read by MLflow itself."""
    path = Path(uri.removeprefix(SQLITE)).absolute()
    try:
        runs = read_sqlite_runs(path, experiment=experiment, timeout_s=TIMEOUT_S)
    except IncompatibleVersionError as error:
        log.warning("%s is read through MLflow's client, which is slower: %s", path, error)
        return None
    return None if runs is None else [TrackedRun(**run) for run in runs]


def _search_mlflow(uri: str, *, experiment: str, filter: str) -> list[TrackedRun]:  # noqa: A002
    api = MlflowClient(uri)
    entity = api.get_experiment_by_name(experiment)
    if entity is None:
        names = [entity.name for entity in api.search_experiments(max_results=20)]
        raise QueryError(f"{uri} has no experiment {experiment!r}; it has {', '.join(names) or 'none'}")
    if not uri.startswith("http"):
        return _search_pages(api, experiment=entity.experiment_id, filter=filter)
    conditions = [f"attributes.run_id LIKE '{digit}%'" for digit in "0123456789abcdef"]
    filters = [f"{filter} AND {condition}" if filter else condition for condition in conditions]
    with _patient_requests(), ThreadPoolExecutor(MAX_REQUESTS) as pool:
        parts = pool.map(lambda part: _search_pages(api, experiment=entity.experiment_id, filter=part), filters)
        return [run for part in parts for run in part]


def _search_pages(api: MlflowClient, *, experiment: str, filter: str) -> list[TrackedRun]:  # noqa: A002
    runs: list[TrackedRun] = []
    token: str | None = None
    while True:
        page = api.search_runs([experiment], filter, max_results=PAGE_SIZE, page_token=token)
        runs += [_convert_run(run) for run in page]
        token = page.token
        if not token:
            return runs


def _convert_run(run: Run) -> TrackedRun:
    info, data = run.info, run.data
    return TrackedRun(info.run_id, info.run_name, info.start_time, info.status, data.tags, data.params, data.metrics)


@contextmanager
def _patient_requests() -> Iterator[None]:
    """Extend the time limit of MLflow's requests, which it reads from the environment at each of them.

    Parts of a large experiment wait for each other in a server with few workers.
    """
    limit = os.environ[TIMEOUT_VARIABLE]  # which facscale.track.client has set
    os.environ[TIMEOUT_VARIABLE] = str(max(TIMEOUT_S, int(limit)))
    try:
        yield
    finally:
        os.environ[TIMEOUT_VARIABLE] = limit
