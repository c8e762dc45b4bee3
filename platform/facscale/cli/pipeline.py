"""`facscale run pipelines/….yaml`."""

from __future__ import annotations

from facscale import ingest
from facscale.cluster import join
from facscale.spec import Document


def run_pipeline(document: Document, *, name: str) -> None:
    """Make a data set and say what became of every video."""
    pipeline = ingest.configure(document)
    join()
    report = ingest.run(pipeline if pipeline.name else pipeline.model_copy(update={"name": name}))
    print(report)
