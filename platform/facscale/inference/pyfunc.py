"""Detectors as MLflow loads them: `mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict(data_frame)`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facscale.inference.api import AUDetector
from facscale.inference.detector import DetectorError
from facscale.inference.sources import load_detector
from facscale.ingest.frames import decode_image


class DetectorModel:
    """The interface that MLflow calls. `facscale.load` of the same model has the rest."""

    def __init__(self, detector: AUDetector) -> None:
        self.detector = detector

    def predict(self, model_input: Any) -> pd.DataFrame:
        """Predict rows as in `facscale predict`, of all inputs one after the other.

        model_input: a data frame with a column `path` (images, videos) or `image` (bytes of JPEG or PNG files); paths or
        arrays [H, W, 3] in a list; or images [N, H, W, 3]. Raises DetectorError.
        """
        tables = [self.detector.predict(item) for item in _list_inputs(model_input)]
        if not tables:
            raise DetectorError("there is no input: give paths of images or videos, or images")
        return pd.concat(tables, ignore_index=True)


def _list_inputs(model_input: Any) -> Iterable[Any]:
    if isinstance(model_input, pd.DataFrame):
        if not {"path", "image"} & set(model_input.columns):
            raise DetectorError(f"the data frame has {list(model_input.columns)}; it needs a column path or image")
        for row in model_input.to_dict("records"):
            path, image = row.get("path"), row.get("image")
            if isinstance(path, str) and path:
                yield path
            elif isinstance(image, bytes | bytearray):
                yield _decode(bytes(image))
            else:
                raise DetectorError("a row of the data frame has neither a path nor an image")
        return
    if isinstance(model_input, str | bytes | Path) or (isinstance(model_input, np.ndarray) and model_input.ndim < 4):
        model_input = [model_input]
    for item in model_input:
        yield _decode(item) if isinstance(item, bytes) else item


def _decode(content: bytes) -> np.ndarray:
    try:
        return decode_image(content)
    except ValueError as error:
        raise DetectorError(f"an image cannot be read: {error}; give the bytes of a JPEG or PNG file") from None


def _load_pyfunc(data_path: str) -> DetectorModel:
    """Load the model; MLflow looks for a function of this name in a loader module."""
    return DetectorModel(AUDetector(load_detector(data_path)))
