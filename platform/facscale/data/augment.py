"""Random changes to images, drawn as a few numbers an image (cheap, on the CPU) and applied in one pass on any device.

Every image has P parameters, in the order of `PARAMETERS`:

    rotation      degrees, counter-clockwise about the stored image's centre
    flip          1: mirrored left-right, 0: not
    brightness    factor of all colours
    contrast      factor of the distance to the image's mean grey
    saturation    factor of the distance to the pixel's own grey
    hue           turns of the chroma plane (YIQ), grey stays grey
    crop width, crop height     sides of the crop as shares of the stored side
    crop x, y     share of the room that is left free lying left of / above the crop; 0.5: the middle
    blur          standard deviation of a Gaussian as a share of the network's side; 0: none
    quality       of JPEG compression, a whole number; 0: none
    holes         number of black squares
    hole x, hole y, hole side       where in [0, 1] the sequence of their places and sides begins

The stored image is rotated, cropped, resized, mirrored, then coloured, blurred, compressed and punched, in this order
(the last three: `degrade`); what lies outside is filled by reflection, so that there are no black corners. Colours leave
[0, 1] only inside, they are clamped before the blur.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facscale.data import degrade
from facscale.data.degrade import BLUR, GREY, HOLES, QUALITY
from facscale.data.views import Batch, Faces
from facscale.spec import models

PARAMETERS = (
    "rotation", "flip", "brightness", "contrast", "saturation", "hue", "crop width", "crop height", "crop x", "crop y",
    "blur", "quality", "holes", "hole x", "hole y", "hole side",
)  # fmt: skip
# Random numbers of an image, in two lots: where the second came later, what the first decides stayed as it was.
DRAWS = (14, 7)
WHOLE_FACE = 0.875  # side of the centre crop that is usual after training on small random ones
FLOW_STEP, FLOW_UNKNOWN = 1 / 8, -128  # pixels of the stored crop; where no later frame was
YIQ = np.array([GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
# Bilinear sampling looks at 2 x 2 pixels, so an image that shrinks more than about twofold is averaged first.
SHRINK_BEFORE = 0.8
# Few enough on the CPU that memory is used again rather than mapped anew; bounded elsewhere to bound the peak.
IMAGES_AT_ONCE = {"cpu": 16}


def draw(spec: models.Augment, *, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Parameters [*shape, P] float32 of independently augmented images."""
    return scale(spec, np.concatenate([random.random((*shape, lot)) for lot in DRAWS], axis=-1))


def scale(spec: models.Augment, unit: np.ndarray) -> np.ndarray:
    """Parameters [..., P] float32 from uniform numbers [..., sum(DRAWS)] in [0, 1)."""
    first, second = np.split(np.moveaxis(unit, -1, 0), DRAWS[:1])
    rotation, flip, brightness, contrast, saturation, hue, side, x, y, aspect, jitter, grey, blur, sigma = first
    compression, quality, holes, number, *hole = second
    jittered, low, high = jitter < spec.jitter, *spec.crop
    strengths = ((brightness, spec.brightness), (contrast, spec.contrast), (saturation, spec.saturation))
    colours = [np.where(jittered, np.maximum(0, 1 + most * (2 * drawn - 1)), 1) for drawn, most in strengths]
    colours[2] = np.where(grey < spec.grey, 0, colours[2])
    shape = spec.aspect ** (aspect - 0.5)  # the square root of width / height
    side = low + (high - low) * side
    columns = (
        spec.rotation * (2 * rotation - 1),
        flip < spec.flip,
        *colours,
        np.where(jittered, spec.hue * (2 * hue - 1), 0),
        np.minimum(1, side * shape),
        np.minimum(1, side / shape),
        x,
        y,
        np.where(blur < spec.blur, BLUR[0] + (BLUR[1] - BLUR[0]) * sigma, 0),
        np.where(compression < spec.compression, _whole(quality, *QUALITY), 0),
        np.where(holes < spec.holes, _whole(number, *HOLES), 0),
        *hole,
    )
    return np.stack(columns, axis=-1).astype(np.float32)


def still(spec: models.Augment) -> np.ndarray:
    """Parameters [P] of evaluation: a centre crop as large as training's mean, but with the whole face; nothing else."""
    side = max(WHOLE_FACE, sum(spec.crop) / 2)
    return np.array([0, 0, 1, 1, 1, 0, side, side, 0.5, 0.5, *[0] * 6], dtype=np.float32)


def plain(spec: models.Augment) -> models.Augment:
    """For a stream of evaluation: crops as large as `still`'s, anywhere; nothing else changes."""
    side = float(still(spec)[6])
    return models.Augment(rotation=0, flip=0, brightness=0, contrast=0, saturation=0, crop=(side, side))


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


def landmarks(points: Tensor, parameters: Tensor, *, stored: int, size: int) -> Tensor:
    """Where landmarks come to lie: 68 of them [..., 136] in pixels of the stored crop -> [..., V, 68, 2] of the network's input.

    parameters [..., V, P]; `stored` and `size` are the sides of both. In a mirrored face left and right points change
    places, so that each number still names the same side of the person. nan stays nan.
    """
    across = (2 * points.unflatten(-1, (68, 2)) + 1) / stored - 1  # in [-1, 1]
    affine = _affine(parameters.reshape(-1, parameters.shape[-1])).view(*parameters.shape[:-1], 2, 3)
    moved = torch.linalg.solve(affine[..., :2], (across[..., None, :, :] - affine[..., None, :, 2]).mT).mT
    mirrored = parameters[..., 1, None, None] > 0
    moved = torch.where(mirrored, moved[..., _mirrored(moved.device), :], moved)
    return ((moved + 1) * size - 1) / 2


def flow(steps: Tensor, parameters: Tensor, *, stored: int, size: int) -> Tensor:
    """Stored optical flow [..., 2 f f] int8 -> what is seen of it in the network's input: [..., V, 2, h, h], h = size / 4.

    Stored are steps of `FLOW_STEP` pixels of a crop of `stored` pixels, on f x f points, x then y; given are pixels of
    an input of `size` pixels, or nan where none is known. parameters [..., V, P].
    """
    side = round((steps.shape[-1] / 2) ** 0.5)
    changes = parameters.reshape(-1, parameters.shape[-1])
    affine = _affine(changes)
    views = parameters.shape[-2]
    there = steps.float().masked_fill(steps == FLOW_UNKNOWN, torch.nan)
    vectors = (there * FLOW_STEP * 2 / stored).reshape(-1, 2, side, side).repeat_interleave(views, 0)
    grid = functional.affine_grid(affine, [len(changes), 2, size // 4, size // 4], align_corners=False)
    taken = functional.grid_sample(vectors, grid, padding_mode="border", align_corners=False)
    turned = torch.linalg.solve(affine[..., :2], taken.flatten(2)).view_as(taken) * size / 2
    return turned.view(*parameters.shape[:-1], *turned.shape[1:])


@lru_cache
def _mirrored(device: torch.device) -> Tensor:
    """The number of each of iBUG's 68 points in a mirror image [68]."""
    jaw, brows, bridge, nostrils = range(16, -1, -1), range(26, 16, -1), range(27, 31), range(35, 30, -1)
    eyes = (45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40)
    outer = (54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55)
    inner = (64, 63, 62, 61, 60, 67, 66, 65)
    return torch.tensor([*jaw, *brows, *bridge, *nostrils, *eyes, *outer, *inner], device=device)


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
    degrade.apply(into.flatten(0, 1), changes.flatten(0, 1)[:, -6:])


class Augmenter:
    """Turns a decoded batch into the network's input, on whatever device the batch lies."""

    def __init__(self, *, size: int) -> None:
        """`size`: side of the network's input in pixels."""
        self.size = size

    def __call__(self, batch: Batch) -> Batch:
        """A batch with images [B, F, V, 3, size, size] float32 in [0, 1], and `landmarks` and `flow` moved with them."""
        return Batch({name: self._view(faces) for name, faces in batch.items()})

    def _view(self, faces: Faces) -> Faces:
        if not faces.images.numel():
            return replace(faces, images=torch.empty(*faces.augmentation.shape[:3], 3, 0, 0))
        columns, stored = dict(faces.columns), faces.images.shape[-2]
        if "landmarks" in columns:
            columns["landmarks"] = landmarks(columns["landmarks"], faces.augmentation, stored=stored, size=self.size)
        if "flow" in columns:
            columns["flow"] = flow(columns["flow"], faces.augmentation, stored=stored, size=self.size)
        return replace(faces, images=apply(faces.images, faces.augmentation, size=self.size), columns=columns)


def _shrunk(images: Tensor, *, size: int) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, h, w] in [0, 1], averaged over about k x k pixels where it will shrink much."""
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    factor = int(SHRINK_BEFORE * pixels.shape[-1] / size)
    if factor <= 1:
        return pixels
    side = pixels.shape[-1] // factor  # areas of a fractional number of pixels: nothing is cut off at the far edges
    return functional.interpolate(pixels, size=(side, side), mode="area")


def _whole(unit: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """Whole numbers, all equally likely, from uniform numbers in [0, 1)."""
    return smallest + np.floor((largest + 1 - smallest) * unit)


def _affine(parameters: Tensor) -> Tensor:
    """Where each output point is taken from: matrices [N, 2, 3] in [-1, 1] coordinates (y down) from [N, P]."""
    rotation, flip, _, _, _, _, width, height, x, y, *_ = parameters.unbind(-1)
    cos, sin = torch.cos(torch.deg2rad(rotation)), torch.sin(torch.deg2rad(rotation))
    mirrored = width * (1 - 2 * flip)
    centre_x, centre_y = (1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)
    rows = (
        torch.stack([cos * mirrored, -sin * height, cos * centre_x - sin * centre_y], dim=-1),
        torch.stack([sin * mirrored, cos * height, sin * centre_x + cos * centre_y], dim=-1),
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
