"""The face detectors: `detector: {name: dlib}` in a pipeline is the module `dlib` in this package.

There is no list to edit. Another package adds a detector through the entry-point group `facscale.detectors` (the value
is its Detector class); a pipeline can name no other code. Each detector defines its own options (`Config`).
"""

from __future__ import annotations

from typing import Any

from facscale.ingest import layouts
from facscale.ingest.detectors.base import LANDMARKS, Box, Detector, DetectorConfig
from facscale.spec import Document, Pipeline, Plugins, parse

__all__ = ["LANDMARKS", "Box", "Detector", "DetectorConfig", "configure", "find", "list_names", "parse_options"]

_detectors: Plugins[Any] = Plugins(
    "detector", Detector, __name__, excluded=frozenset({"base"}), group="facscale.detectors"
)
list_names, find = _detectors.names, _detectors.find


def configure(document: Document) -> Pipeline:
    """Parse a pipeline and check the options of its layout and detector. Raises SpecError with file, line and key."""
    pipeline = parse(document, Pipeline)
    layouts.check_source(document)
    block = {"name": pipeline.detector.name, **(document.get(("detector",)) or {})}
    _detectors.configure(Document({"detector": block}, document.locations))
    return pipeline


def parse_options(pipeline: Pipeline) -> Any:
    """Return the detector's Config with all defaults filled in. Raises SpecError."""
    options = pipeline.detector.model_extra or {}
    detector = find(pipeline.detector.name)
    if not options:
        return detector.Config()
    return parse(Document({"detector": options}, {}), detector.Config, ("detector",))
