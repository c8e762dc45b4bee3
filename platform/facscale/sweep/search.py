"""Ray Tune: search algorithms, schedulers, and a sweep that resumes where it was killed.

Each run is a new experiment of Ray Tune, which is given the unfinished trials of the sweep's record first. What Ray Tune
keeps of an experiment is never read again: see `sweep.record`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher, SearchGenerator
from ray.tune.search.optuna import OptunaSearch

from facscale.cluster.ray import get_worker_resources
from facscale.compat import set_variables
from facscale.data.storage import Folder
from facscale.spec import Job
from facscale.spec.sweep import Sweep
from facscale.sweep.outcome import TrialOutcome
from facscale.sweep.record import SweepError, read_record
from facscale.sweep.space import Values, clip_to_space, count_trials, draw_points, make_tune_space
from facscale.sweep.trial import IDENTITY, Search, Trial
from facscale.sweep.watch import SweepWatch
from facscale.train.trainer import storage_url

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our own table shows them
    "RAY_AIR_NEW_OUTPUT": "0",  # likewise
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job; else it would continue with the trials so far
}
OBJECTIVE = "objective"  # of `Trial.build_report`
WAITING_TRIAL = {"memory": 1}  # bytes: a trial itself only waits for its workers; Ray Tune refuses an empty request


def run_search(search: Search, *, job: Job, name: str, watch: SweepWatch, slots: int) -> list[TrialOutcome]:
    """Run all trials, `slots` at a time; those that were there before the process was killed resume from their checkpoints.

    Raises SweepError for a record of the trials before that is not this sweep's.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    sweep, folder = search.sweep, Folder(f"{storage_url(job)}/{name}")
    outcomes = read_record(folder, sweep)
    watch.resume(folder, outcomes)
    ended = [outcome for outcome in outcomes if outcome.has_ended]
    if len(ended) < count_trials(sweep):
        with set_variables(SETTINGS):
            tuner = tune.Tuner(
                tune.with_resources(tune.with_parameters(Trial, search=search), get_trial_resources(job)),
                tune_config=tune.TuneConfig(
                    search_alg=make_source(sweep, outcomes, watch=watch, slots=sweep.concurrent or slots),
                    scheduler=make_scheduler(sweep, ended),
                    num_samples=count_trials(sweep) - len(ended),
                    reuse_actors=job.cluster.has_one_worker,
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
            with warnings.catch_warnings():
                # PBT would be faster with trials that change their values without a new process.
                warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
                tuner.fit()
    return list(watch.outcomes.values())


def get_trial_resources(job: Job) -> dict[str, float]:
    """What Ray Tune reserves for the process of a trial, under its own names of resources: see `Trial`."""
    if not job.cluster.has_one_worker:
        return dict(WAITING_TRIAL)
    return {name.lower(): amount for name, amount in get_worker_resources(job).items()}


class TrialPlan:
    """Gives each new trial of Ray Tune its name and its values: an unfinished trial's of before, else the next point's."""

    def __init__(
        self, unfinished: Iterable[TrialOutcome], points: Iterable[Values] | None, *, watch: SweepWatch
    ) -> None:
        self._unfinished, self._watch = deque(unfinished), watch
        self._points = None if points is None else deque(points)  # None: Ray Tune's own values

    def begin(self, trial: Any) -> None:
        """Give `trial`, one of Ray Tune's that has not started yet, its config."""
        if self._unfinished:
            outcome = replace(self._unfinished.popleft(), error="", stop_reason="")
        else:
            outcome = TrialOutcome(
                trial.trial_id, dict(trial.config if self._points is None else self._points.popleft())
            )
        identity = {"name": outcome.trial, "training": outcome.training, "step": outcome.step}
        trial.config = {**outcome.values, IDENTITY: identity}
        self._watch.begin_trial(outcome, trial_id=trial.trial_id)


class PlannedTrials(BasicVariantGenerator):
    """Trials whose values are known beforehand. PBT takes no other source."""

    def __init__(self, plan: TrialPlan, *, slots: int) -> None:
        super().__init__(max_concurrent=slots)
        self._plan = plan

    def next_trial(self) -> Any:
        if trial := super().next_trial():
            self._plan.begin(trial)
        return trial


class ProposedTrials(SearchGenerator):
    """Trials whose values a search algorithm proposes, after those before."""

    def __init__(self, plan: TrialPlan, searcher: Searcher) -> None:
        super().__init__(searcher)
        self._plan = plan

    def next_trial(self) -> Any:
        if trial := super().next_trial():
            self._plan.begin(trial)
        return trial


def name_trial(trial: Any) -> str:
    """The name of a trial's folder."""
    return f"trial-{trial.trial_id}"


def make_source(
    sweep: Sweep, outcomes: Sequence[TrialOutcome], *, watch: SweepWatch, slots: int
) -> PlannedTrials | ProposedTrials:
    """Where Ray Tune takes trials from, `slots` at a time: the unfinished ones of `outcomes`, then new ones."""
    unfinished = [outcome for outcome in outcomes if not outcome.has_ended]
    if sweep.search != "optuna":
        return PlannedTrials(TrialPlan(unfinished, draw_points(sweep)[len(outcomes) :], watch=watch), slots=slots)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    searcher = OptunaSearch(
        OptunaSearch.convert_search_space(make_tune_space(sweep)),
        metric=OBJECTIVE,
        mode=sweep.goal,
        points_to_evaluate=[dict(outcome.values) for outcome in unfinished],
        seed=sweep.seed + len(outcomes),  # with the first seed it would propose the first trials again
    )
    for outcome in outcomes:
        if outcome.has_ended:
            is_finite = math.isfinite(outcome.objective)
            searcher.add_evaluated_point(dict(outcome.values), outcome.objective, error=not is_finite)
    return ProposedTrials(TrialPlan(unfinished, None, watch=watch), ConcurrencyLimiter(searcher, max_concurrent=slots))


def make_scheduler(sweep: Sweep, ended: Sequence[TrialOutcome] = ()) -> TrialScheduler | None:
    """The scheduler that stops trials early, or has them resume from better ones; None: every trial runs to its end.

    `ended`: trials before, with which new ones are compared.
    """
    grace = max(1, round(100 * sweep.grace))
    if sweep.search == "pbt":
        return PopulationBasedTraining(
            time_attr="percent",
            metric=OBJECTIVE,
            mode=sweep.goal,
            perturbation_interval=grace,
            hyperparam_mutations=make_tune_space(sweep),
            quantile_fraction=min(sweep.keep, 0.5),
            custom_explore_fn=partial(clip_to_space, sweep=sweep),
        )
    if sweep.early_stopping == "none":
        return None
    scheduler = AsyncHyperBandScheduler(
        time_attr="percent",
        metric=OBJECTIVE,
        mode=sweep.goal,
        max_t=100,
        grace_period=grace,
        reduction_factor=1 / sweep.keep,
        stop_last_trials=False,
    )
    for outcome in ended:
        trial: Any = SimpleNamespace(trial_id=outcome.trial)
        scheduler.on_trial_add(None, trial)
        for percent, objective in outcome.history:
            scheduler.on_trial_result(None, trial, {"percent": percent, OBJECTIVE: objective})
    return scheduler


def choose_best(outcomes: list[TrialOutcome], sweep: Sweep) -> TrialOutcome:
    """The complete trial with the best objective. Raises SweepError where no trial is complete."""
    complete = [outcome for outcome in outcomes if outcome.is_complete]
    if not complete:
        states = "; ".join(dict.fromkeys(f"{outcome.title}: {outcome.state}" for outcome in outcomes))
        raise SweepError(f"no trial reached its end, so there is no best one ({states})")
    return (max if sweep.goal == "max" else min)(complete, key=lambda outcome: outcome.objective)
