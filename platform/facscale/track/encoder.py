"""Encoders as MLflow models that hold no code: weights as safetensors, and a config that names the class to build.

    MLmodel                             MLflow's own description: signature, and this module as the loader
    data/encoder/weights.safetensors
    data/encoder/config.json            {"encoder": "facscale.nn.resnet:ResNet", "options": {...}, and further keys}

`mlflow.pyfunc.load_model(uri).predict(images)` maps float32 images [N, 3, S, S] in [0, 1] to features [N, D], wherever
facscale is installed; `unwrap_python_model` and `load_encoder` give the torch module.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from facscale.track.tracker import RunLogger

with warnings.catch_warnings():  # mlflow warns about its own type hints
    warnings.simplefilter("ignore", UserWarning)
    import mlflow.pyfunc

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
ALLOWED_CLASSES = re.compile(r"facscale\.(inference\.export:Exported|nn\.\w+:\w+)")
MOVED_CLASSES = {"facscale.methods.export:Exported": "facscale.inference.export:Exported"}  # old names in stored models


class EncoderError(Exception):
    """No encoder can be built from a model's files. The message names the file and the reason."""


def log_encoder(
    run: RunLogger, *, weights: Path, config: Mapping[str, Any], example: np.ndarray, name: str = "encoder"
) -> None:
    """Log an encoder as a model of a run.

    weights: safetensors of its state_dict; config: see above; example: images [N, 3, S, S] float32 in [0, 1], which it
    must encode before it is logged. Raises EncoderError if it cannot be built from config and weights alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        run.log_model(save_encoder(Path(folder) / name, weights=weights, config=config, example=example), name=name)


def save_encoder(folder: Path, *, weights: Path, config: Mapping[str, Any], example: np.ndarray) -> Path:
    """Write an encoder to `folder` in MLflow's model format. Arguments and errors are those of `log_encoder`."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "encoder"
        data.mkdir()
        shutil.copy2(weights, data / WEIGHTS)
        (data / CONFIG).write_text(json.dumps(dict(config), indent=1, sort_keys=True))
        features = _load_pyfunc(str(data)).predict(example.astype(np.float32))
        images = TensorSpec(np.dtype("float32"), (-1, *example.shape[1:]))
        signature = ModelSignature(Schema([images]), Schema([TensorSpec(np.dtype("float32"), (-1, features.shape[1]))]))
        with warnings.catch_warnings():  # about a missing input example, which for images would be megabytes of JSON
            warnings.simplefilter("ignore", UserWarning)
            mlflow.pyfunc.save_model(
                folder,
                loader_module=__name__,
                data_path=str(data),
                signature=signature,
                pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "safetensors", "numpy")],
                metadata={"encoder": config["encoder"], "weights": _compute_digest(weights)},
            )
    return folder


def load_encoder(folder: Path) -> nn.Module:
    """Build the encoder of a folder with weights.safetensors and config.json, in eval mode. Raises EncoderError."""
    config = json.loads((folder / CONFIG).read_text())
    name = MOVED_CLASSES.get(str(config.get("encoder")), str(config.get("encoder")))
    if not ALLOWED_CLASSES.fullmatch(name):  # importing a module runs its code
        raise EncoderError(
            f"{folder / CONFIG} names {name} as its encoder; only facscale's own can be built: "
            f"{ALLOWED_CLASSES.pattern}"
        )
    module, _, attribute = name.partition(":")
    try:
        encoder_class = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise EncoderError(f"{folder / CONFIG}: cannot find the encoder {name}: {error}") from None
    if not (isinstance(encoder_class, type) and issubclass(encoder_class, nn.Module)):
        raise EncoderError(f"{folder / CONFIG}: {name} is not a torch.nn.Module")
    try:
        encoder = encoder_class(**config.get("options", {}))
    except (TypeError, ValueError) as error:  # pydantic's is a ValueError
        raise EncoderError(
            f"{folder / CONFIG}: {name} does not accept these options: {str(error).splitlines()[0]}"
        ) from None
    try:
        encoder.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        raise EncoderError(f"{folder / WEIGHTS} does not fit {name}: {error}") from None
    return encoder.eval()


class FeaturePredictor:
    """The interface that MLflow calls: images [N, 3, S, S] float32 -> features [N, D] float32."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Compute features, 256 images at a time."""
        with torch.no_grad():
            parts = torch.split(torch.from_numpy(np.ascontiguousarray(images, np.float32)), 256)
            return torch.cat([self.encoder(part).float() for part in parts]).numpy()


def _load_pyfunc(data_path: str) -> FeaturePredictor:
    """Load the model; MLflow looks for a function of this name in a loader module."""
    return FeaturePredictor(load_encoder(Path(data_path)))


def _compute_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
