"""Where a network looks when it tells an action unit: Grad-CAM (Selvaraju et al., ICCV 2017), for whatever has maps.

    w_c = mean over places of dy / dA_c        map = relu(sum over c of w_c A_c)

y is the logit of one AU, A_c channel c of the last maps that the network makes of the whole face.
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

FEWEST = 4  # places along a side: of fewer, a map tells hardly more than a half of the face
CHANCE = 0.5  # probability from which an AU is told to be there


class Attention(NamedTuple):
    """Of B faces and n AUs."""

    images: np.ndarray  # [B, S, S, 3] in [0, 1]
    logits: np.ndarray  # [B, n]
    maps: np.ndarray  # [B, n, S, S] in [0, 1]; 0 everywhere where nothing speaks for an AU


def attention(model: nn.Module, batch: Batch) -> Attention:
    """Of each face of a batch of augmented images; `model`: a batch -> logits [B, n].

    Raises ValueError for a model without maps of whole faces. It is left in evaluation mode, and with no gradients.
    """
    faces = next(iter(batch.values()))
    images = faces.images[:, faces.images.shape[1] // 2, 0]  # of neighbouring frames the middle one is judged
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, made: object) -> None:
        if isinstance(made, Tensor) and made.requires_grad and of_whole_faces(made, count=len(images)):
            kept.append(made)

    model.eval().requires_grad_(requires_grad=True)
    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        with torch.enable_grad():
            logits = model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not kept:
        raise ValueError(f"{type(model).__name__} makes no maps of whole faces")
    found = [_map(logit, kept[-1], side=images.shape[-1]) for logit in logits.unbind(1)]
    shown = images.permute(0, 2, 3, 1).detach().cpu().numpy()
    return Attention(shown, logits.detach().cpu().numpy(), torch.stack(found, 1).cpu().numpy())


def of_whole_faces(made: Tensor, *, count: int) -> bool:
    """Whether it is [count, C, H, W], and there are places to tell apart."""
    return made.ndim == 4 and len(made) == count and min(made.shape[2:]) >= FEWEST


def _map(logit: Tensor, maps: Tensor, *, side: int) -> Tensor:
    """Grad-CAM [B, side, side] of one AU's logits [B], each face's own largest value as 1."""
    (gradient,) = torch.autograd.grad(logit.sum(), maps, retain_graph=True)
    raw = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu().detach()
    large = interpolate(raw.float(), size=(side, side), mode="bilinear", align_corners=False)[:, 0]
    highest = large.amax((1, 2), keepdim=True)
    return torch.where(highest > 0, large / highest.clamp(min=1e-12), 0.0)


def attention_sheet(found: Attention, *, au: np.ndarray, aus: tuple[int, ...], title: str) -> Figure:
    """A face a row, an AU a column; au [B, n]: 1, 0, -1. A blue title of a cell: told rightly; orange: wrongly."""
    rows, columns = len(found.images), 1 + len(aus)
    figure = Figure(figsize=(1.25 * columns, 1.45 * rows + 0.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    told = 1 / (1 + np.exp(-found.logits))
    for row, image in enumerate(found.images):
        for column in range(columns):
            axes = figure.add_subplot(rows, columns, row * columns + column + 1)
            axes.imshow(image)
            axes.set_axis_off()
            if column:
                label, chance = au[row, column - 1], told[row, column - 1]
                axes.imshow(found.maps[row, column - 1], cmap="jet", alpha=0.4, vmin=0, vmax=1)
                axes.set_title(_verdict(aus[column - 1], label, chance), fontsize=7, color=_colour(label, chance))
    return figure


def _verdict(au: int, label: int, chance: float) -> str:
    there = {1: "there", 0: "not there", -1: "not labelled"}[int(label)]
    return f"AU{au} {there}: {chance:.2f}"


def _colour(label: int, chance: float) -> str:
    if label < 0:
        return INK
    return COLOURS[0] if (chance >= CHANCE) == bool(label) else COLOURS[4]
