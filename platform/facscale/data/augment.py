"""Random changes to images, drawn as a few numbers an image (cheap, on the CPU) and applied in one pass on any device.

Every image has P parameters, in the order of `PARAMETERS`:

    rotation      degrees, counter-clockwise about the stored image's centre
    flip          1: mirrored left-right, 0: not
    brightness    factor of all colours
    contrast      factor of the distance to the image's mean grey
    saturation    factor of the distance to the pixel's own grey
    hue           turns of the chroma plane (YIQ), grey stays grey
    crop side     side of the crop as a share of the stored side
    crop x, y     share of the room that is left free lying left of / above the crop; 0.5: the middle

The stored image is rotated, cropped, resized, mirrored, then coloured, in this order; what lies outside is filled by
reflection, so that there are no black corners. Colours leave [0, 1] only inside, they are clamped once at the end.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facscale.data.views import Batch, Faces
from facscale.spec import models

PARAMETERS = (
    "rotation", "flip", "brightness", "contrast", "saturation", "hue", "crop side", "crop x", "crop y"
)  # fmt: skip
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
YIQ = np.array([GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
# Bilinear sampling looks at 2 x 2 pixels, so an image that shrinks more than about twofold is averaged first.
SHRINK_BEFORE = 0.8
# Few enough on the CPU that memory is used again rather than mapped anew; bounded elsewhere to bound the peak.
IMAGES_AT_ONCE = {"cpu": 16}


def draw(spec: models.Augment, *, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Parameters [*shape, P] float32 of independently augmented images."""
    return scale(spec, random.random((*shape, len(PARAMETERS))))


def scale(spec: models.Augment, unit: np.ndarray) -> np.ndarray:
    """Parameters [..., P] float32 from uniform numbers [..., P] in [0, 1)."""
    spread = 2 * unit - 1
    low, high = spec.crop
    columns = (
        spec.rotation * spread[..., 0],
        unit[..., 1] < spec.flip,
        *(np.maximum(0, 1 + strength * spread[..., 2 + place]) for place, strength in enumerate(_jitter(spec))),
        spec.hue * spread[..., 5],
        low + (high - low) * unit[..., 6],
        unit[..., 7],
        unit[..., 8],
    )
    return np.stack(columns, axis=-1).astype(np.float32)


def still(spec: models.Augment) -> np.ndarray:
    """Parameters [P] of evaluation: the centre crop with the mean crop side, and nothing else."""
    return np.array([0, 0, 1, 1, 1, 0, sum(spec.crop) / 2, 0.5, 0.5], dtype=np.float32)


def apply(images: Tensor, parameters: Tensor, *, size: int) -> Tensor:
    """uint8 images [B, F, H, W, 3] and parameters [B, F, V, P] to float32 [B, F, V, 3, size, size] in [0, 1].

    Also images [N, H, W, 3] with parameters [N, V, P] or [N, P], to [N, V, 3, size, size] or [N, 3, size, size].
    """
    changes = parameters.reshape(images.shape[:-3].numel(), -1, len(PARAMETERS))  # [N, V, P]
    flat = images.reshape(-1, *images.shape[-3:])
    result = torch.empty((*changes.shape[:2], 3, size, size), device=images.device)
    step = IMAGES_AT_ONCE.get(images.device.type, 256)
    for first in range(0, len(flat), step):
        part = slice(first, first + step)
        _apply(flat[part], changes[part], result[part])
    return result.view(*parameters.shape[:-1], 3, size, size)


def _apply(images: Tensor, changes: Tensor, into: Tensor) -> None:
    """As `apply`: images [N, H, W, 3], changes [N, V, P], into [N, V, 3, S, S]."""
    count, views, _, size, _ = into.shape
    pixels = _shrunk(images, size=size)
    grid = functional.affine_grid(_affine(changes.flatten(0, 1)), [count * views, 3, size, size], align_corners=False)
    # The copies of one image lie below one another in one tall grid: the image itself is never repeated.
    tall = grid.view(count, views * size, size, 2)
    taken = functional.grid_sample(pixels, tall, padding_mode="reflection", align_corners=False)
    taken = taken.view(count, 3, views, size * size).transpose(1, 2)
    matrix, shift = _colour(changes, mean=pixels.mean((2, 3))[:, None])
    torch.add(matrix @ taken, shift, out=into.view(count, views, 3, -1)).clamp_(0, 1)


class Augmenter:
    """Turns a decoded batch into the network's input, on whatever device the batch lies."""

    def __init__(self, *, size: int) -> None:
        """`size`: side of the network's input in pixels."""
        self.size = size

    def __call__(self, batch: Batch) -> Batch:
        """A batch with images [B, F, V, 3, size, size] float32 in [0, 1]; everything else as it was."""
        return Batch({name: self._view(faces) for name, faces in batch.items()})

    def _view(self, faces: Faces) -> Faces:
        return replace(faces, images=apply(faces.images, faces.augmentation, size=self.size))


def _jitter(spec: models.Augment) -> tuple[float, float, float]:
    return spec.brightness, spec.contrast, spec.saturation


def _shrunk(images: Tensor, *, size: int) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, h, w] in [0, 1], averaged over about k x k pixels where it will shrink much."""
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    factor = int(SHRINK_BEFORE * pixels.shape[-1] / size)
    if factor <= 1:
        return pixels
    side = pixels.shape[-1] // factor  # areas of a fractional number of pixels: nothing is cut off at the far edges
    return functional.interpolate(pixels, size=(side, side), mode="area")


def _affine(parameters: Tensor) -> Tensor:
    """Where each output point is taken from: matrices [N, 2, 3] in [-1, 1] coordinates (y down) from [N, P]."""
    rotation, flip, _, _, _, _, side, x, y = parameters.unbind(-1)
    cos, sin = torch.cos(torch.deg2rad(rotation)), torch.sin(torch.deg2rad(rotation))
    mirrored = side * (1 - 2 * flip)
    centre_x, centre_y = (1 - side) * (2 * x - 1), (1 - side) * (2 * y - 1)
    rows = (
        torch.stack([cos * mirrored, -sin * side, cos * centre_x - sin * centre_y], dim=-1),
        torch.stack([sin * mirrored, cos * side, sin * centre_x + cos * centre_y], dim=-1),
    )
    return torch.stack(rows, dim=1)


def _colour(parameters: Tensor, *, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Brightness, contrast, saturation, hue as matrices [..., 3, 3] and shifts [..., 1, 1], from parameters [..., P].

    All four are affine in the colour, so together they are x -> b c H S x + (1 - c) b grey(mean), for S and H leave
    grey alone. `mean` [..., 3] is the stored image's mean colour.
    """
    brightness, contrast, saturation, hue = (column[..., None, None] for column in parameters[..., 2:6].unbind(-1))
    grey, luma, chroma, quarter = _colour_constants(parameters.device)
    saturate = saturation * torch.eye(3, device=parameters.device) + (1 - saturation) * grey
    turn = luma + torch.cos(2 * torch.pi * hue) * chroma + torch.sin(2 * torch.pi * hue) * quarter
    shift = (1 - contrast) * brightness * (mean @ grey[0])[..., None, None]
    return brightness * contrast * (turn @ saturate), shift


@lru_cache
def _colour_constants(device: torch.device) -> Tensor:
    """Four matrices [4, 3, 3] on RGB: to grey; keep luma alone; keep chroma alone; chroma turned by a quarter.

    Kept on the device: copying them there for each batch would make the host wait.
    """
    back = np.linalg.inv(YIQ)
    luma, chroma, quarter = np.diag([1, 0, 0]), np.diag([0, 1, 1]), np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]])
    turns = [back @ part @ YIQ for part in (luma, chroma, quarter)]
    return torch.tensor(np.stack([np.tile(GREY, (3, 1)), *turns]), dtype=torch.float32, device=device)
