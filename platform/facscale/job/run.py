"""From a file to a finished job: read it, open the data, join the cluster, let its story be told."""

from __future__ import annotations

import os
from collections.abc import Callable

from facscale.cluster import join, refuse_impossible
from facscale.data import Dataset
from facscale.job.expression import expression_sets
from facscale.job.inputs import fetch
from facscale.job.labelled import Labelled, transferred
from facscale.job.story import Story
from facscale.job.variants import Variant, rows, stages
from facscale.spec import Document
from facscale.train.worker import urls

INTERRUPTED = 130  # exit status, as shells have it


def run_job(document: Document, *, name: str, first: Callable[[Story], None] | None = None) -> int:
    """Run a job to its end and return the exit status; raises SpecError or DataError before anything costly starts.

    `first`: what is to happen before the rows are trained; it may add rows.
    """
    main, *baselines = rows(document, name=str(document.data.get("name") or name))
    sets = [Labelled.open(url, evaluate=main.job.evaluate) for url in urls(main.job, "labelled")]
    unlabelled = [Dataset(url) for url in urls(main.job, "unlabelled")]
    transfer, expressions = transferred(main.job, sets=sets), expression_sets(main.job)
    for row in (main, *baselines):
        fetch_all(row)
    join()
    refuse_impossible(main.job)
    story = Story(main, baselines, sets=sets, transfer=transfer, unlabelled=unlabelled, expressions=expressions)
    try:
        if first:
            first(story)
        story.tell()
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)  # Ray makes the latter of SIGTERM: ray job stop
        story.tracker.close("KILLED" if stopped else "FAILED", wait=10)
        if isinstance(error, KeyboardInterrupt) and story.lanes.count > 1:
            os._exit(INTERRUPTED)  # its threads would go on waiting for Ray, which ends what a driver leaves behind
        raise
    if not story.tracker.close():
        story.say(f"MLflow could not be reached; later: facscale sync {story.spool}")
        return 0
    story.say(f"MLflow: {story.tracker.url}")
    if story.tracker.table_url:
        story.say(f"beside all others: {story.tracker.table_url}")
    return 0


def fetch_all(row: Variant) -> None:
    """Read every file that it and its stages are built on. Raises SpecError for one that cannot be."""
    for one in (row, *stages(row).values()):
        for source in one.job.built_on.values():
            if source.url:
                fetch(source)
