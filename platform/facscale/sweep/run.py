"""`facscale run` of a job with a `sweep:`: search, write down the best spec, then tell the job's story with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace

import fsspec

from facscale.data import Dataset
from facscale.job.check import resolved
from facscale.job.run import run_job
from facscale.job.story import Story
from facscale.job.variants import Variant, repeated, variant
from facscale.spec import Document
from facscale.spec.sweep import Sweep
from facscale.sweep.outcome import Outcome
from facscale.sweep.page import importance, page
from facscale.sweep.search import best_of, searched
from facscale.sweep.space import chosen, refuse_impossible, refuse_unheard
from facscale.sweep.trial import Search
from facscale.sweep.watch import Watch, table
from facscale.train.trainer import adopt, finished, storage
from facscale.train.worker import urls

BEST = "best of sweep"


def run_sweep(document: Document, *, name: str) -> int:
    """Search, then run the job with its best row, to the end; the exit status. Raises SpecError before anything starts."""
    checked(document, name=name)
    return run_job(document, name=name, first=search)


def checked(document: Document, *, name: str) -> Sweep:
    """The sweep of a spec. Raises SpecError for one that cannot be."""
    row = variant(document, name=name)
    sweep = row.job.sweep
    assert sweep is not None
    refuse_impossible(document, sweep, name=name)
    labelled = any(Dataset(url).manifest.au for url in urls(row.job, "labelled"))
    refuse_unheard(row, sweep, labelled=labelled)
    return sweep


def search(story: Story) -> None:
    """Find the best trial, tell MLflow and whoever watches, and make it a row of the story."""
    main = story.main
    sweep, job = main.job.sweep, main.job
    assert sweep is not None
    story.prepare(main)
    name = f"sweep-{story.key}"
    with Watch(story, sweep) as watch:
        watch.search = Search(main.document, sweep, BEST, tuple(story.fingerprints), watch.reader.mailbox)
        outcomes = searched(watch.search, job=job, name=name, watch=watch)
    best = best_of(outcomes, sweep)
    row = variant(chosen(main.document, best.values), name=BEST)
    if not finished(row.job, name=best.place):
        adopt(row.job, name=best.place, other=best.training)
    story.baselines.insert(0, row)
    story.promoted.add(repeated(row)[0].title)
    spec = best_spec(row, best, sweep, of=main.name, trials=len(outcomes))
    written = f"{storage(job)}/{name}/best.yaml"
    with fsspec.open(written, "w") as file:
        file.write(spec)
    tell(story, outcomes, sweep, best=best, spec=spec)
    story.say(f"the best spec, ready to run: {written}")


def best_spec(row: Variant, best: Outcome, sweep: Sweep, *, of: str, trials: int) -> str:
    """The best trial's spec as a file of its own."""
    changing = "; its values changed while it trained, these are the last" if sweep.search == "pbt" else ""
    named = replace(row, job=row.job.model_copy(update={"name": f"{of}-best"}))
    return (
        "#!/usr/bin/env -S facscale run\n"
        f"# The best of {trials} trials by {sweep.objective} ({best.objective:.4g}){changing}.\n"
        f"# Found: {best.title}\n" + resolved(named)
    )


def tell(story: Story, outcomes: Sequence[Outcome], sweep: Sweep, *, best: Outcome, spec: str) -> None:
    """Table and page, to the terminal and to the job's run."""
    shares = importance(outcomes, sweep)
    story.say(table(outcomes, sweep, best=best.trial))
    if shares:
        story.say("importance: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    lines = csv_of(outcomes, sweep)
    title = f"{story.main.name}: {len(outcomes)} trials"
    whole = page(outcomes, sweep, title=title, best=best, spec=spec)
    for file, text in {"sweep.html": whole, "sweep.csv": lines, "best.yaml": spec}.items():
        story.tracker.text(text, file)
    story.tracker.metrics({f"importance/{name}": share for name, share in shares.items()})
    story.tracker.tags({"best": best.title})


def csv_of(outcomes: Sequence[Outcome], sweep: Sweep) -> str:
    """One line a trial."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", *sweep.searched, "objective", "percent", "state", "error"])
    for one in outcomes:
        objective = one.objective if one.course else ""
        writer.writerow(
            [
                one.trial,
                *(one.values.get(key, "") for key in sweep.searched),
                objective,
                one.percent,
                one.state,
                one.error,
            ]
        )
    return out.getvalue()
