"""Checks write access to a tracker by writing: a run with one file in a scratch experiment, all deleted again."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import facscale.track.client  # noqa: F401 - sets timeout and retries of MLflow's requests
from facscale.compat.mlflow import delete_artifact
from facscale.errors import UserError
from facscale.track.identity import get_or_create_experiment

SCRATCH_EXPERIMENT = "facscale-doctor"
CREDENTIAL_VARIABLES = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME")
FILE = "doctor.txt"


class WriteAccessError(UserError):
    """The tracker does not answer, rejects the credentials, or does not let this user write."""


def check_write_access(uri: str) -> float:
    """Create a run with a file at the tracker, read the file back and delete both; returns the seconds that this took.

    Raises WriteAccessError.
    """
    start = time.monotonic()
    api = MlflowClient(uri)
    step = "make an experiment"
    try:
        experiment = get_or_create_experiment(api, f"{SCRATCH_EXPERIMENT}-{_get_user()}", uri=uri)
        step = "make a run"
        run = api.create_run(experiment, run_name=SCRATCH_EXPERIMENT).info
        try:
            step = "write to a run"
            api.log_metric(run.run_id, "written", 1.0)
            step = "keep a file (its server's artifact store)"
            _check_artifact_store(api, run.run_id, artifact_uri=str(run.artifact_uri))
        finally:
            api.delete_run(run.run_id)
        step = "delete an experiment"
        api.delete_experiment(experiment)
    except (MlflowException, OSError) as error:
        raise WriteAccessError(_explain(error, uri=uri, step=step)) from None
    return time.monotonic() - start


def _check_artifact_store(api: MlflowClient, run_id: str, *, artifact_uri: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_text(run_id, encoding="utf-8")
        api.log_artifact(run_id, str(path))
        downloaded = Path(api.download_artifacts(run_id, FILE, tempfile.mkdtemp(dir=folder)))
        content = downloaded.read_text(encoding="utf-8")
        if content != run_id:
            raise OSError(f"a file came back with {len(content)} bytes, and was written with {len(run_id)}")
    delete_artifact(artifact_uri, FILE, tracking_uri=api.tracking_uri)


def _explain(error: Exception, *, uri: str, step: str) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0][:300]
    status = error.get_http_status_code() if isinstance(error, MlflowException) else 0
    variable = next((name for name in CREDENTIAL_VARIABLES if os.environ.get(name)), "")
    if status == 401 and not variable:
        names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return f"MLflow at {uri} asks for a login, and none is set; set {names}"
    if status == 401:
        return f"MLflow at {uri} refuses our credentials; {variable} is set: check it, and that it has not expired"
    if status == 403 and "host" in text.lower():
        return f"MLflow at {uri} does not accept that host name: {text}; add it to its server's --allowed-hosts"
    if status == 403:
        return f"MLflow at {uri} accepts our login, but does not let us {step}; ask its administrator for EDIT rights"
    if "failed with exception" in text or "Max retries" in text:
        return f"MLflow at {uri} does not answer; check the address, and that its server runs ({text})"
    return f"MLflow at {uri} answers, but we cannot {step}: {text}; see its server's log"


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return "somebody"
