"""The face detectors: `detector: {name: dlib}` in a pipeline is the module `dlib` beside this file.

There is no list to edit. Another package adds its own through the entry-point group `facscale.detectors` (the value is
its Detector class), and a pipeline can name no other code. Each detector owns its options (`Config`).
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Any

from facscale.ingest.detectors.base import LANDMARKS, Box, Detector, DetectorConfig
from facscale.spec import Document, Pipeline, SpecError, nearest, parse

__all__ = ["LANDMARKS", "Box", "Detector", "DetectorConfig", "configure", "find", "names", "options"]

GROUP = "facscale.detectors"
CONTRACT = "base"


def names() -> tuple[str, ...]:
    """All detectors that a pipeline can name here."""
    ours = {module.name for module in pkgutil.iter_modules(__path__)} - {CONTRACT}
    return tuple(sorted(ours | {point.name for point in entry_points(group=GROUP)}))


def find(name: str) -> type[Detector]:
    """The class of the detector `name`; ours go before those of other packages. Raises SpecError."""
    if name not in names():
        raise SpecError(f'there is no detector "{name}"{nearest(name, names())}')
    if name != CONTRACT and any(module.name == name for module in pkgutil.iter_modules(__path__)):
        try:
            module = importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            raise SpecError(f'the detector "{name}" needs {error.name}, which is not installed') from error
        (found,) = [item for item in vars(module).values() if _is_detector(item) and item.__module__ == module.__name__]
        return found
    (point, *_) = entry_points(group=GROUP, name=name)
    detector = point.load()
    if not _is_detector(detector):
        raise SpecError(
            f'the entry point "{name}" of {point.dist and point.dist.name} is no facscale Detector: {detector!r}'
        )
    return detector


def configure(document: Document) -> Pipeline:
    """A whole pipeline, its detector's options checked too. Raises SpecError with file, line and key."""
    pipeline = parse(document, Pipeline)
    try:
        detector = find(pipeline.detector.name)
    except SpecError as error:
        raise SpecError(f"{document.origin(('detector', 'name'))}: {error}") from None
    own = {key: value for key, value in (document.at(("detector",)) or {}).items() if key != "name"}
    parse(Document({**document.data, "detector": own}, document.origins), detector.Config, ("detector",))
    return pipeline


def options(pipeline: Pipeline) -> Any:
    """The detector's Config with all defaults filled in. Raises SpecError."""
    own = pipeline.detector.model_extra or {}
    detector = find(pipeline.detector.name)
    return parse(Document({"detector": own}, {}), detector.Config, ("detector",)) if own else detector.Config()


def _is_detector(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, Detector) and item is not Detector
