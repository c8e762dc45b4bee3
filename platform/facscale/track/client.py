"""Sends the journal's records through MLflow's client."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

# Our own sender retries while a tracker is away, and nothing waits for it; MLflow itself would retry for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from facscale.redact import redact
from facscale.track.identity import find_run, get_or_create_experiment, get_or_create_run
from facscale.track.journal import Record
from facscale.track.limits import (
    DIGEST_LENGTH,
    MAX_VALUE_LENGTH,
    METRICS_PER_REQUEST,
    PARAMS_PER_REQUEST,
    TAGS_PER_REQUEST,
    sanitize_name,
)
from facscale.track.race import generate_pauses, is_race
from facscale.track.registry import WEIGHTS_TAG, log_model, register_version, search_logged_models
from facscale.track.view import build_view_url

REFUSAL_CODES = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
REFUSAL_WORDS = "Invalid artifact path"  # MLflow's client itself refuses such a path, as an internal error
NOISY_LOGGERS = (
    "alembic",
    "mlflow.store.db.utils",  # both: hundreds of lines when a SQLite file is created
    "mlflow.store.model_registry.abstract_store",  # that it waits for a model version, which is there at once
)


class RecordRefusedError(Exception):
    """The tracker answers and will never accept this record."""


class LostFileError(RecordRefusedError):
    """Neither the spool nor the tracker has the file of a record."""


class RunDeletedError(Exception):
    """The tracker no longer has a run that records were sent to before."""


class RecordClient:
    """Sends records to one experiment. `runs` maps keys to MLflow's run ids and is kept up to date in place."""

    def __init__(self, uri: str, *, experiment: str, runs: dict[str, str]) -> None:
        self._uri, self._experiment, self._runs = uri, experiment, runs
        self._mlflow: MlflowClient | None = None
        self._experiment_id = ""
        self._verified_keys: set[str] = set()  # whose run this process has found or created
        self._own_run_ids: set[str] = set()  # every step of these was sent by this process and acknowledged
        self._steps: dict[tuple[str, str], set[int]] = {}

    def send(self, records: Sequence[Record], *, files: Path) -> None:
        """Send records of one run; `files` is the spool's folder of files.

        One call makes several requests, and another sender may be faster at each of them: a lost race is not a refusal,
        however many follow each other. A refused record is sent once more, because the refusal may be due to something
        that has changed since. Raises RecordRefusedError, RunDeletedError, or another exception for a tracker that does
        not answer.
        """
        pauses, was_refused = generate_pauses(), False
        while True:
            try:
                self._connect()
                return self._send(records, files=files)
            except FileNotFoundError as error:
                raise LostFileError(f"the spool has lost a file: {error}") from error
            except MlflowException as error:
                if is_race(error) and (pause := next(pauses, None)) is not None:
                    time.sleep(pause)
                elif error.error_code not in REFUSAL_CODES and REFUSAL_WORDS not in str(error):
                    raise
                elif was_refused:
                    raise RecordRefusedError(str(error)) from error
                else:
                    was_refused = True
                self.invalidate_cache()

    def _send(self, records: Sequence[Record], *, files: Path) -> None:
        record = records[0]
        if record["do"] == "run":
            self._open_run(record)
            return
        run = self._get_run_id(record["run"])
        match record["do"]:
            case "metrics" | "params" | "tags":
                self._log_batch(run, records)
            case "dataset":
                self._log_dataset(run, record)
            case "artifact" | "model" if not (files / record["file"]).exists() and self._is_uploaded(run, record):
                pass  # the spool was copied after its files had been delivered and deleted
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
            case kind:
                raise RecordRefusedError(f"this version of facscale cannot send records of the kind {kind!r}")

    def invalidate_cache(self) -> None:
        """Forget which runs and steps the tracker has, so that the tracker is asked.

        After a failure it is unknown what of the last batch has arrived.
        """
        self._verified_keys.clear()
        self._own_run_ids.clear()
        self._steps.clear()

    def get_run_url(self, key: str) -> str:
        """Return the address of the run's page, or the tracker's own address if there is no page (yet)."""
        uri = redact(self._uri)
        if uri.startswith("http") and self._experiment_id and key in self._runs:
            return f"{uri}/#/experiments/{self._experiment_id}/runs/{self._runs[key]}"
        return uri

    @property
    def table_url(self) -> str:
        """The address of the page with the F1 of all runs of the experiment; "" if there is no page (yet)."""
        return build_view_url(redact(self._uri), experiment=self._experiment_id) if self._experiment_id else ""

    def _connect(self) -> None:
        if self._experiment_id:
            return
        for name in NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._mlflow = self._mlflow or MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        self._experiment_id = get_or_create_experiment(self._mlflow, self._experiment, uri=self._uri)

    @property
    def _api(self) -> MlflowClient:
        assert self._mlflow is not None
        return self._mlflow

    def _open_run(self, record: Record) -> None:
        """Find or create the run of a key; a run that had ended is running again."""
        key, created = record["run"], list[str]()
        tags = {sanitize_name(name): str(value)[:MAX_VALUE_LENGTH] for name, value in record["tags"].items()}
        tags["facscale.key"] = key  # never shortened: without it the run would not be found, and created again forever
        if record["parent"]:
            tags["mlflow.parentRunId"] = self._get_run_id(record["parent"])

        def create() -> str:
            run = self._api.create_run(self._experiment_id, record["time"], tags, record["name"])
            created.append(run.info.run_id)
            return created[-1]

        if key not in self._runs:
            self._runs[key] = get_or_create_run(self._api, self._experiment_id, key=key, create=create)
            if self._runs[key] in created:
                self._verified_keys.add(key)
                self._own_run_ids.add(self._runs[key])
                return
        run_id = self._get_run_id(key)
        self._api.update_run(run_id, status="RUNNING", name=record["name"])
        self._api.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def _get_run_id(self, key: str) -> str:
        """Return the id of a key's run. Raises RunDeletedError if it was deleted, RecordRefusedError if there is none."""
        if key in self._runs and key not in self._verified_keys:
            try:
                stage = self._api.get_run(self._runs[key]).info.lifecycle_stage
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                stage = "deleted"
            if stage == "deleted":
                raise RunDeletedError(f"{redact(self._uri)} no longer has the run {self._runs[key]} ({key})")
        if key not in self._runs:
            run_id = find_run(self._api, self._experiment_id, key=key)
            if run_id is None:
                raise RecordRefusedError(f"there is no run {key!r} to send this to")
            self._runs[key] = run_id
        self._verified_keys.add(key)
        return self._runs[key]

    def _log_batch(self, run: str, records: Sequence[Record]) -> None:
        metrics, params, tags = [], [], []
        for record in records:
            values = {sanitize_name(name): value for name, value in record["values"].items()}
            if record["do"] == "params":
                params += [Param(name, value[:MAX_VALUE_LENGTH]) for name, value in values.items()]
            elif record["do"] == "tags":
                tags += [RunTag(name, value[:MAX_VALUE_LENGTH]) for name, value in values.items()]
            else:
                step = record["step"]
                fresh = {name: value for name, value in values.items() if step not in self._get_sent_steps(run, name)}
                metrics += [Metric(name, float(value), record["time"], step) for name, value in fresh.items()]
        for start in range(0, max(len(metrics), 1), METRICS_PER_REQUEST):
            self._api.log_batch(run, metrics=metrics[start : start + METRICS_PER_REQUEST])
        for start in range(0, len(params), PARAMS_PER_REQUEST):
            self._api.log_batch(run, params=params[start : start + PARAMS_PER_REQUEST])
        for start in range(0, len(tags), TAGS_PER_REQUEST):
            self._api.log_batch(run, tags=tags[start : start + TAGS_PER_REQUEST])

    def _get_sent_steps(self, run: str, name: str) -> set[int]:
        """Return the steps of a metric that the tracker has from earlier processes."""
        if run in self._own_run_ids:
            return set()
        if (run, name) not in self._steps:
            self._steps[run, name] = {metric.step for metric in self._api.get_metric_history(run, name)}
        return self._steps[run, name]

    def _log_dataset(self, run: str, record: Record) -> None:
        digest = record["fingerprint"][:DIGEST_LENGTH]
        inputs = self._api.get_run(run).inputs
        logged = [(item.dataset.name, item.dataset.digest) for item in inputs.dataset_inputs] if inputs else []
        if (record["name"], digest) in logged:
            return
        source = json.dumps({"url": record["url"]})
        dataset = Dataset(name=record["name"], digest=digest, source_type="facscale", source=source)
        self._api.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])])

    def _is_uploaded(self, run: str, record: Record) -> bool:
        """Whether the tracker already has what a record carries."""
        if record["do"] == "model":
            models = search_logged_models(self._api, run, experiment=self._experiment_id, name=record["name"])
            return any(model.status == "READY" for model in models)
        path = f"{record['folder']}/{record.get('name')}".lstrip("/")
        return path in {item.path for item in self._api.list_artifacts(run, record["folder"] or None)}

    def _register(self, run: str, record: Record) -> None:
        models = search_logged_models(self._api, run, experiment=self._experiment_id, name=record["model"])
        ready = [model for model in models if model.status == "READY"]
        if not ready:
            raise RecordRefusedError(f"the run {run} has no model {record['model']!r} to register")
        weights = ready[-1].tags.get(WEIGHTS_TAG)
        first = next(model for model in ready if model.tags.get(WEIGHTS_TAG) == weights)
        register_version(self._api, run, record, model=first)
