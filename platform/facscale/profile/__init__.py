"""`facscale rehearse`: a job's real training for a minute on its real workers; then what holds it up, and what the rest will take."""

from __future__ import annotations

from facscale.cluster import join, refuse_impossible
from facscale.data import Dataset
from facscale.job.labelled import Labelled
from facscale.job.run import fetch_all
from facscale.job.variants import Variant, rows
from facscale.profile import page
from facscale.profile.forecast import Price, Rehearsed, forecasts, pace
from facscale.profile.rehearsal import Measured, rehearsed
from facscale.profile.trainings import Training, trainings
from facscale.progress import Progress
from facscale.spec import Document
from facscale.train.worker import urls

__all__ = ["Price", "rehearse_job"]


def rehearse_job(
    document: Document, *, name: str, seconds: float, price: Price, trials: int = 0, everything: bool
) -> int:
    """Print it all, and return the exit status. Raises SpecError, DataError or TrainError for a job that cannot train.

    seconds: of each rehearsal. trials: of a sweep; one takes as long as the main row, or ends sooner. everything: also
    rehearse what trains at another pace than the main row, rather than tell it from the operations.
    """
    variants = rows(document, name=str(document.data.get("name") or name))
    main = variants[0]
    sets = [Labelled.open(url, evaluate=main.job.evaluate) for url in urls(main.job, "labelled")]
    for row in variants:
        fetch_all(row)
    people = sum(Dataset(url).manifest.counts["identities"] for url in urls(main.job, "unlabelled"))
    planned = trainings(variants, sets=sets, identities=people)
    if not planned:
        page.say(f"{main.name} trains nothing, so there is nothing to rehearse: facscale run goes at once")
        return 0
    join()
    refuse_impossible(main.job)
    first = own_training(main, planned)
    chosen = {pace(one.task): one for one in ([first, *planned] if everything else [first])}
    chosen[pace(first.task)] = first
    done = {key: rehearse_one(one, seconds=seconds) for key, one in chosen.items()}
    told = forecasts(planned, done, first=pace(first.task))
    page.show_parts(done[pace(first.task)])
    page.show_forecasts(told, main=main, trials=trials, price=price)
    return 0


def own_training(main: Variant, planned: list[Training]) -> Training:
    """The first training of what the job is about; of something else where that trains nothing."""
    mine = [
        one for one in planned if one.task.job.method.name == main.job.method.name and one.task.config == main.config
    ]
    return (mine or planned)[0]


def rehearse_one(training: Training, *, seconds: float) -> Rehearsed:
    """On the workers, with a bar; the training and all that its workers found."""
    found: list[Measured] = []
    with Progress(f"rehearsing {training.title}", total=2, unit="stages") as bar:

        def receive(kind: str, **record: object) -> None:
            if kind == "measured" and isinstance(record["found"], Measured):
                found.append(record["found"])
            if kind == "stage":
                bar.advance(0 if record["what"] == "training" else 1, note=str(record["what"]))

        rehearsed(training.task, seconds=seconds, receive=receive)
        bar.to(2)
    return Rehearsed.of(training, found)
