"""Fetches files of a run from the tracker that has them, for a spool that is sent to a second tracker."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient

from facscale.track.journal import Record
from facscale.track.registry import search_logged_models


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
