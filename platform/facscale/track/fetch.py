"""Fetches files from the tracker that has them: of a run, for a spool that is sent to a second tracker, and of models."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import facscale.track.client  # noqa: F401 - sets timeout and retries of MLflow's requests
from facscale.errors import UserError
from facscale.redact import redact
from facscale.track.journal import Record
from facscale.track.registry import search_logged_models

LISTED_MODELS = 10  # in an error


def fetch_files(record: Record, *, into: Path, uri: str, experiment: str, run: str) -> None:
    """Restore what a record carried as the folder `into`/record["file"], as `Journal.add_file` had made it.

    `uri`, `experiment` (a name) and `run` (an id) are where it was delivered. Raises MlflowException or OSError if it
    cannot be fetched.
    """
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        if record["do"] == "model":
            name, path = "model", _download_model(record["name"], scratch, uri=uri, experiment=experiment, run=run)
        else:
            name = record["name"]
            artifact = f"{record['folder']}/{name}".lstrip("/")
            path = mlflow.artifacts.download_artifacts(
                run_id=run, artifact_path=artifact, dst_path=scratch, tracking_uri=uri
            )
        complete = Path(scratch) / ".complete"  # moved into place by one rename
        complete.mkdir()
        shutil.move(path, complete / name)
        complete.rename(into / record["file"])


def _download_model(name: str, folder: str, *, uri: str, experiment: str, run: str) -> str:
    api = MlflowClient(uri)
    entity = api.get_experiment_by_name(experiment)
    models = search_logged_models(api, run, experiment=entity.experiment_id, name=name) if entity else []
    if not models:
        raise FileNotFoundError(name)
    # By location: an address models:/ would be looked up at MLflow's default tracker.
    return mlflow.artifacts.download_artifacts(models[-1].artifact_location, dst_path=folder, tracking_uri=uri)


class ModelNotFoundError(UserError):
    """The tracker has no such model or file, or does not answer."""


def download_model(name: str, alias: str, version: str, *, into: str, uri: str) -> Path:
    """Download a version of a registered model into the folder `into`; returns the folder that holds its files.

    alias: such as "best-bp4d"; version: a number or "latest"; without either, the newest version. Raises
    ModelNotFoundError.
    """
    api = MlflowClient(uri)
    try:
        if alias:
            number = api.get_model_version_by_alias(name, alias).version
        elif version and version != "latest":
            number = api.get_model_version(name, version).version
        else:
            versions = api.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"])
            if not versions:
                raise ModelNotFoundError(f"{redact(uri)} has no registered model of this name{_list_models(api)}")
            number = versions[0].version
        # By location: an address models:/ would be looked up at MLflow's default tracker.
        location = api.get_model_version_download_uri(name, str(number))
        return Path(mlflow.artifacts.download_artifacts(location, dst_path=into, tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise ModelNotFoundError(
            f"{redact(uri)} does not give it: {_get_first_line(error)}{_list_models(api)}"
        ) from None


def download_run_file(run: str, name: str, *, into: str, uri: str) -> Path:
    """Download an artifact of a run into the folder `into`; returns where it lies. Raises ModelNotFoundError."""
    try:
        path = mlflow.artifacts.download_artifacts(run_id=run, artifact_path=name, dst_path=into, tracking_uri=uri)
    except (MlflowException, OSError) as error:
        raise ModelNotFoundError(
            f"{redact(uri)} does not give {name} of the run {run}: {_get_first_line(error)}"
        ) from None
    return Path(path)


def _list_models(api: MlflowClient) -> str:
    """Return a clause that names models that are registered; "" where there are none, or no answer."""
    try:
        names = [model.name for model in api.search_registered_models(max_results=LISTED_MODELS)]
    except (MlflowException, OSError):
        return ""
    return f"; it has {', '.join(names)}" if names else ""


def _get_first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
