"""What the tracker knows of many runs.

MLflow answers a search with everything that the runs hold, and builds an object for each value on the way: seconds of
one core for 500 runs of 100 metrics. So a server is asked by several requests side by side, one for each first digit of
the runs' ids (MLflow's are random hexadecimal numbers), which its workers share among them, and the answers are taken as
plain JSON; a SQLite file is read by itself. Both give the same, and a test says so.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

import facscale.track.client  # noqa: F401 - sets how patient MLflow's requests are
from facscale.errors import UserError
from facscale.track.login import CURE, is_refused

PAGE = 1000  # runs of one answer
AT_ONCE = 8  # requests
PATIENCE_S = 120
SEARCH = "/api/2.0/mlflow/runs/search"
EXPERIMENTS = "SELECT name, experiment_id FROM experiments"
ROWS = """
    SELECT run.run_uuid, run.name, run.status, run.start_time FROM runs AS run
    WHERE run.experiment_id = ? AND run.lifecycle_stage = 'active' ORDER BY run.start_time, run.run_uuid
"""
VALUES = """
    SELECT run.run_uuid, held.key, held.{value} FROM {table} AS held JOIN runs AS run ON run.run_uuid = held.run_uuid
    WHERE run.experiment_id = ? AND run.lifecycle_stage = 'active'
"""


class QueryError(UserError):
    """There is nothing to ask for under that name, or nobody to ask."""


def unanswered(uri: str, error: Exception) -> QueryError:
    """For a tracker that does not tell what it was asked."""
    if is_refused(error):
        return QueryError(f"{uri} refuses our login; {CURE}")
    return QueryError(f"{uri} does not answer what was asked: {str(error).splitlines()[0]}")


@dataclass(frozen=True)
class TrackedRun:
    """A run as it is at the tracker; metrics are the latest values."""

    id: str
    name: str
    start: int  # milliseconds since 1970
    status: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same job, wherever it ran; "" for runs that we did not make."""
        return self.tags.get("facscale.key", "")

    @property
    def parent(self) -> str:
        """The id of the run that it is nested in, or ""."""
        return self.tags.get("mlflow.parentRunId", "")


def runs(uri: str, *, experiment: str, filter: str = "") -> list[TrackedRun]:  # noqa: A002 - MLflow's word for it
    """All runs of an experiment that are not deleted, the oldest first.

    filter: in MLflow's language, such as `tags.method = 'clp' and metrics.`f1/mean` > 0.5`; the tracker does it, and
    what it leaves out costs nothing. Raises QueryError for an experiment that is not there, a filter that the tracker
    does not understand, and a tracker that does not answer.
    """
    try:
        if uri.startswith("sqlite:///") and not filter:
            told = _from_file(uri, experiment=experiment)
        else:
            told = _from_mlflow(uri, experiment=experiment, filter=filter)
    except (MlflowException, sqlite3.Error) as error:
        raise unanswered(uri, error) from error
    return sorted(told, key=lambda run: (run.start, run.id))


def _from_mlflow(uri: str, *, experiment: str, filter: str) -> list[TrackedRun]:  # noqa: A002
    api = MlflowClient(uri)
    found = api.get_experiment_by_name(experiment)
    if found is None:
        raise _unknown(uri, experiment, known=[one.name for one in api.search_experiments(max_results=20)])
    if uri.startswith("http"):
        return _from_server(uri, experiment=found.experiment_id, filter=filter)
    return [_of_entity(run) for run in _pages(api, experiment=found.experiment_id, filter=filter)]


def _unknown(uri: str, experiment: str, *, known: Sequence[str]) -> QueryError:
    return QueryError(f"{uri} has no experiment {experiment!r}; it has {', '.join(known) or 'none'}")


def _from_server(uri: str, *, experiment: str, filter: str) -> list[TrackedRun]:  # noqa: A002
    ask = partial(_part, uri.rstrip("/"), experiment=experiment, filter=filter)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [run for part in pool.map(ask, "0123456789abcdef") for run in part]


def _part(uri: str, digit: str, *, experiment: str, filter: str) -> list[TrackedRun]:  # noqa: A002
    """The runs whose ids begin with a digit."""
    mine = f"attributes.run_id LIKE '{digit}%'"
    wanted = {"experiment_ids": [experiment], "filter": f"{filter} AND {mine}" if filter else mine, "max_results": PAGE}
    told: list[TrackedRun] = []
    while True:
        answer = http_request(get_default_host_creds(uri), SEARCH, "POST", json=wanted, timeout=PATIENCE_S)
        page = verify_rest_response(answer, SEARCH).json()
        told += [_of_json(run) for run in page.get("runs", [])]
        if not page.get("next_page_token"):
            return told
        wanted["page_token"] = page["next_page_token"]


def _from_file(uri: str, *, experiment: str) -> list[TrackedRun]:
    path = Path(uri.removeprefix("sqlite:///")).absolute()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=PATIENCE_S)) as file:
        known = dict(file.execute(EXPERIMENTS).fetchall())
        if experiment not in known:
            raise _unknown(uri, experiment, known=list(known))
        place = [known[experiment]]
        rows = file.execute(ROWS, place).fetchall()
        held: dict[str, dict[str, dict[str, Any]]] = {}
        columns = {"latest_metrics": "value, held.is_nan", "params": "value", "tags": "value"}
        for table, value in columns.items():
            held[table] = defaultdict(dict)
            for run, key, *cell in file.execute(VALUES.format(table=table, value=value), place):
                held[table][run][key] = float("nan") if cell[1:] == [1] else cell[0]
    return [
        TrackedRun(run, name, start, status, held["tags"][run], held["params"][run], held["latest_metrics"][run])
        for run, name, status, start in rows
    ]


def _pages(api: MlflowClient, *, experiment: str, filter: str) -> Iterator[Run]:  # noqa: A002
    token: str | None = None
    while True:
        page = api.search_runs([experiment], filter, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _of_entity(run: Run) -> TrackedRun:
    info, data = run.info, run.data
    return TrackedRun(info.run_id, info.run_name, info.start_time, info.status, data.tags, data.params, data.metrics)


def _of_json(run: dict[str, Any]) -> TrackedRun:
    info, data = run["info"], run.get("data", {})
    tags, params, metrics = (
        {one["key"]: one.get("value", "") for one in data.get(kind, [])} for kind in ("tags", "params", "metrics")
    )
    values = {name: float(value or 0) for name, value in metrics.items()}  # "NaN" is a string there
    return TrackedRun(info["run_id"], info["run_name"], int(info["start_time"]), info["status"], tags, params, values)


def experiments(uri: str) -> list[str]:
    """Names of all experiments in which there may be runs, but for MLflow's own default one."""
    try:
        return sorted(one.name for one in MlflowClient(uri).search_experiments() if one.name != "Default")
    except MlflowException as error:
        raise unanswered(uri, error) from error


def artifact(uri: str, *, run: str, path: str) -> bytes | None:
    """A file that a run has kept; None where it has no such file."""
    api = MlflowClient(uri)
    if path not in {file.path for file in api.list_artifacts(run)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(api.download_artifacts(run, path, folder)).read_bytes()
