"""May we write? Found out by writing: a run with one file, in an experiment of its own, and all of it deleted again."""

from __future__ import annotations

import getpass
import os
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

import facscale.track.client  # noqa: F401 - sets how patient MLflow's requests are
from facscale.errors import UserError
from facscale.track.identity import experiment_id

SCRATCH = "facscale-doctor"
CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME")
FILE = "doctor.txt"


class NotAllowedError(UserError):
    """The tracker does not answer, does not know us, or does not let us write."""


def prove_write(uri: str) -> float:
    """Seconds that it took to make a run with a file, to read that back, and to delete both. Raises NotAllowedError."""
    began = time.monotonic()
    api = MlflowClient(uri)
    doing = "make an experiment"
    try:
        where = experiment_id(api, f"{SCRATCH}-{_user()}", uri=uri)
        doing = "make a run"
        run = api.create_run(where, run_name=SCRATCH).info
        try:
            doing = "write to a run"
            api.log_metric(run.run_id, "written", 1.0)
            doing = "keep a file (its server's artifact store)"
            _keep_a_file(api, run.run_id, str(run.artifact_uri))
        finally:
            api.delete_run(run.run_id)
        doing = "delete an experiment"
        api.delete_experiment(where)
    except (MlflowException, OSError) as error:
        raise NotAllowedError(_explained(error, uri=uri, doing=doing)) from None
    return time.monotonic() - began


def _keep_a_file(api: MlflowClient, run: str, place: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_text(run, encoding="utf-8")
        api.log_artifact(run, str(path))
        back = Path(api.download_artifacts(run, FILE, tempfile.mkdtemp(dir=folder))).read_text(encoding="utf-8")
        if back != run:
            raise OSError(f"a file came back with {len(back)} bytes, and was written with {len(run)}")
    get_artifact_repository(place, tracking_uri=api.tracking_uri).delete_artifacts(FILE)


def _explained(error: Exception, *, uri: str, doing: str) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0][:300]
    status = error.get_http_status_code() if isinstance(error, MlflowException) else 0
    given = next((name for name in CREDENTIALS if os.environ.get(name)), "")
    if status == 401 and not given:
        names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return f"MLflow at {uri} asks who we are, and nothing says it; set {names}"
    if status == 401:
        return f"MLflow at {uri} refuses our credentials; {given} is set: check it, and that it has not expired"
    if status == 403 and "host" in text.lower():
        return f"MLflow at {uri} refuses that name of itself: {text}; its server lists the names it goes by: --allowed-hosts"
    if status == 403:
        return f"MLflow at {uri} knows us, and does not let us {doing}; its administrator can give the right to EDIT"
    if "failed with exception" in text or "Max retries" in text:
        return f"MLflow at {uri} does not answer; check the address, and that its server runs ({text})"
    return f"MLflow at {uri} answers, but we cannot {doing}: {text}; its server's log says more"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return "somebody"
