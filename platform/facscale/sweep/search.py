"""Ray Tune: search algorithms, schedulers, and a sweep that resumes where it was killed."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from facscale.errors import UserError
from facscale.ownership import find_foreign_access
from facscale.spec import Job
from facscale.spec.sweep import Sweep
from facscale.sweep.outcome import TrialOutcome
from facscale.sweep.space import clip_to_space, make_tune_space
from facscale.sweep.trial import Search, Trial
from facscale.sweep.watch import SweepWatch
from facscale.train.trainer import storage_url

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our own table shows them
    "RAY_AIR_NEW_OUTPUT": "0",  # likewise
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job; else it would continue with the trials so far
}
TRIAL_RESOURCES = {"memory": 1}  # bytes: a trial itself only waits for its workers; Ray Tune refuses an empty request


class SweepError(UserError):
    """A sweep has no result."""


def run_search(search: Search, *, job: Job, name: str, watch: SweepWatch, slots: int) -> list[TrialOutcome]:
    """Run all trials, `slots` at a time; those that were there before the process was killed resume from their checkpoints."""
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    sweep, url = search.sweep, f"{storage_url(job)}/{name}"
    trainable = tune.with_resources(tune.with_parameters(Trial, search=search), TRIAL_RESOURCES)
    space = make_tune_space(sweep)
    check_ownership(url)
    with set_variables(SETTINGS):
        if tune.Tuner.can_restore(url):
            tuner = tune.Tuner.restore(url, trainable, param_space=space, resume_errored=True)
        else:
            tuner = tune.Tuner(
                trainable,
                param_space=space,
                tune_config=tune.TuneConfig(
                    metric="objective",
                    mode=sweep.goal,
                    search_alg=make_searcher(sweep),
                    scheduler=make_scheduler(sweep),
                    num_samples=1 if sweep.search == "grid" else sweep.trials,
                    reuse_actors=False,
                    max_concurrent_trials=sweep.concurrent or slots,
                    trial_dirname_creator=name_trial,
                ),
                run_config=tune.RunConfig(
                    name=name,
                    storage_path=storage_url(job),
                    verbose=0,
                    callbacks=[watch, JsonLoggerCallback()],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
                    failure_config=tune.FailureConfig(max_failures=job.cluster.max_failures),
                ),
            )
        with (
            warnings.catch_warnings()
        ):  # PBT would be faster with trials that change their values without a new process
            warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
            return [TrialOutcome.from_result(result) for result in tuner.fit()]


@contextmanager
def set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block, and restore them after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def check_ownership(url: str) -> None:
    """Raise SweepError for a sweep on this machine that another user may have written: Ray Tune unpickles what it resumes.

    Each file of it, and each folder from the root to it, must be this user's own. In an object store, the store's own
    keys decide who may write there.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme not in {"file", "local"}:
        return
    folder = Path(rest if separator else url)
    if not folder.exists():
        return
    for path in (folder, *folder.rglob("*")):
        if reason := find_foreign_access(path):
            raise SweepError(
                f"{folder} holds a sweep that another user may have written, and resuming it would run their code "
                f"({reason}): delete it, or choose another cluster.storage"
            )


def name_trial(trial: Any) -> str:
    """The name of a trial's folder."""
    return f"trial-{trial.trial_id}"


def make_searcher(sweep: Sweep) -> Searcher | None:
    """The search algorithm; None: Ray Tune's own random draws, and grids."""
    if sweep.search != "optuna":
        return None
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return OptunaSearch(metric="objective", mode=sweep.goal, seed=sweep.seed)


def make_scheduler(sweep: Sweep) -> TrialScheduler | None:
    """The scheduler that stops trials early, or has them resume from better ones; None: every trial runs to its end."""
    grace = max(1, round(100 * sweep.grace))
    if sweep.search == "pbt":
        return PopulationBasedTraining(
            time_attr="percent",
            perturbation_interval=grace,
            hyperparam_mutations=make_tune_space(sweep),
            quantile_fraction=min(sweep.keep, 0.5),
            custom_explore_fn=partial(clip_to_space, sweep=sweep),
        )
    if sweep.early_stopping == "none":
        return None
    return AsyncHyperBandScheduler(
        time_attr="percent", max_t=100, grace_period=grace, reduction_factor=1 / sweep.keep, stop_last_trials=False
    )


def choose_best(outcomes: list[TrialOutcome], sweep: Sweep) -> TrialOutcome:
    """The complete trial with the best objective. Raises SweepError where no trial is complete."""
    complete = [outcome for outcome in outcomes if outcome.is_complete]
    if not complete:
        states = "; ".join(dict.fromkeys(f"{outcome.title}: {outcome.state}" for outcome in outcomes))
        raise SweepError(f"no trial reached its end, so there is no best one ({states})")
    return (max if sweep.goal == "max" else min)(complete, key=lambda outcome: outcome.objective)
