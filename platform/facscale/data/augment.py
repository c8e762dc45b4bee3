"""Random augmentation: sampled as a few numbers per image (cheap, on the CPU), applied in one pass on any device.

Every image has P parameters, in the order of `PARAMETERS`:

    rotation      degrees, counter-clockwise about the stored image's centre
    flip          1: mirrored left-right, 0: not mirrored
    brightness    factor of all colours
    contrast      factor of the distance to the image's mean grey
    saturation    factor of the distance to the pixel's own grey
    hue           turns of the chroma plane (YIQ); grey stays grey
    crop width, crop height     sides of the crop as shares of the stored side
    crop x, crop y              the crop's centre from that of the stored image, right and down, as shares of its side
    blur          standard deviation of a Gaussian as a share of the network's input side; 0: none
    quality       JPEG quality, an integer; 0: no compression
    holes         number of black squares
    hole x, hole y, hole side       starting point in [0, 1] of the sequence of their positions and sides

The stored image is rotated, cropped, resized, mirrored, then coloured, blurred, compressed and cut out, in this order
(the last three: `degrade`). The neighbours of an aligned view (`FrameTriple`) are moved onto its middle frame in the same
warp, so that all frames of a sample show the same crop, and blur and holes come after it. What lies outside the image is filled by reflection, so that there are no black corners.
Colours may leave [0, 1] only within the colour step; they are clamped before the blur.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facscale.data import degrade
from facscale.data.degrade import BLUR, GREY, HOLES, QUALITY
from facscale.data.errors import DataError
from facscale.data.views import Batch, Faces
from facscale.nn.alignment import compute_five_points, fit_similarity
from facscale.nn.constants import cache_constant
from facscale.spec import models

PARAMETERS = (
    "rotation",
    "flip",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "crop width",
    "crop height",
    "crop x",
    "crop y",
    "blur",
    "quality",
    "holes",
    "hole x",
    "hole y",
    "hole side",
)
# Random numbers per image, in two lots: the second lot was added later and leaves the results of the first unchanged.
DRAWS = (14, 7)
CROP_SIDE = 6  # the number that gives the side of the crop
TOLERANCE = 1e-6  # of sides
MIN_EVAL_CROP = 0.875  # side of the centre crop that is usual in evaluation after training on small random crops
FLOW_STEP = 1 / 8  # pixels of the stored crop
FLOW_UNKNOWN = -128  # where there was no later frame
YIQ = np.array([GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
# Bilinear sampling reads 2 x 2 pixels, so an image that shrinks more than about twofold is averaged first.
SHRINK_BEFORE = 0.8
# Few enough on the CPU that memory is reused rather than mapped anew; on other devices a bound on the peak memory.
CHUNK_SIZES = {"cpu": 16}
DEFAULT_CHUNK_SIZE = 256


def sample_params(
    spec: models.Augment, *, shape: tuple[int, ...], random: np.random.Generator, margin: float = 0.0
) -> np.ndarray:
    """Sample parameters [*shape, P] float32, independently for each image; `margin`: of the stored images."""
    return to_params(spec, np.concatenate([random.random((*shape, lot)) for lot in DRAWS], axis=-1), margin=margin)


def to_params(spec: models.Augment, unit: np.ndarray, *, margin: float = 0.0) -> np.ndarray:
    """Map uniform numbers [..., sum(DRAWS)] in [0, 1) to parameters [..., P] float32.

    `margin`: of the stored images, around the face square that the sizes and shifts of `spec` refer to.
    """
    first, second = np.split(np.moveaxis(unit, -1, 0), DRAWS[:1])
    rotation, flip, brightness, contrast, saturation, hue, side, x, y, aspect, jitter, grey, blur, sigma = first
    compression, quality, holes, number, *hole = second
    is_jittered, low, high = jitter < spec.jitter, *spec.crop
    strengths = ((brightness, spec.brightness), (contrast, spec.contrast), (saturation, spec.saturation))
    colours = [np.where(is_jittered, np.maximum(0, 1 + limit * (2 * value - 1)), 1) for value, limit in strengths]
    colours[2] = np.where(grey < spec.grey, 0, colours[2])
    shape = spec.aspect ** (aspect - 0.5)  # the square root of width / height
    side = low + (high - low) * side
    stored = 1 + 2 * margin  # side of the stored image; all of these in sides of the face square
    width, height = (np.minimum(max(1, high), side * factor) for factor in (shape, 1 / shape))
    reach = [np.maximum(0, 1 - length) / 2 if spec.shift is None else spec.shift for length in (width, height)]
    columns = (
        spec.rotation * (2 * rotation - 1),
        flip < spec.flip,
        *colours,
        np.where(is_jittered, spec.hue * (2 * hue - 1), 0),
        width / stored,
        height / stored,
        reach[0] * (2 * x - 1) / stored,
        reach[1] * (2 * y - 1) / stored,
        np.where(blur < spec.blur, BLUR[0] + (BLUR[1] - BLUR[0]) * sigma, 0),
        np.where(compression < spec.compression, _to_integers(quality, *QUALITY), 0),
        np.where(holes < spec.holes, _to_integers(number, *HOLES), 0),
        *hole,
    )
    return np.stack(columns, axis=-1).astype(np.float32)


def get_eval_crop(spec: models.Augment) -> float:
    """Return the side of evaluation's centre crop, in sides of the face square: `eval_crop`, or training's mean side.

    Without `eval_crop` it is at least MIN_EVAL_CROP and at most 1.
    """
    return spec.eval_crop or min(1.0, max(MIN_EVAL_CROP, sum(spec.crop) / 2))


def eval_params(spec: models.Augment, *, margin: float = 0.0) -> np.ndarray:
    """Return the parameters [P] of evaluation: only a centre crop; `margin`: of the stored images."""
    side = get_eval_crop(spec) / (1 + 2 * margin)
    return np.array([0, 0, 1, 1, 1, 0, side, side, *[0] * 8], dtype=np.float32)


def eval_config(spec: models.Augment) -> models.Augment:
    """Return the settings of an evaluation stream: crops of evaluation's side, and nothing else.

    They lie anywhere in the face square, or in its middle where `spec` bounds the shifts.
    """
    side, shift = get_eval_crop(spec), None if spec.shift is None else 0.0
    return models.Augment(
        rotation=0, flip=0, brightness=0, contrast=0, saturation=0, crop=(side, side), shift=shift, eval_crop=side
    )


def check_margin(spec: models.Augment, *, margin: float, url: str, is_trained_on: bool = True) -> None:
    """Raise DataError where crops of training or evaluation reach beyond the stored images of the data set at `url`.

    `is_trained_on`: False for a data set that is only evaluated.

    The corners of a rotated crop may: what is outside is filled by reflection.
    """
    stored, shift = 1 + 2 * margin, spec.shift or 0.0
    sides = {"data.augment.crop": spec.crop[1] + 2 * shift} if is_trained_on else {}
    sides["the crop of evaluation"] = get_eval_crop(spec)
    for key, side in sides.items():
        if side > stored + TOLERANCE:
            shifts = f" with shifts of {shift:g}" if shift and key == "data.augment.crop" else ""
            raise DataError(
                f"{key}{shifts} shows up to {side:.3g} times the face square, but the images of {url} end at {stored:.3g} "
                f"times (a margin of {margin:g}), so that faces would be cut off; make the data set again with "
                f"crop.margin={math.ceil(50 * (side - 1 - TOLERANCE)) / 100:g} (docs/how-to/data.md), or set data.augment.crop, shift and "
                "eval_crop to what it shows"
            )


def apply(
    images: Tensor,
    parameters: Tensor,
    *,
    size: int,
    alignment: Tensor | None = None,
    degraded: tuple[Tensor, ...] | None = None,
) -> Tensor:
    """Augment uint8 images [B, F, H, W, 3] by parameters [B, F, V, P] to float32 [B, F, V, 3, size, size] in [0, 1].

    `alignment` [B, F, 2, 3], see `fit_alignment`: where each image is moved to first. `degraded`: what
    `degrade.find_degraded` gives for the parameters; without it the host waits for their device. Also accepts images
    [N, H, W, 3] with parameters [N, V, P] or [N, P]; the result is [N, V, 3, size, size] or [N, 3, size, size].
    """
    changes = parameters.reshape(images.shape[:-3].numel(), -1, len(PARAMETERS))  # [N, V, P]
    matrices = _build_sampling_matrices(changes)
    if alignment is not None:
        matrices = _compose(alignment.reshape(-1, 1, 2, 3), matrices)
    flat = images.reshape(-1, *images.shape[-3:])
    result = torch.empty((*changes.shape[:2], 3, size, size), device=images.device)
    step = CHUNK_SIZES.get(images.device.type, DEFAULT_CHUNK_SIZE)
    for first in range(0, len(flat), step):
        chunk = slice(first, first + step)
        _transform(flat[chunk], changes[chunk], matrices[chunk], result[chunk])
    degrade.apply(result.flatten(0, 1), changes.flatten(0, 1)[:, -6:], degraded=degraded, step=step)
    return result.view(*parameters.shape[:-1], 3, size, size)


def transform_landmarks(
    points: Tensor, parameters: Tensor, *, stored: int, size: int, alignment: Tensor | None = None
) -> Tensor:
    """Map 68 landmarks [..., 136] in pixels of the stored crop to pixels of the network's input [..., V, 68, 2].

    parameters [..., V, P]; `stored` and `size` are the sides of both images; `alignment` [..., 2, 3] as in `apply`. In a
    mirrored face left and right points are swapped, so that each number still names the same side of the face as seen in
    the image. nan stays nan.
    """
    normalized = _normalize(points, stored=stored)
    affine = _build_sampling_matrices(parameters)
    if alignment is not None:
        affine = _compose(alignment[..., None, :, :], affine)
    moved = _solve(affine[..., :2], (normalized[..., None, :, :] - affine[..., None, :, 2]).mT).mT
    is_mirrored = parameters[..., 1, None, None] > 0
    moved = torch.where(is_mirrored, moved[..., _get_mirror_order(moved.device), :], moved)
    return ((moved + 1) * size - 1) / 2


def fit_alignment(points: Tensor, *, stored: int) -> Tensor:
    """Fit where each frame of a sample is to be read so that its face lies on that of the middle frame: [B, F, 2, 3].

    points [B, F, 136]: 68 landmarks in pixels of images with the side `stored`. A matrix maps coordinates of the middle
    frame to those of the frame, both in [-1, 1], by five points (eyes, nose, corners of the mouth); it is the identity for
    the middle frame, and where a landmark is unknown.
    """
    five = compute_five_points(_normalize(points, stored=stored))  # [B, F, 5, 2]
    count, frames = five.shape[:2]
    middle = five[:, frames // 2, None].expand_as(five)
    matrices = fit_similarity(middle.flatten(0, 1), five.flatten(0, 1)).view(count, frames, 2, 3)
    matrices[:, frames // 2] = torch.eye(2, 3, dtype=matrices.dtype, device=matrices.device)
    return matrices


def transform_flow(steps: Tensor, parameters: Tensor, *, stored: int, size: int) -> Tensor:
    """Map stored optical flow [..., 2 f f] int8 to the flow in the network's input [..., V, 2, h, h], h = size / 4.

    The stored unit is FLOW_STEP pixels of a crop of side `stored`, on f x f points, x then y. The result is in pixels of
    an input of side `size`, and nan where the flow is unknown. parameters [..., V, P].
    """
    side = round((steps.shape[-1] / 2) ** 0.5)
    changes = parameters.reshape(-1, parameters.shape[-1])
    affine = _build_sampling_matrices(changes)
    views = parameters.shape[-2]
    values = steps.float().masked_fill(steps == FLOW_UNKNOWN, torch.nan)
    vectors = (values * FLOW_STEP * 2 / stored).reshape(-1, 2, side, side).repeat_interleave(views, 0)
    grid = functional.affine_grid(affine, [len(changes), 2, size // 4, size // 4], align_corners=False)
    sampled = functional.grid_sample(vectors, grid, padding_mode="border", align_corners=False)
    rotated = _solve(affine[..., :2], sampled.flatten(2)).view_as(sampled) * size / 2
    return rotated.view(*parameters.shape[:-1], *rotated.shape[1:])


@cache_constant
def _get_mirror_order(device: torch.device) -> Tensor:
    """Return the number [68] that each of iBUG's 68 points has in a mirror image."""
    jaw, brows, bridge, nostrils = range(16, -1, -1), range(26, 16, -1), range(27, 31), range(35, 30, -1)
    eyes = (45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40)
    outer = (54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55)
    inner = (64, 63, 62, 61, 60, 67, 66, 65)
    return torch.tensor([*jaw, *brows, *bridge, *nostrils, *eyes, *outer, *inner], device=device)


def _normalize(points: Tensor, *, stored: int) -> Tensor:
    """Convert landmarks [..., 136] in pixels of an image of side `stored` to coordinates [..., 68, 2] in [-1, 1]."""
    return (2 * points.unflatten(-1, (68, 2)) + 1) / stored - 1


def _solve(matrices: Tensor, values: Tensor) -> Tensor:
    """Return X [..., 2, K] of matrices [..., 2, 2] X = values by Cramer's rule; no factorisation, and no wait for the device."""
    (a, b), (c, d) = (row.unbind(-1) for row in matrices.unbind(-2))
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    return adjugate @ values / (a * d - b * c)[..., None, None]


def _compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the affine maps [..., 2, 3] that apply `inner` first, then `outer`; leading dimensions are broadcast."""
    linear = outer[..., :2] @ inner[..., :2]
    shift = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return torch.cat([linear, shift], -1)


def _transform(images: Tensor, changes: Tensor, matrices: Tensor, out: Tensor) -> None:
    """Write images [N, H, W, 3] into `out` [N, V, 3, S, S], warped and coloured by parameters [N, V, P].

    matrices [N, V, 2, 3]: from output to stored coordinates.
    """
    count, views, _, size, _ = out.shape
    pixels = _average_down(images, size=size)
    grid = functional.affine_grid(matrices.flatten(0, 1), [count * views, 3, size, size], align_corners=False)
    # The grids of one image's copies are stacked to one tall grid, so that the image itself is never repeated.
    tall = grid.view(count, views * size, size, 2)
    sampled = functional.grid_sample(pixels, tall, padding_mode="reflection", align_corners=False)
    sampled = sampled.view(count, 3, views, size * size).transpose(1, 2)
    matrix, shift = _build_colour_transforms(changes, mean=pixels.mean((2, 3))[:, None])
    torch.add(matrix @ sampled, shift, out=out.view(count, views, 3, -1)).clamp_(0, 1)


class Augmenter:
    """Turns a decoded batch into the network's input, on the device of the batch."""

    def __init__(self, *, size: int) -> None:
        """`size`: side of the network's input in pixels."""
        self.size = size

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch with images [B, F, V, 3, size, size] float32 in [0, 1], and transformed `landmarks` and `flow`."""
        device = next(iter(batch.values())).images.device.type
        with torch.autocast(device, enabled=False):  # in bfloat16 positions would be wrong by half a pixel
            return Batch({name: self._augment(faces) for name, faces in batch.items()})

    def _augment(self, faces: Faces) -> Faces:
        if not faces.images.numel():
            return replace(faces, images=torch.empty(*faces.augmentation.shape[:3], 3, 0, 0))
        columns, stored = dict(faces.columns), faces.images.shape[-2]
        alignment = fit_alignment(columns["landmarks"], stored=stored) if faces.is_aligned else None
        if "landmarks" in columns:
            columns["landmarks"] = transform_landmarks(
                columns["landmarks"], faces.augmentation, stored=stored, size=self.size, alignment=alignment
            )
        if "flow" in columns:
            columns["flow"] = transform_flow(columns["flow"], faces.augmentation, stored=stored, size=self.size)
        images = apply(faces.images, faces.augmentation, size=self.size, alignment=alignment, degraded=faces.degraded)
        return replace(faces, images=images, columns=columns, degraded=None)


def _average_down(images: Tensor, *, size: int) -> Tensor:
    """Convert uint8 [N, H, W, 3] to float32 [N, 3, h, w] in [0, 1], averaging k x k pixels before a strong reduction."""
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    factor = int(SHRINK_BEFORE * pixels.shape[-1] / size)
    if factor <= 1:
        return pixels
    side = pixels.shape[-1] // factor  # areas of a fractional number of pixels: nothing is cut off at the far edges
    return functional.interpolate(pixels, size=(side, side), mode="area")


def _to_integers(unit: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """Map uniform numbers in [0, 1) to integers in [smallest, largest], all equally likely."""
    return smallest + np.floor((largest + 1 - smallest) * unit)


def _build_sampling_matrices(parameters: Tensor) -> Tensor:
    """Build matrices [..., 2, 3] from output to input coordinates, both in [-1, 1] (y down), from parameters [..., P]."""
    rotation, flip, _, _, _, _, width, height, x, y, *_ = parameters.unbind(-1)
    cos, sin = torch.cos(torch.deg2rad(rotation)), torch.sin(torch.deg2rad(rotation))
    signed_width = width * (1 - 2 * flip)
    centre_x, centre_y = 2 * x, 2 * y
    rows = (
        torch.stack([cos * signed_width, -sin * height, cos * centre_x - sin * centre_y], dim=-1),
        torch.stack([sin * signed_width, cos * height, sin * centre_x + cos * centre_y], dim=-1),
    )
    return torch.stack(rows, dim=-2)


def _build_colour_transforms(parameters: Tensor, *, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Build matrices [..., 3, 3] and shifts [..., 1, 1] for brightness, contrast, saturation, hue of [..., P].

    All four are affine in the colour, so together they are x -> b c H S x + (1 - c) b grey(mean), since S and H leave
    grey unchanged. `mean` [..., 3] is the stored image's mean colour.
    """
    brightness, contrast, saturation, hue = (column[..., None, None] for column in parameters[..., 2:6].unbind(-1))
    grey, luma, chroma, quarter = _get_colour_matrices(parameters.device)
    saturate = saturation * torch.eye(3, device=parameters.device) + (1 - saturation) * grey
    turn = luma + torch.cos(2 * torch.pi * hue) * chroma + torch.sin(2 * torch.pi * hue) * quarter
    shift = (1 - contrast) * brightness * (mean @ grey[0])[..., None, None]
    return brightness * contrast * (turn @ saturate), shift


@cache_constant
def _get_colour_matrices(device: torch.device) -> Tensor:
    """Return four matrices [4, 3, 3] on RGB: to grey; luma only; chroma only; chroma rotated by a quarter turn.

    Cached on the device: copying them there for each batch would make the host wait.
    """
    to_rgb = np.linalg.inv(YIQ)
    luma, chroma, quarter = np.diag([1, 0, 0]), np.diag([0, 1, 1]), np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]])
    turns = [to_rgb @ matrix @ YIQ for matrix in (luma, chroma, quarter)]
    return torch.tensor(np.stack([np.tile(GREY, (3, 1)), *turns]), dtype=torch.float32, device=device)
