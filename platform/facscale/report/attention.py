"""Where a network looks when it predicts an action unit: Grad-CAM (Selvaraju et al., ICCV 2017) of any model with feature maps.

    w_c = mean over positions of dy / dA_c        map = relu(sum over c of w_c A_c)

y is the logit of one AU, A_c channel c of the last feature maps that the network computes of the whole face.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facscale.data.views import Batch
from facscale.report.figures import COLOURS, INK

MIN_MAP_SIDE = 4  # smaller maps cannot localise more than half a face
THRESHOLD = 0.5  # probability from which an AU counts as predicted


class AttentionMaps(NamedTuple):
    """Grad-CAM of B faces and n AUs."""

    images: np.ndarray  # [B, S, S, 3] in [0, 1]
    logits: np.ndarray  # [B, n]
    maps: np.ndarray  # [B, n, S, S] in [0, 1]; 0 everywhere where nothing raises the logit of an AU


def compute_attention(model: nn.Module, batch: Batch) -> AttentionMaps:
    """Grad-CAM of each face in a batch of augmented images; `model` maps a batch to logits [B, n].

    Leaves the model in evaluation mode and without gradients. Raises ValueError for a model without maps of whole faces.
    """
    faces = next(iter(batch.values()))
    images = faces.images[:, faces.images.shape[1] // 2, 0]  # of neighbouring frames the middle one is predicted
    face_maps: list[Tensor] = []

    def collect(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad and is_face_map(output, count=len(images)):
            face_maps.append(output)

    model.eval().requires_grad_(requires_grad=True)
    hooks = [module.register_forward_hook(collect) for module in model.modules()]
    try:
        with torch.enable_grad():
            logits = model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not face_maps:
        raise ValueError(f"{type(model).__name__} makes no maps of whole faces")
    maps = [_compute_map(logit, face_maps[-1], side=images.shape[-1]) for logit in logits.unbind(1)]
    return AttentionMaps(
        images=images.permute(0, 2, 3, 1).detach().cpu().numpy(),
        logits=logits.detach().cpu().numpy(),
        maps=torch.stack(maps, 1).cpu().numpy(),
    )


def is_face_map(output: Tensor, *, count: int) -> bool:
    """Whether a layer's output is [count, C, H, W], with enough positions to localise something."""
    return output.ndim == 4 and len(output) == count and min(output.shape[2:]) >= MIN_MAP_SIDE


def _compute_map(logit: Tensor, maps: Tensor, *, side: int) -> Tensor:
    """Grad-CAM [B, side, side] of one AU's logits [B]; the largest value of each face is 1."""
    (gradient,) = torch.autograd.grad(logit.sum(), maps, retain_graph=True)
    raw = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().detach()
    large = interpolate(raw.float(), size=(side, side), mode="bilinear", align_corners=False)[:, 0]
    highest = large.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, large / highest.clamp(min=1e-12), 0.0)


def plot_attention(attention: AttentionMaps, *, au: np.ndarray, aus: tuple[int, ...], title: str) -> Figure:
    """One row per face, one column per AU; au [B, n]: 1, 0, -1. The title of a correct prediction is blue, of a wrong one orange."""
    rows, columns = len(attention.images), 1 + len(aus)
    figure = Figure(figsize=(1.25 * columns, 1.45 * rows + 0.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    probability = 1 / (1 + np.exp(-attention.logits))
    for row, image in enumerate(attention.images):
        for column in range(columns):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            axes.imshow(image)
            axes.set_axis_off()
            if column:
                label, p = au[row, column - 1], probability[row, column - 1]
                axes.imshow(attention.maps[row, column - 1], cmap="jet", alpha=0.4, vmin=0, vmax=1)
                axes.set_title(_format_title(aus[column - 1], label, p), fontsize=7, color=_pick_title_colour(label, p))
    return figure


def _format_title(au: int, label: int, probability: float) -> str:
    state = {1: "there", 0: "not there", -1: "not labelled"}[int(label)]
    return f"AU{au} {state}: {probability:.2f}"


def _pick_title_colour(label: int, probability: float) -> str:
    if label < 0:
        return INK
    return COLOURS[0] if (probability >= THRESHOLD) == bool(label) else COLOURS[4]
