"""Ingest: raw videos or images to data sets of aligned faces, on Ray Data.

    pipeline = ingest.configure(spec.read("pipelines/videos.yaml"))
    report = ingest.run(pipeline)

A new layout is a module in `layouts/`, a new detector a module in `detectors/` or an entry point of another package.
"""

from facscale.ingest.detectors import configure
from facscale.ingest.pipeline import run
from facscale.ingest.report import Report
from facscale.ingest.sheet import contact_sheet

__all__ = ["Report", "configure", "contact_sheet", "run"]
