"""Trained networks as models of frames, and the samples that they read: in evaluation, and in detectors of AUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facscale.data.views import Batch, Faces, RandomFrames, View
from facscale.methods import Method
from facscale.nn.heads import LinearProbe


class FrameModel(nn.Module):
    """A model of single frames or of frames with neighbours: a batch with `views` -> features [B, dim]."""

    dim: int
    views: Mapping[str, View]  # of a sample that starts at the frame


class FrameEncoder(FrameModel):
    """An encoder of images [N, 3, S, S] in [0, 1] -> [N, dim], applied to each frame alone."""

    def __init__(self, encoder: Any) -> None:
        """`encoder`: a module with the attribute `dim`."""
        super().__init__()
        self.encoder, self.dim = encoder, encoder.dim
        self.views = {"face": RandomFrames(source="labelled")}

    def forward(self, batch: Batch) -> Tensor:
        """[B, dim]."""
        features: Tensor = self.encoder(batch.face.images[:, 0, 0])
        return features


class SupervisedModel(FrameModel):
    """A method that has learned AUs itself: the samples that it is tested on -> AU logits."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.views = method.eval_views(method.config)
        self.dim = len(method.facts.aus)

    def forward(self, batch: Batch) -> Tensor:
        """AU logits [B, n]."""
        return self.method.predict(batch)


class IntensityModel(SupervisedModel):
    """A method that has learned intensities itself: the samples that it is tested on -> intensities, 0 to 5."""

    def forward(self, batch: Batch) -> Tensor:
        """Intensities [B, n]."""
        return self.method.predict_intensities(batch)


class ProbedEncoder(FrameModel):
    """A frozen encoder with a linear probe on it: a face -> AU logits."""

    def __init__(self, encoder: nn.Module, probe: LinearProbe) -> None:
        super().__init__()
        self.face, self.probe = FrameEncoder(encoder), probe
        self.views, self.dim = self.face.views, len(probe[1].weight)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> Tensor:
        """AU logits [B, n]."""
        logits: Tensor = self.probe(self.face(batch))
        return logits


def stack_samples(
    views: Mapping[str, View],
    view_rows: Mapping[str, np.ndarray],
    *,
    images: Mapping[int, np.ndarray],
    columns: Mapping[str, np.ndarray],
    parameters: Tensor,
) -> Batch:
    """Stack stored faces to the samples of a model, to be augmented by `parameters` [P].

    view_rows: row numbers [B, F] by view; images: uint8 [H, W, 3] by row; columns: stored columns, indexed by row.
    """
    batch = Batch()
    for name, rows in view_rows.items():
        samples = np.stack([np.stack([images[row] for row in sample]) for sample in rows.tolist()])
        batch[name] = Faces(
            images=torch.from_numpy(samples),
            identity=torch.zeros(len(rows), dtype=torch.int64),
            augmentation=parameters.expand(*rows.shape, 1, -1),
            columns={column: torch.from_numpy(columns[column][rows]) for column in views[name].columns},
            is_aligned=views[name].is_aligned,
        )
    return batch
