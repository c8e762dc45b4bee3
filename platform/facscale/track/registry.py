"""Logged models of runs, and the registry: a registered model for each method, with a version for each run.

MLflow's own alias `latest` is the newest version. `best-<data set>` is the version with the highest score on that data
set. Each call computes it from all versions, so that calls can be repeated and can overlap: the last one sets it right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.logged_model import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from facscale.track.journal import Record
from facscale.track.limits import MAX_VALUE_LENGTH, sanitize_model_name, sanitize_name

SCORE_TAG_PREFIX = "f1/"  # of the tags with a version's scores, before the data set's name
WEIGHTS_TAG = "facscale.weights"  # of logged models: the same for the same weights
OWNER_TAG = "facscale"  # of registered models that facscale created


def log_model(api: MlflowClient, run: str, record: Record, *, experiment: str, folder: Path) -> None:
    """Upload a model folder as a logged model of a run; the same weights under the same name are uploaded once."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    description = Model.load(str(folder / "MLmodel"))
    weights = str((description.metadata or {}).get("weights", ""))
    models = search_logged_models(api, run, experiment=experiment, name=record["name"], weights=weights)
    if any(model.status == "READY" for model in models):
        return
    model = models[0] if models else _create_model(api, run, record, experiment=experiment, weights=weights)
    description.model_id = description.model_uuid = model.model_id
    description.run_id, description.artifact_path = run, model.artifact_location
    description.save(str(folder / "MLmodel"))
    api.log_model_artifacts(model.model_id, str(folder))
    api.finalize_logged_model(model.model_id, "READY")
    oldest = search_logged_models(api, run, experiment=experiment, name=record["name"], weights=weights)[0]
    if oldest.model_id != model.model_id and oldest.status == "READY":  # another sender was faster
        api.delete_logged_model(model.model_id)
        return
    api.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])


def _create_model(api: MlflowClient, run: str, record: Record, *, experiment: str, weights: str) -> LoggedModel:
    """Create a logged model. If another sender does so at the same moment, the older one stays, and both fill that."""
    new = api.create_logged_model(experiment, record["name"], run, tags={WEIGHTS_TAG: weights})
    oldest = search_logged_models(api, run, experiment=experiment, name=record["name"], weights=weights)[0]
    if oldest.model_id != new.model_id:
        api.delete_logged_model(new.model_id)
    return oldest


def search_logged_models(
    api: MlflowClient, run: str, *, experiment: str, name: str, weights: str | None = None
) -> list[LoggedModel]:
    """Return a run's models of one name, the oldest first; `weights`: only those with this digest of their weights."""
    query = f"source_run_id = '{run}' AND name = '{name}'"
    query += "" if weights is None else f" AND tags.`{WEIGHTS_TAG}` = '{weights}'"
    models = api.search_logged_models([experiment], query)
    return sorted(models, key=lambda model: (model.creation_timestamp, model.model_id))


def register_version(api: MlflowClient, run: str, record: Record, *, model: LoggedModel) -> None:
    """Make a run's logged model a version of the registered model record["name"], unless the run has one already."""
    name = sanitize_model_name(record["name"])
    try:
        api.create_registered_model(name, tags={OWNER_TAG: "method"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {sanitize_name(key): str(value)[:MAX_VALUE_LENGTH] for key, value in record["tags"].items()}
    tags |= {SCORE_TAG_PREFIX + sanitize_name(data): repr(float(value)) for data, value in record["scores"].items()}
    number = _find_version(api, run, name=name)
    if number is None:
        version = api.create_model_version(
            name, model.artifact_location, run, tags=tags, description=record["description"], model_id=model.model_id
        )
        number = _find_version(api, run, name=name)
        if number is not None and number != str(version.version):  # another sender's lower number was first
            api.delete_model_version(name, str(version.version))
    for key, value in tags.items():
        api.set_model_version_tag(name, str(number), key, value)
    for data in record["scores"]:
        _update_best_alias(api, name, data=data)


def _find_version(api: MlflowClient, run: str, *, name: str) -> str | None:
    """Return the version number of a run, the lowest if it has several; None if it has none."""
    versions = api.search_model_versions(f"name = '{name}' and run_id = '{run}'")
    return str(min(int(version.version) for version in versions)) if versions else None


def _update_best_alias(api: MlflowClient, name: str, *, data: str) -> None:
    """Move the alias of a data set to the best version, and check again until no version is better."""
    alias = f"best-{sanitize_model_name(data)}"
    while True:
        current = str(api.get_registered_model(name).aliases.get(alias, ""))
        best = _select_best(_list_versions(api, name), tag=SCORE_TAG_PREFIX + sanitize_name(data))
        if current == best:
            return
        api.set_registered_model_alias(name, alias, best)


def _select_best(versions: Sequence[ModelVersion], *, tag: str) -> str:
    """Return the number of the version with the highest score, the lowest number of equal ones."""
    scored = [version for version in versions if tag in version.tags]
    return str(max(scored, key=lambda version: (float(version.tags[tag]), -int(version.version))).version)


def _list_versions(api: MlflowClient, name: str) -> list[ModelVersion]:
    versions: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = api.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
        versions, token = [*versions, *page], page.token
        if not token:
            return versions
