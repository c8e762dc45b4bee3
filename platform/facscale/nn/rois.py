"""Regions of interest of AUs: a pair of squares around points that are computed from landmarks.

The centres follow Li, Abtahi and Zhu (CVPR 2017) in their best-preserved form, JAA-Net's code; AU10's are EAC-Net's.
Each is a landmark, moved down by a multiple of the ruler: the horizontal distance of the inner eye corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from facscale.nn.constants import cache_constant
from facscale.nn.precision import disable_autocast, widen

INNER_CORNERS = (39, 42)
BELOW_MOUTH = ((56, 58), 1 / 2)
CENTRES: dict[int, tuple[tuple[int, int], float]] = {  # AU -> image-left and image-right landmark, rulers downwards
    1: ((21, 22), -1 / 2),
    2: ((18, 25), -1 / 3),
    4: ((19, 24), 1 / 3),
    6: ((41, 46), 1),
    7: ((38, 43), 0),
    9: ((32, 34), -1 / 2),
    10: ((49, 53), 0),
    12: ((48, 54), 0),
    14: ((48, 54), 0),
    15: ((48, 54), 0),
    17: BELOW_MOUTH,
    23: ((51, 57), 0),
    24: ((51, 57), 0),
    25: ((51, 57), 0),
    26: BELOW_MOUTH,
}
UPRIGHT_FACE = {  # landmarks of a frontal face in a default crop, as shares of its side: mean of rendered people
    18: (0.282, 0.269),
    19: (0.340, 0.248),
    21: (0.457, 0.254),
    22: (0.547, 0.254),
    24: (0.663, 0.249),
    25: (0.717, 0.269),
    32: (0.462, 0.518),
    34: (0.544, 0.518),
    38: (0.378, 0.325),
    39: (0.413, 0.344),
    41: (0.340, 0.348),
    42: (0.587, 0.344),
    43: (0.622, 0.325),
    46: (0.659, 0.348),
    48: (0.361, 0.615),
    49: (0.410, 0.600),
    51: (0.503, 0.594),
    53: (0.595, 0.600),
    54: (0.643, 0.616),
    56: (0.550, 0.670),
    57: (0.504, 0.673),
    58: (0.457, 0.670),
}
ROI_SHARE = 48 / 192  # side of a square, as a share of the image's side


def fill_missing(landmarks: Tensor, *, size: int) -> Tensor:
    """Replace landmarks [N, 68, 2] that are nan by those of an upright face in an image of `size` pixels."""
    upright = _get_upright_face(landmarks.device) * size
    return torch.where(landmarks.isnan(), upright.to(landmarks.dtype), landmarks)


@cache_constant
def _get_upright_face(device: torch.device) -> Tensor:
    """Return the landmarks [68, 2] of UPRIGHT_FACE, nan where it has none; made once on each device."""
    points = [UPRIGHT_FACE.get(number, (torch.nan, torch.nan)) for number in range(68)]
    return torch.tensor(points, device=device)


def locate_centres(landmarks: Tensor, aus: Sequence[int]) -> Tensor:
    """Return the centres [N, A, 2, 2] (pair, then x and y) of AUs from landmarks [N, 68, 2], in the same pixels.

    Raises ValueError for an AU without a region of interest.
    """
    unknown = [au for au in aus if au not in CENTRES]
    if unknown:
        available = ", ".join(map(str, CENTRES))
        raise ValueError(f"AU {unknown[0]} has no region of interest; the AUs that have one are {available}")
    points, shifts = _get_centres(landmarks.device, tuple(aus))
    ruler = (landmarks[:, INNER_CORNERS[0], 0] - landmarks[:, INNER_CORNERS[1], 0]).abs()
    anchors = landmarks[:, points]
    down = (ruler[:, None] * shifts)[:, :, None].expand(anchors.shape[:-1])
    return torch.stack([anchors[..., 0], anchors[..., 1] + down], -1)


@cache_constant
def _get_centres(device: torch.device, aus: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the landmarks [A, 2] of AUs and their shifts [A], in rulers; made once on each device."""
    points = torch.tensor([CENTRES[au][0] for au in aus], device=device)
    return points, torch.tensor([CENTRES[au][1] for au in aus], device=device)


def patch_side(size: int) -> int:
    """Return the side of a square, in pixels of an image of `size` pixels."""
    return round(ROI_SHARE * size)


def crop_rois(maps: Tensor, centres: Tensor, *, size: int, cells: int, share: float = ROI_SHARE) -> Tensor:
    """Crop squares [N, K, C, cells, cells] of maps [N, C, H, W] around centres [N, K, 2] in pixels of the image.

    The image has `size` pixels a side, a square `share` of that. Outside the image its border is repeated. Positions are
    float32 under autocast; the squares have the dtype of `maps`.
    """
    steps = (torch.arange(cells, device=maps.device, dtype=torch.float32) + 0.5) / cells - 0.5
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1) * 2 * share
    middle = (2 * widen(centres) + 1) / size - 1
    grid = (middle[:, :, None, None] + offsets).flatten(1, 2)  # the squares of an image, one below the other
    with disable_autocast(maps):
        pixels = widen(maps)
        squares = grid_sample(pixels, grid.to(pixels.dtype), padding_mode="border", align_corners=False)
    return squares.to(maps.dtype).unflatten(2, (centres.shape[1], cells)).transpose(1, 2)


def mask_rois(images: Tensor, centres: Tensor, *, share: float = ROI_SHARE) -> Tensor:
    """Paint white squares around centres [N, K, 2] of images [N, 3, S, S]; a centre that is nan changes nothing."""
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device)
    inside = (pixels - centres[..., None]).abs() <= share * size / 2  # [N, K, 2, S]
    masked = (inside[:, :, 1, :, None] & inside[:, :, 0, None, :]).any(1)[:, None]
    return torch.where(masked, torch.ones_like(images), images)


def find_covered_aus(centres: Tensor, masked: Tensor, *, size: int, share: float = ROI_SHARE) -> Tensor:
    """Return which AUs [N, A] have one of their centres [N, A, 2, 2] in a masked square around [N, K, 2]."""
    distances = (centres.flatten(1, 2)[:, :, None] - masked[:, None]).abs()  # [N, 2 A, K, 2]
    is_covered = (distances <= share * size / 2).all(-1).any(-1)
    return is_covered.unflatten(1, centres.shape[1:3]).any(-1)


class MaskedRegions(NamedTuple):
    """N faces; in R of them the pair of squares of one AU is masked."""

    images: Tensor  # [N, 3, S, S]
    rows: Tensor  # [R] the masked faces, in rising order
    columns: Tensor  # [R] the masked AU of each, as a column
    centres: Tensor  # [R, 2, 2] of its squares
    covered: Tensor  # [N, A] AUs of which a centre is masked


def mask_random_au(images: Tensor, centres: Tensor, *, share: float) -> MaskedRegions:
    """Paint the squares of one random AU white, in a `share` of the images [N, 3, S, S] but in at least one.

    centres: of all AUs, [N, A, 2, 2].
    """
    count, aus = centres.shape[:2]
    columns = torch.randint(aus, (count,), device=images.device)
    rows = torch.randperm(count, device=images.device)[: max(1, round(share * count))].sort().values
    masked_centres = centres[rows, columns[rows]]
    masked, covered = images.clone(), torch.zeros(count, aus, dtype=torch.bool, device=images.device)
    masked[rows] = mask_rois(images[rows], masked_centres)
    covered[rows] = find_covered_aus(centres[rows], masked_centres, size=images.shape[-1])
    return MaskedRegions(masked, rows, columns[rows], masked_centres, covered)


def paste_patches(images: Tensor, patches: Tensor, centres: Tensor) -> Tensor:
    """Paste patches [N, K, 3, s, s] into images [N, 3, S, S] around centres [N, K, 2], shifted to lie inside."""
    result, side = images.clone(), patches.shape[-1]
    corners = (centres - (side - 1) / 2).round().long().clamp(0, images.shape[-1] - side)
    for image, image_patches, image_corners in zip(result, patches, corners.tolist(), strict=True):
        for patch, (x, y) in zip(image_patches, image_corners, strict=True):
            image[:, y : y + side, x : x + side] = patch
    return result
