"""Profiles the trainings of a job on its workers."""

from __future__ import annotations

from facscale.cluster.ray import join, wait_for_capacity
from facscale.job.datasets import JobData
from facscale.job.inputs import fetch_inputs
from facscale.job.variants import Variant, expand_variants
from facscale.profile import page
from facscale.profile.forecast import Price, ProfiledTraining, compute_pace_key, forecast_trainings
from facscale.profile.trainings import PlannedTraining, list_trainings
from facscale.profile.worker import PartStarted, WorkerProfile, profile_training
from facscale.progress import Progress
from facscale.spec import Document
from facscale.train.events import Event


def profile_job(
    document: Document, *, name: str, seconds: float, price: Price, trials: int = 0, everything: bool
) -> int:
    """Print the profile and the forecast, and return the exit status. Raises SpecError, DataError or TrainError.

    seconds: of each profiled training. trials: of a sweep; one takes as long as the main variant, or ends sooner.
    everything: also profile trainings of another pace than the main variant, rather than estimate them.
    """
    variants = expand_variants(document, name=str(document.data.get("name") or name))
    main = variants[0]
    for variant in variants:
        fetch_inputs(variant)
    planned = list_trainings(variants, JobData.open_for_training(main))
    if not planned:
        page.print_line(f"{main.name} trains nothing, so there is nothing to rehearse: facscale run needs no training")
        return 0
    join()
    wait_for_capacity(main.job, is_resumed=False)
    first = choose_main_training(main, planned)
    first_pace = compute_pace_key(first.task)
    selected = {compute_pace_key(training.task): training for training in (planned if everything else [])}
    profiled = {
        pace: profile_one(training, seconds=seconds) for pace, training in ({**selected, first_pace: first}).items()
    }
    forecasts = forecast_trainings(planned, profiled, first=first_pace)
    page.print_profile(profiled[first_pace])
    page.print_forecasts(forecasts, main=main, trials=trials, price=price)
    return 0


def choose_main_training(main: Variant, planned: list[PlannedTraining]) -> PlannedTraining:
    """The first training of the job's own method; of another one where that trains nothing."""
    own = [
        training
        for training in planned
        if training.task.job.method.name == main.job.method.name and training.task.config == main.config
    ]
    return (own or planned)[0]


def profile_one(training: PlannedTraining, *, seconds: float) -> ProfiledTraining:
    """Profile a training on its workers, with a progress bar."""
    workers: list[WorkerProfile] = []
    with Progress(f"rehearsing {training.title}", total=2, unit="stages") as bar:

        def receive(event: Event) -> None:
            if isinstance(event, WorkerProfile):
                workers.append(event)
            if isinstance(event, PartStarted):
                bar.advance(0 if event.part == "training" else 1, note=event.part)

        profile_training(training.task, seconds=seconds, receive=receive)
        bar.update(2)
    return ProfiledTraining.from_workers(training, workers)
