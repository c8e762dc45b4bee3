"""facscale: train, sweep and compare facial action unit representations on a cluster."""

import importlib
import os
from typing import Any

__version__ = "0.1.0"


def load(source: str | os.PathLike[str], *, tracker: str = "", device: str = "") -> Any:
    """Load a detector of action units: an `inference.api.AUDetector`, with `predict(path or images)` and `stream(frames)`.

    source: a file or folder (a path or URL), models:/NAME@ALIAS, models:/NAME/VERSION, or a run of MLflow. tracker:
    MLflow's URI, else MLFLOW_TRACKING_URI. device: "cuda", "cpu", ...; "": a GPU where there is one. Raises a UserError.

        facscale.load("models:/facscale-BP4D-clp@latest").predict("talk.mp4")  # a pandas data frame
    """
    module = importlib.import_module("facscale.inference.api")  # torch and OpenCV are loaded here, not with facscale
    return module.AUDetector.load(source, tracker=tracker, device=device)
