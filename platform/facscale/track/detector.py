"""Detectors of AUs as MLflow models that hold no code.

    MLmodel                                MLflow's own description: signature, and facscale's loader
    data/detector/detector.safetensors     weights, and the recipe as text

`mlflow.pyfunc.load_model(uri).predict(frame)` takes a data frame with a column `path` (files of images or videos), or
`image` (the bytes of JPEG or PNG files), and gives the rows that `facscale predict` writes, wherever facscale is installed.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from facscale import __version__
from facscale.track.tracker import RunLogger

with warnings.catch_warnings():  # mlflow warns about its own type hints
    warnings.simplefilter("ignore", UserWarning)
    import mlflow.pyfunc

LOADER = "facscale.inference.pyfunc"
WEIGHTS = "detector.safetensors"
LIBRARIES = ("torch", "safetensors", "numpy", "opencv-contrib-python-headless")


def log_detector_model(
    run: RunLogger, *, weights: Path, aus: Sequence[int], intensity_aus: Sequence[int], plugin: str, name: str
) -> None:
    """Log a detector as the model `name` of a run. `plugin`: the package of its method, "" for one of facscale's own."""
    with tempfile.TemporaryDirectory() as folder:
        run.log_model(
            save_detector_model(
                Path(folder) / name, weights=weights, aus=aus, intensity_aus=intensity_aus, plugin=plugin
            ),
            name=name,
        )


def save_detector_model(
    folder: Path, *, weights: Path, aus: Sequence[int], intensity_aus: Sequence[int], plugin: str = ""
) -> Path:
    """Write a detector to `folder` in MLflow's model format."""
    inputs = Schema([ColSpec("string", "path", required=False), ColSpec("binary", "image", required=False)])
    columns: list[ColSpec | TensorSpec] = [
        ColSpec("string", "input"),
        ColSpec("long", "frame"),
        ColSpec("double", "timestamp"),
    ]
    columns += [ColSpec("long", "face"), ColSpec("double", "confidence")]
    for au in aus:
        columns += [ColSpec("double", f"AU{au:02d}"), ColSpec("long", f"AU{au:02d}_c")]
    columns += [ColSpec("double", f"AU{au:02d}_r") for au in intensity_aus]
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "detector"
        data.mkdir()
        shutil.copy2(weights, data / WEIGHTS)
        with warnings.catch_warnings():  # about types of the example, which are right
            warnings.simplefilter("ignore", UserWarning)
            mlflow.pyfunc.save_model(
                folder,
                loader_module=LOADER,
                data_path=str(data),
                signature=ModelSignature(inputs, Schema(columns)),
                input_example=pd.DataFrame({"path": ["talk.mp4"]}),
                pip_requirements=_list_requirements(plugin),
                metadata={"weights": hashlib.sha256(weights.read_bytes()).hexdigest(), "aus": list(aus)},
            )
    return folder


def _list_requirements(plugin: str) -> list[str]:
    """Pin facscale, the package of the method, and the libraries that decide digits."""
    requirements = [f"facscale=={__version__}"]
    for package in (*([plugin] if plugin else []), *LIBRARIES):
        try:
            requirements.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            requirements.append(package)
    return requirements
