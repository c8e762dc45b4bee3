"""Ray Tune: its searchers, its schedulers, and a sweep that goes on where it was killed."""

from __future__ import annotations

import logging
import os
import stat
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from facscale.errors import UserError
from facscale.spec import Job
from facscale.spec.sweep import Sweep
from facscale.sweep.outcome import Outcome
from facscale.sweep.space import domains, within
from facscale.sweep.trial import Search, Trial
from facscale.sweep.watch import Watch
from facscale.train.trainer import storage

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our own table says it
    "RAY_AIR_NEW_OUTPUT": "0",  # likewise
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job; else it would go on with what was found so far
}
NEXT_TO_NOTHING = {"memory": 1}  # bytes: a trial itself only waits for its workers, and nothing at all is not allowed


class SweepError(UserError):
    """A sweep has found nothing."""


def searched(search: Search, *, job: Job, name: str, watch: Watch) -> list[Outcome]:
    """Run all trials; those that were there before the process was killed go on from their own checkpoints."""
    os.environ |= SETTINGS
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    sweep, place = search.sweep, f"{storage(job)}/{name}"
    trainable = tune.with_resources(tune.with_parameters(Trial, search=search), NEXT_TO_NOTHING)
    space = domains(sweep)
    refuse_foreign(place)
    if tune.Tuner.can_restore(place):
        tuner = tune.Tuner.restore(place, trainable, param_space=space, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="objective", mode=sweep.goal, search_alg=searcher(sweep), scheduler=scheduler(sweep),
                num_samples=1 if sweep.search == "grid" else sweep.trials, reuse_actors=False,
                max_concurrent_trials=sweep.concurrent or watch.lanes, trial_dirname_creator=trial_name,
            ),
            run_config=tune.RunConfig(
                name=name, storage_path=storage(job), verbose=0, callbacks=[watch, JsonLoggerCallback()],
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
                failure_config=tune.FailureConfig(max_failures=job.cluster.max_failures),
            ),
        )  # fmt: skip
    with warnings.catch_warnings():  # PBT would be faster with trials that change their values without a new process
        warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
        return [Outcome.of(result) for result in tuner.fit()]


def refuse_foreign(place: str) -> None:
    """Raise SweepError for what somebody else left at a place on this machine: Ray Tune unpickles what it goes on from.

    In an object store the store's own keys decide who may write there.
    """
    folder = Path(place)
    if "://" in place or not folder.exists():
        return
    state = folder.stat()
    if state.st_uid != os.geteuid() or state.st_mode & stat.S_IWOTH:
        raise SweepError(
            f"{folder} holds a sweep that others may have written, and going on from it would run what they left: "
            "delete it, or choose another cluster.storage"
        )


def trial_name(trial: Any) -> str:
    """Of a trial's folder."""
    return f"trial-{trial.trial_id}"


def searcher(sweep: Sweep) -> Searcher | None:
    """What proposes values; None: Ray Tune's own random draws, and grids."""
    if sweep.search != "optuna":
        return None
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return OptunaSearch(metric="objective", mode=sweep.goal, seed=sweep.seed)


def scheduler(sweep: Sweep) -> TrialScheduler | None:
    """What ends trials early, or lets them go on from better ones; None: every trial runs to its end."""
    grace = max(1, round(100 * sweep.grace))
    if sweep.search == "pbt":
        return PopulationBasedTraining(
            time_attr="percent", perturbation_interval=grace, hyperparam_mutations=domains(sweep),
            quantile_fraction=min(sweep.keep, 0.5), custom_explore_fn=partial(within, sweep=sweep),
        )  # fmt: skip
    if sweep.early_stopping == "none":
        return None
    return AsyncHyperBandScheduler(
        time_attr="percent", max_t=100, grace_period=grace, reduction_factor=1 / sweep.keep, stop_last_trials=False
    )


def best_of(outcomes: list[Outcome], sweep: Sweep) -> Outcome:
    """The one with the best objective, of those that reached their end. Raises SweepError where none did."""
    whole = [one for one in outcomes if one.whole]
    if not whole:
        told = "; ".join(dict.fromkeys(f"{one.title}: {one.state}" for one in outcomes))
        raise SweepError(f"no trial reached its end, so there is no best one ({told})")
    return (max if sweep.goal == "max" else min)(whole, key=lambda one: one.objective)
