"""The journal's records as calls of MLflow's client."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A tracker that is away is asked again by our own sender, which nobody waits for; mlflow by itself would try for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")
METRICS, PARAMS, TAGS = 1000, 100, 100  # MLflow's limits of one request
LONGEST = 5000  # characters of a parameter or tag; MLflow refuses more than 6000 and 8000
DIGEST = 36  # characters
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
        """Send records of one run. Raises RefusedError, GoneError, or anything else for a tracker that does not answer."""
        try:
            self._connect()
            self._send(records, files=files)
        except FileNotFoundError as error:
            raise RefusedError(f"the spool has lost a file: {error}") from error
        except MlflowException as error:
            if error.error_code in REFUSALS:
                raise RefusedError(str(error)) from error
            raise

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
            case "artifact":
                for path in sorted((files / record["file"]).iterdir()):
                    self._api.log_artifact(run, str(path), record["folder"] or None)
            case "model":
                self._log_model(run, record, folder=files / record["file"] / "model")
            case "close":
                self._api.set_terminated(run, record["status"], end_time=record["time"])
            case unknown:
                raise RefusedError(f"this facscale knows no records of the kind {unknown!r}")

    def doubt(self) -> None:
        """After a failure: it is unknown what of the last batch has arrived, so ask before the next one."""
        self._ours.clear()
        self._steps.clear()

    def url(self, key: str) -> str:
        """The run's page, or the tracker's address where there is none (yet)."""
        if self._uri.startswith("http") and self._experiment_id and key in self._runs:
            return f"{self._uri}/#/experiments/{self._experiment_id}/runs/{self._runs[key]}"
        return self._uri

    def _connect(self) -> None:
        if self._experiment_id:
            return
        for noisy in ("alembic", "mlflow.store.db.utils"):  # hundreds of lines when a SQLite file is made
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._mlflow = self._mlflow or MlflowClient(tracking_uri=self._uri)
        found = self._mlflow.get_experiment_by_name(self._experiment)
        if found is None:
            # without a server the default is ./mlruns, wherever a worker happens to run
            beside = Path(self._uri.removeprefix("sqlite:///")).absolute().parent / "artifacts"
            location = beside.as_uri() if self._uri.startswith("sqlite:///") else None
            self._experiment_id = self._mlflow.create_experiment(self._experiment, artifact_location=location)
        else:
            self._experiment_id = found.experiment_id

    @property
    def _api(self) -> MlflowClient:
        assert self._mlflow is not None
        return self._mlflow

    def _attach(self, record: Record) -> None:
        """Find the run of a key, or make it; a run that had ended is running again."""
        key = record["run"]
        tags = {_name(name): str(value)[:LONGEST] for name, value in record["tags"].items()}
        if record["parent"]:
            tags["mlflow.parentRunId"] = self._run_id(record["parent"])
        if key in self._runs or self._find(key):
            run = self._run_id(key)
            self._api.update_run(run, status="RUNNING", name=record["name"])
            self._api.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])
            return
        made = self._api.create_run(self._experiment_id, start_time=record["time"], tags=tags, run_name=record["name"])
        self._runs[key] = made.info.run_id
        self._seen.add(key)
        self._ours.add(made.info.run_id)

    def _find(self, key: str) -> bool:
        found = self._api.search_runs([self._experiment_id], f'tags.`facscale.key` = "{key}"', max_results=1)
        if found:
            self._runs[key] = found[0].info.run_id
        return bool(found)

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
                raise GoneError(f"{self._uri} has the run {self._runs[key]} ({key}) no more")
            self._seen.add(key)
        if key not in self._runs and not self._find(key):
            raise RefusedError(f"there is no run {key!r} to send this to")
        self._seen.add(key)
        return self._runs[key]

    def _log_batch(self, run: str, records: Sequence[Record]) -> None:
        metrics, params, tags = [], [], []
        for record in records:
            values = {_name(name): value for name, value in record["values"].items()}
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

    def _log_model(self, run: str, record: Record, *, folder: Path) -> None:
        """Upload a model folder as a logged model of a run; the same weights under the same name go up once."""
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        model = Model.load(str(folder / "MLmodel"))
        weights = str((model.metadata or {}).get("weights", ""))
        query = f"source_run_id = '{run}' AND name = '{record['name']}' AND tags.`facscale.weights` = '{weights}'"
        found = list(self._api.search_logged_models([self._experiment_id], query))
        if any(known.status == "READY" for known in found):
            return
        tags = {"facscale.weights": weights}
        made = found[0] if found else self._api.create_logged_model(self._experiment_id, record["name"], run, tags=tags)
        model.model_id = model.model_uuid = made.model_id
        model.run_id, model.artifact_path = run, made.artifact_location
        model.save(str(folder / "MLmodel"))
        self._api.log_model_artifacts(made.model_id, str(folder))
        self._api.finalize_logged_model(made.model_id, "READY")
        self._api.log_outputs(run, [LoggedModelOutput(made.model_id, step=0)])


def _name(text: str) -> str:
    """MLflow's names hold letters, digits and _ - . : / and blanks."""
    return re.sub(r"[^\w.\-:/ ]", "_", text)[:250]
