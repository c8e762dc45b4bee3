"""Trained methods as a job leaves them: exported files, MLflow models, registered models."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from facscale.data import Dataset
from facscale.evaluate.protocol import LabelledDataset
from facscale.job.variants import Variant
from facscale.methods import Method
from facscale.report import figures
from facscale.track.encoder import log_encoder
from facscale.track.tracker import RunLogger
from facscale.train.online_probe import read_spread_frames

SHEET_FRAMES = 24  # in the contact sheet


def log_export(export: bytes, run: RunLogger) -> None:
    """Log a trained method as the file method.safetensors."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "method.safetensors"
        file.write_bytes(export)
        run.log_artifact(file)


def log_encoder_model(method: Method, run: RunLogger, *, image_size: int, labelled: Sequence[LabelledDataset]) -> None:
    """Log the encoder as a loadable MLflow model, and a contact sheet of the first set that it was evaluated on."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "encoder.safetensors"
        state = method.encoder.state_dict()
        save_file({f"encoder.{name}": value.contiguous() for name, value in state.items()}, weights)
        config = {"encoder": "facscale.inference.export:Exported", "options": asdict(method.recipe)}
        example = np.zeros((2, 3, image_size, image_size), np.float32)
        log_encoder(run, weights=weights, config=config, example=example)
    if labelled:
        images, _, identities = read_spread_frames(Dataset(labelled[0].url), count=SHEET_FRAMES)
        labels = list(identities[:SHEET_FRAMES])
        sheet = figures.plot_contact_sheet(images[:SHEET_FRAMES], labels=labels, title=labelled[0].name)
        run.log_figure(sheet, "contact_sheet")


def register_encoder(scores: Mapping[str, float], run: RunLogger, *, variant: Variant, tags: Mapping[str, str]) -> None:
    """Register the logged encoder as a version of its method's model; `scores`: mean F1 in [0, 1] by data set."""
    shown = ", ".join(f"{100 * f1:.1f} on {title}" for title, f1 in scores.items())
    selected = {name: tags[name] for name in ("job", "row", "cluster", "data", "git.commit")}
    about = (
        f"{variant.title}, of the job {tags['job']}: F1 x 100 is {shown}"
        if shown
        else f"{variant.title}: not evaluated"
    )
    run.register_model(variant.job.method.name, scores=scores, tags=selected, description=about)
