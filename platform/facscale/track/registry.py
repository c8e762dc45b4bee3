"""Logged models of runs, and the registry: a registered model for each method, a version for each run.

MLflow's own alias `latest` is the newest version. `best-<data set>` is the one with the highest score on that data set,
of all versions there are; each call works it out anew, so it may be repeated and raced, and the last to look is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.logged_model import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from facscale.track.limits import LONGEST, mlflow_name, model_name

SCORE = "f1/"  # tags of a version that hold its score, before the data set's name
WEIGHTS = "facscale.weights"  # tag of logged models: the same for the same weights
MINE = "facscale"  # tag of registered models that we made
Record = dict[str, Any]


def log_model(api: MlflowClient, run: str, record: Record, *, experiment: str, folder: Path) -> None:
    """Upload a model folder as a logged model of a run; the same weights under the same name go up once."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    model = Model.load(str(folder / "MLmodel"))
    weights = str((model.metadata or {}).get("weights", ""))
    found = logged_models(api, run, experiment=experiment, name=record["name"], weights=weights)
    if any(known.status == "READY" for known in found):
        return
    made = found[0] if found else _oldest(api, run, record, experiment=experiment, weights=weights)
    model.model_id = model.model_uuid = made.model_id
    model.run_id, model.artifact_path = run, made.artifact_location
    model.save(str(folder / "MLmodel"))
    api.log_model_artifacts(made.model_id, str(folder))
    api.finalize_logged_model(made.model_id, "READY")
    first = logged_models(api, run, experiment=experiment, name=record["name"], weights=weights)[0]
    if first.model_id != made.model_id and first.status == "READY":  # another sender was faster
        api.delete_logged_model(made.model_id)
        return
    api.log_outputs(run, [LoggedModelOutput(made.model_id, step=0)])


def _oldest(api: MlflowClient, run: str, record: Record, *, experiment: str, weights: str) -> LoggedModel:
    """A new logged model; the older one, where another sender makes it at the same moment: both then fill that."""
    new = api.create_logged_model(experiment, record["name"], run, tags={WEIGHTS: weights})
    first = logged_models(api, run, experiment=experiment, name=record["name"], weights=weights)[0]
    if first.model_id != new.model_id:
        api.delete_logged_model(new.model_id)
    return first


def logged_models(
    api: MlflowClient, run: str, *, experiment: str, name: str, weights: str | None = None
) -> list[LoggedModel]:
    """A run's models of one name, the oldest first."""
    query = f"source_run_id = '{run}' AND name = '{name}'"
    query += "" if weights is None else f" AND tags.`{WEIGHTS}` = '{weights}'"
    found = api.search_logged_models([experiment], query)
    return sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))


def register(api: MlflowClient, run: str, record: Record, *, model: LoggedModel) -> None:
    """Make a run's logged model a version of the registered model record["name"], unless the run has one already."""
    name = model_name(record["name"])
    try:
        api.create_registered_model(name, tags={MINE: "method"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {mlflow_name(key): str(value)[:LONGEST] for key, value in record["tags"].items()}
    tags |= {SCORE + mlflow_name(data): repr(float(value)) for data, value in record["scores"].items()}
    version = _own_version(api, run, name=name)
    if version is None:
        made = api.create_model_version(
            name, model.artifact_location, run, tags=tags, description=record["description"], model_id=model.model_id
        )
        version = _own_version(api, run, name=name)
        if version is not None and version != str(made.version):  # numbers are given in order: the other was first
            api.delete_model_version(name, str(made.version))
    for key, value in tags.items():
        api.set_model_version_tag(name, str(version), key, value)
    for data in record["scores"]:
        _point_to_best(api, name, data=data)


def _own_version(api: MlflowClient, run: str, *, name: str) -> str | None:
    """The version of a run, the first where it has several; None for none."""
    numbers = [int(one.version) for one in api.search_model_versions(f"name = '{name}' and run_id = '{run}'")]
    return str(min(numbers)) if numbers else None


def _point_to_best(api: MlflowClient, name: str, *, data: str) -> None:
    """Move the alias of a data set, until it is where all scores that are known now want it."""
    alias = f"best-{model_name(data)}"
    while True:
        current = str(api.get_registered_model(name).aliases.get(alias, ""))
        best = _best(_versions(api, name), tag=SCORE + mlflow_name(data))
        if current == best:
            return
        api.set_registered_model_alias(name, alias, best)


def _best(versions: list[ModelVersion], *, tag: str) -> str:
    scored = [one for one in versions if tag in one.tags]
    return str(max(scored, key=lambda one: (float(one.tags[tag]), -int(one.version))).version)


def _versions(api: MlflowClient, name: str) -> list[ModelVersion]:
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = api.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
        found, token = [*found, *page], page.token
        if not token:
            return found
