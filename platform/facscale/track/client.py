"""The journal's records as calls of MLflow's client."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A tracker that is away is asked again by our own sender, which nobody waits for; mlflow by itself would try for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from facscale.redact import redacted
from facscale.track.identity import experiment_id, find_or_make_run, find_run
from facscale.track.limits import DIGEST, LONGEST, METRICS, PARAMS, TAGS, mlflow_name
from facscale.track.race import is_race, pauses
from facscale.track.registry import WEIGHTS, log_model, logged_models, register
from facscale.track.view import address

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
NOISY = (
    "alembic", "mlflow.store.db.utils",  # hundreds of lines when a SQLite file is made
    "mlflow.store.model_registry.abstract_store",  # that it waits for a version, which is there at once
)  # fmt: skip
Record = dict[str, Any]


class RefusedError(Exception):
    """The tracker answers and will never take this record."""


class GoneError(Exception):
    """The tracker has lost a run that it had."""


class Client:
    """Sends records to one experiment. `runs` maps keys to MLflow's run ids and is kept up to date in place."""

    def __init__(self, uri: str, *, experiment: str, runs: dict[str, str]) -> None:
        self._uri, self._experiment, self._runs = uri, experiment, runs
        self._mlflow: MlflowClient | None = None
        self._experiment_id = ""
        self._seen: set[str] = set()  # keys of which the run was found or made by this process
        self._ours: set[str] = set()  # run ids of which every step was sent by this process and acknowledged
        self._steps: dict[tuple[str, str], set[int]] = {}

    def send(self, records: Sequence[Record], *, files: Path) -> None:
        """Send records of one run. Raises RefusedError, GoneError, or anything else for a tracker that does not answer.

        One send makes several requests, and another sender may be faster at each of them: a lost race is no refusal,
        however many follow each other. A true refusal is asked for once more, for it may be about what has changed since.
        """
        pause, is_second = pauses(), False
        while True:
            try:
                self._connect()
                return self._send(records, files=files)
            except FileNotFoundError as error:
                raise RefusedError(f"the spool has lost a file: {error}") from error
            except MlflowException as error:
                if is_race(error) and (wait := next(pause, None)) is not None:
                    time.sleep(wait)
                elif error.error_code not in REFUSALS:
                    raise
                elif is_second:
                    raise RefusedError(str(error)) from error
                else:
                    is_second = True
                self.doubt()

    def _send(self, records: Sequence[Record], *, files: Path) -> None:
        record = records[0]
        if record["do"] == "run":
            self._attach(record)
            return
        run = self._run_id(record["run"])
        match record["do"]:
            case "metrics" | "params" | "tags":
                self._log_batch(run, records)
            case "dataset":
                self._log_dataset(run, record)
            case "artifact" | "model" if not (files / record["file"]).exists() and self._has(run, record):
                pass  # a spool that was copied after its files had gone
            case "artifact":
                for path in sorted((files / record["file"]).iterdir()):
                    self._api.log_artifact(run, str(path), record["folder"] or None)
            case "model":
                folder = files / record["file"] / "model"
                log_model(self._api, run, record, experiment=self._experiment_id, folder=folder)
            case "register":
                self._register(run, record)
            case "close":
                self._api.set_terminated(run, record["status"], end_time=record["time"])
            case unknown:
                raise RefusedError(f"this facscale knows no records of the kind {unknown!r}")

    def doubt(self) -> None:
        """After a failure: it is unknown what of the last batch has arrived, and whether its run is there: ask first."""
        self._seen.clear()
        self._ours.clear()
        self._steps.clear()

    def url(self, key: str) -> str:
        """The run's page, or the tracker's address where there is none (yet)."""
        shown = redacted(self._uri)
        if shown.startswith("http") and self._experiment_id and key in self._runs:
            return f"{shown}/#/experiments/{self._experiment_id}/runs/{self._runs[key]}"
        return shown

    @property
    def table_url(self) -> str:
        """The page with the F1 of all that was judged in the experiment; "" where there is none (yet)."""
        return address(redacted(self._uri), experiment=self._experiment_id) if self._experiment_id else ""

    def _connect(self) -> None:
        if self._experiment_id:
            return
        for noisy in NOISY:
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._mlflow = self._mlflow or MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        self._experiment_id = experiment_id(self._mlflow, self._experiment, uri=self._uri)

    @property
    def _api(self) -> MlflowClient:
        assert self._mlflow is not None
        return self._mlflow

    def _attach(self, record: Record) -> None:
        """Find the run of a key, or make it; a run that had ended is running again."""
        key, made = record["run"], list[str]()
        tags = {mlflow_name(name): str(value)[:LONGEST] for name, value in record["tags"].items()}
        tags["facscale.key"] = key  # without it the run would never be found, and made again without end
        if record["parent"]:
            tags["mlflow.parentRunId"] = self._run_id(record["parent"])

        def make() -> str:
            new = self._api.create_run(self._experiment_id, record["time"], tags, record["name"])
            made.append(new.info.run_id)
            return made[-1]

        if key not in self._runs:
            self._runs[key] = find_or_make_run(self._api, self._experiment_id, key=key, make=make)
            if self._runs[key] in made:
                self._seen.add(key)
                self._ours.add(self._runs[key])
                return
        run = self._run_id(key)
        self._api.update_run(run, status="RUNNING", name=record["name"])
        self._api.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

    def _find(self, key: str) -> bool:
        found = find_run(self._api, self._experiment_id, key=key)
        if found is not None:
            self._runs[key] = found
        return found is not None

    def _run_id(self, key: str) -> str:
        """The id of a key's run. Raises GoneError if the tracker has no such run (any more)."""
        if key in self._runs and key not in self._seen:
            try:
                stage = self._api.get_run(self._runs[key]).info.lifecycle_stage
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                stage = "deleted"
            if stage == "deleted":
                raise GoneError(f"{redacted(self._uri)} has the run {self._runs[key]} ({key}) no more")
            self._seen.add(key)
        if key not in self._runs and not self._find(key):
            raise RefusedError(f"there is no run {key!r} to send this to")
        self._seen.add(key)
        return self._runs[key]

    def _log_batch(self, run: str, records: Sequence[Record]) -> None:
        metrics, params, tags = [], [], []
        for record in records:
            values = {mlflow_name(name): value for name, value in record["values"].items()}
            if record["do"] == "params":
                params += [Param(name, value[:LONGEST]) for name, value in values.items()]
            elif record["do"] == "tags":
                tags += [RunTag(name, value[:LONGEST]) for name, value in values.items()]
            else:
                step = record["step"]
                fresh = {name: value for name, value in values.items() if step not in self._known_steps(run, name)}
                metrics += [Metric(name, float(value), record["time"], step) for name, value in fresh.items()]
        for number in range(0, max(len(metrics), 1), METRICS):
            self._api.log_batch(run, metrics=metrics[number : number + METRICS])
        for number in range(0, len(params), PARAMS):
            self._api.log_batch(run, params=params[number : number + PARAMS])
        for number in range(0, len(tags), TAGS):
            self._api.log_batch(run, tags=tags[number : number + TAGS])

    def _known_steps(self, run: str, name: str) -> set[int]:
        """Steps of a metric that the tracker has from before."""
        if run in self._ours:
            return set()
        if (run, name) not in self._steps:
            self._steps[run, name] = {metric.step for metric in self._api.get_metric_history(run, name)}
        return self._steps[run, name]

    def _log_dataset(self, run: str, record: Record) -> None:
        digest = record["fingerprint"][:DIGEST]
        inputs = self._api.get_run(run).inputs
        known = [(one.dataset.name, one.dataset.digest) for one in inputs.dataset_inputs] if inputs else []
        if (record["name"], digest) in known:
            return
        source = json.dumps({"url": record["url"]})
        data = Dataset(name=record["name"], digest=digest, source_type="facscale", source=source)
        self._api.log_inputs(run, [DatasetInput(data, [InputTag("mlflow.data.context", record["context"])])])

    def _has(self, run: str, record: Record) -> bool:
        """Whether what a record carried is at the tracker already."""
        if record["do"] == "model":
            found = logged_models(self._api, run, experiment=self._experiment_id, name=record["name"])
            return any(model.status == "READY" for model in found)
        path = f"{record['folder']}/{record.get('name')}".lstrip("/")
        return path in {item.path for item in self._api.list_artifacts(run, record["folder"] or None)}

    def _register(self, run: str, record: Record) -> None:
        found = logged_models(self._api, run, experiment=self._experiment_id, name=record["model"])
        ready = [model for model in found if model.status == "READY"]
        if not ready:
            raise RefusedError(f"the run {run} has no model {record['model']!r} to register")
        newest = ready[-1].tags.get(WEIGHTS)
        register(self._api, run, record, model=next(model for model in ready if model.tags.get(WEIGHTS) == newest))
