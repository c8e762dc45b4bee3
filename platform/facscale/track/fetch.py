"""Files of a run, back from the tracker that has them: for a spool that is sent to a second one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient

from facscale.track.registry import logged_models


def fetch(record: dict[str, Any], *, into: Path, uri: str, experiment: str, run: str) -> None:
    """Put what a record carried into the folder `into`/record["file"], as `Journal.keep` had it.

    uri, experiment, run: where it was delivered. Raises MlflowException or OSError where it is not to be had.
    """
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        if record["do"] == "model":
            where = MlflowClient(uri).get_experiment_by_name(experiment)
            named = {"experiment": where.experiment_id, "name": record["name"]} if where else None
            models = logged_models(MlflowClient(uri), run, **named) if named else []
            if not models:
                raise FileNotFoundError(record["name"])
            place = models[-1].artifact_location  # models:/ would be looked for at MLflow's default tracker
            found, name = mlflow.artifacts.download_artifacts(place, dst_path=scratch, tracking_uri=uri), "model"
        else:
            name = record["name"]
            path = f"{record['folder']}/{name}".lstrip("/")
            found = mlflow.artifacts.download_artifacts(
                run_id=run, artifact_path=path, dst_path=scratch, tracking_uri=uri
            )
        whole = Path(scratch) / ".whole"
        whole.mkdir()
        shutil.move(found, whole / name)
        whole.rename(into / record["file"])
