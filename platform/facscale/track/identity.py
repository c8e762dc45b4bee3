"""One run for a key, however many senders look for it at once.

A tracker knows runs by ids of its own, and nothing stops two senders from making a run for the same key. What it does
guarantee is that a parameter is written once: of two values the second is refused. So each candidate carries one
parameter, `zz.facscale.run`, that holds the id of the run which it stands for:

- its own id: it is the run of its key, for good;
- another's: it is not, and whoever sees it may delete it, for nobody has sent anything to it.

The earliest undecided candidate (start time, then id) becomes the run, but only after all others have been decided
against. Two runs of one key cannot both hold their own id: whoever made the later one has seen the earlier one, and
would have had to decide against it first. A sender that dies on the way leaves nothing that the next one cannot decide.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from facscale.track.view import STATE, TAG, write_view

CLAIM = "zz.facscale.run"  # last in lists of parameters: MLflow plots the first ones that differ
KIND = {"mlflow.experimentKind": "custom_model_development"}  # pages for training, not for language models


def find_run(api: MlflowClient, experiment: str, *, key: str) -> str | None:
    """The id of the run that has the key, decided now where nobody has; None where there is no run."""
    while candidates := _candidates(api, experiment, key=key):
        for run in candidates:
            if _claim(run) == run.info.run_id:
                _remove_rivals(api, candidates, winner=run.info.run_id)
                return str(run.info.run_id)
        open_ones = [run for run in candidates if _claim(run) is None]
        if not open_ones:  # the run itself was deleted since
            _remove_rivals(api, candidates, winner="")
            return None
        first = open_ones[0].info.run_id
        for run in [*open_ones[1:], open_ones[0]]:  # the winner last: see above
            if _decide(api, run.info.run_id, winner=first) != first:
                break  # somebody has decided otherwise
    return None


def find_or_make_run(api: MlflowClient, experiment: str, *, key: str, make: Callable[[], str]) -> str:
    """The id of the run that has the key. `make` makes a candidate, with the tag facscale.key, where there is none."""
    while (found := find_run(api, experiment, key=key)) is None:
        make()
    return found


def experiment_id(api: MlflowClient, name: str, *, uri: str) -> str:
    """The experiment of that name: found, made, or, where somebody deleted it in the meantime, restored."""
    found = api.get_experiment_by_name(name)
    if found is None:
        # without a server the default is ./mlruns, wherever a worker happens to run
        beside = Path(uri.removeprefix("sqlite:///")).absolute().parent / "artifacts"
        location = beside.as_uri() if uri.startswith("sqlite:///") else None
        try:
            return str(api.create_experiment(name, artifact_location=location, tags={**KIND, TAG: STATE}))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = api.get_experiment_by_name(name)  # another sender was first
            assert found is not None
    if found.lifecycle_stage == "deleted":  # its name stays taken, and nothing could be sent
        api.restore_experiment(found.experiment_id)
    write_view(api, experiment=found.experiment_id, tags=found.tags)
    return str(found.experiment_id)


def _candidates(api: MlflowClient, experiment: str, *, key: str) -> list[Run]:
    found = api.search_runs([experiment], f'tags.`facscale.key` = "{key}"')
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _claim(run: Run) -> str | None:
    return run.data.params.get(CLAIM)


def _decide(api: MlflowClient, run: str, *, winner: str) -> str | None:
    """Say for which run this one stands, unless that is said already; returns what stands there now."""
    try:
        api.log_param(run, CLAIM, winner)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        return _claim(api.get_run(run))
    return winner


def _remove_rivals(api: MlflowClient, candidates: list[Run], *, winner: str) -> None:
    """Decide against the others, and delete them. What holds data anyway, from elsewhere, is left to its owner."""
    for run in candidates:
        if run.info.run_id == winner:
            continue
        if _claim(run) is None:
            _decide(api, run.info.run_id, winner=winner)
        if run.data.metrics or run.data.params.keys() - {CLAIM}:
            continue
        try:
            api.delete_run(run.info.run_id)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":  # else it is deleted already
                raise
