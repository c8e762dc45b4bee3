"""Turns raw videos or images into data sets of aligned faces, on Ray Data.

    pipeline = ingest.configure(spec.read_spec("pipelines/videos.yaml"))
    report = ingest.run(pipeline)

To add a layout or a detector, add a module to `layouts/` or `detectors/`, or an entry point to another package.
"""

from facscale.ingest.contact_sheet import draw_contact_sheet
from facscale.ingest.detectors import configure
from facscale.ingest.pipeline import run
from facscale.ingest.report import IngestReport
from facscale.ingest.trial import estimate_pipeline

__all__ = ["IngestReport", "configure", "draw_contact_sheet", "estimate_pipeline", "run"]
