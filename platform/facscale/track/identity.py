"""Finds or creates the one run of a key, however many senders look for it at the same time.

A tracker knows runs by its own ids, and nothing stops two senders from creating a run for the same key. MLflow does
guarantee that a parameter is written once: a second value is refused. So each candidate run carries one parameter,
`zz.facscale.run`, with the id of the run that its key belongs to:

- its own id: it is the run of its key, for good;
- another id: it is a duplicate, and any sender may delete it, because nobody has sent anything to it.

The earliest undecided candidate (start time, then id) becomes the run, but only after all other candidates have been
marked as duplicates. Two runs of one key cannot both hold their own id: the sender that created the later one has seen
the earlier one, and would have had to mark it as a duplicate first. A sender that dies half-way leaves nothing that the
next one cannot decide.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from facscale.track.view import VIEW_STATE, VIEW_TAG, write_view

CLAIM_PARAM = "zz.facscale.run"  # last in lists of parameters: MLflow plots the first ones that differ
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # pages for training, not for language models


def find_run(api: MlflowClient, experiment: str, *, key: str) -> str | None:
    """Return the id of the run that has the key, choosing it now if candidates are undecided; None if there is none."""
    while candidates := _search_candidates(api, experiment, key=key):
        for run in candidates:
            if _get_claim(run) == run.info.run_id:
                _delete_rivals(api, candidates, winner=run.info.run_id)
                return str(run.info.run_id)
        undecided = [run for run in candidates if _get_claim(run) is None]
        if not undecided:  # the run itself was deleted meanwhile
            _delete_rivals(api, candidates, winner="")
            return None
        winner = undecided[0].info.run_id
        for run in [*undecided[1:], undecided[0]]:  # the winner last: see above
            if _write_claim(api, run.info.run_id, winner=winner) != winner:
                break  # another sender has decided otherwise
    return None


def get_or_create_run(api: MlflowClient, experiment: str, *, key: str, create: Callable[[], str]) -> str:
    """Return the id of the run that has the key.

    `create` creates a candidate with the tag facscale.key; it is called while there is none.
    """
    while (run_id := find_run(api, experiment, key=key)) is None:
        create()
    return run_id


def get_or_create_experiment(api: MlflowClient, name: str, *, uri: str) -> str:
    """Return the id of the experiment of that name, which is created, or restored if it was deleted, where needed."""
    experiment = api.get_experiment_by_name(name)
    if experiment is None:
        # Without a server, MLflow's default is ./mlruns, wherever a worker happens to run.
        artifacts = Path(uri.removeprefix("sqlite:///")).absolute().parent / "artifacts"
        location = artifacts.as_uri() if uri.startswith("sqlite:///") else None
        try:
            tags = {**EXPERIMENT_TAGS, VIEW_TAG: VIEW_STATE}
            return str(api.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = api.get_experiment_by_name(name)  # another sender was faster
            assert experiment is not None
    if experiment.lifecycle_stage == "deleted":  # its name stays taken, and nothing could be sent
        api.restore_experiment(experiment.experiment_id)
    write_view(api, experiment=experiment.experiment_id, tags=experiment.tags)
    return str(experiment.experiment_id)


def _search_candidates(api: MlflowClient, experiment: str, *, key: str) -> list[Run]:
    runs = api.search_runs([experiment], f'tags.`facscale.key` = "{key}"')
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def _get_claim(run: Run) -> str | None:
    return run.data.params.get(CLAIM_PARAM)


def _write_claim(api: MlflowClient, run: str, *, winner: str) -> str | None:
    """Mark a run as belonging to `winner` unless it is marked already; returns the mark that it has now."""
    try:
        api.log_param(run, CLAIM_PARAM, winner)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        return _get_claim(api.get_run(run))
    return winner


def _delete_rivals(api: MlflowClient, candidates: list[Run], *, winner: str) -> None:
    """Mark all candidates but the winner as duplicates and delete them; those with data of another origin stay."""
    for run in candidates:
        if run.info.run_id == winner:
            continue
        if _get_claim(run) is None:
            _write_claim(api, run.info.run_id, winner=winner)
        if run.data.metrics or run.data.params.keys() - {CLAIM_PARAM}:
            continue
        try:
            api.delete_run(run.info.run_id)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":  # which means that it is deleted already
                raise
