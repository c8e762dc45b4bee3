"""The face detectors: `detector: {name: dlib}` in a pipeline is the module `dlib` beside this file.

There is no list to edit. Another package adds its own through the entry-point group `facscale.detectors` (the value is
its Detector class), and a pipeline can name no other code. Each detector owns its options (`Config`).
"""

from __future__ import annotations

from typing import Any

from facscale.ingest.detectors.base import LANDMARKS, Box, Detector, DetectorConfig
from facscale.spec import Document, Pipeline, Plugins, parse

__all__ = ["LANDMARKS", "Box", "Detector", "DetectorConfig", "configure", "find", "names", "options"]

_detectors: Plugins[Any] = Plugins(
    "detector", Detector, __name__, contract=frozenset({"base"}), group="facscale.detectors"
)
names, find = _detectors.names, _detectors.find


def configure(document: Document) -> Pipeline:
    """A whole pipeline, its detector's options checked too. Raises SpecError with file, line and key."""
    pipeline = parse(document, Pipeline)
    block = {"name": pipeline.detector.name, **(document.at(("detector",)) or {})}
    _detectors.configure(Document({"detector": block}, document.origins))
    return pipeline


def options(pipeline: Pipeline) -> Any:
    """The detector's Config with all defaults filled in. Raises SpecError."""
    own = pipeline.detector.model_extra or {}
    detector = find(pipeline.detector.name)
    return parse(Document({"detector": own}, {}), detector.Config, ("detector",)) if own else detector.Config()
