"""Where on a face an AU is seen: a pair of squares about points that landmarks tell.

The centres follow Li, Abtahi and Zhu (CVPR 2017) in their best-kept form, JAA-Net's code; AU10's are EAC-Net's. Each is a
landmark, moved down by a share of the ruler: the horizontal distance of the inner eye corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

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
UPRIGHT = {  # where a face looks straight ahead in a default crop, as shares of its side: mean of rendered people
    18: (0.282, 0.269), 19: (0.340, 0.248), 21: (0.457, 0.254), 22: (0.547, 0.254), 24: (0.663, 0.249),
    25: (0.717, 0.269), 32: (0.462, 0.518), 34: (0.544, 0.518), 38: (0.378, 0.325), 39: (0.413, 0.344),
    41: (0.340, 0.348), 42: (0.587, 0.344), 43: (0.622, 0.325), 46: (0.659, 0.348), 48: (0.361, 0.615),
    49: (0.410, 0.600), 51: (0.503, 0.594), 53: (0.595, 0.600), 54: (0.643, 0.616), 56: (0.550, 0.670),
    57: (0.504, 0.673), 58: (0.457, 0.670),
}  # fmt: skip
SHARE = 48 / 192  # side of a square, as a share of the image's


def known(landmarks: Tensor, *, size: int) -> Tensor:
    """Landmarks [N, 68, 2] in pixels of images of `size`; those that are nan become an upright face's."""
    upright = torch.full((68, 2), torch.nan, device=landmarks.device)
    upright[list(UPRIGHT)] = torch.tensor(list(UPRIGHT.values()), device=landmarks.device) * size
    return torch.where(landmarks.isnan(), upright.to(landmarks.dtype), landmarks)


def centres(landmarks: Tensor, aus: Sequence[int]) -> Tensor:
    """Centres [N, A, 2, 2] (pair, then x and y) of AUs from landmarks [N, 68, 2], in the same pixels.

    Raises ValueError for an AU that has none.
    """
    unknown = [au for au in aus if au not in CENTRES]
    if unknown:
        known = ", ".join(map(str, CENTRES))
        raise ValueError(f"AU {unknown[0]} has no region of interest; there are some for {known}")
    points = torch.tensor([CENTRES[au][0] for au in aus], device=landmarks.device)
    shifts = torch.tensor([CENTRES[au][1] for au in aus], device=landmarks.device)
    ruler = (landmarks[:, INNER_CORNERS[0], 0] - landmarks[:, INNER_CORNERS[1], 0]).abs()
    found = landmarks[:, points]
    down = (ruler[:, None] * shifts)[:, :, None].expand(found.shape[:-1])
    return torch.stack([found[..., 0], found[..., 1] + down], -1)


def patch_side(size: int) -> int:
    """Side of a square in an image of `size`."""
    return round(SHARE * size)


def cut(maps: Tensor, places: Tensor, *, size: int, cells: int, share: float = SHARE) -> Tensor:
    """Squares [N, K, C, cells, cells] of maps [N, C, H, W] about places [N, K, 2], which are pixels of an image of `size`.

    A square is `share` of the image wide. What lies outside of the image is its border.
    """
    steps = (torch.arange(cells, device=maps.device, dtype=torch.float32) + 0.5) / cells - 0.5
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1) * 2 * share
    middle = (2 * places + 1) / size - 1
    grid = (middle[:, :, None, None] + offsets).flatten(1, 2)  # all squares of an image below one another
    taken = grid_sample(maps, grid.to(maps.dtype), padding_mode="border", align_corners=False)
    return taken.unflatten(2, (places.shape[1], cells)).transpose(1, 2)


def without(images: Tensor, places: Tensor, *, share: float = SHARE) -> Tensor:
    """Images [N, 3, S, S] with white squares about places [N, K, 2]; places that are nan leave their image as it is."""
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device)
    inside = (pixels - places[..., None]).abs() <= share * size / 2  # [N, K, 2, S]
    hidden = (inside[:, :, 1, :, None] & inside[:, :, 0, None, :]).any(1)[:, None]
    return torch.where(hidden, torch.ones_like(images), images)


def covered(places: Tensor, hidden: Tensor, *, size: int, share: float = SHARE) -> Tensor:
    """Which AUs [N, A] have one of their centres [N, A, 2, 2] in one of the hidden squares about [N, K, 2]."""
    apart = (places.flatten(1, 2)[:, :, None] - hidden[:, None]).abs()  # [N, 2 A, K, 2]
    within = (apart <= share * size / 2).all(-1).any(-1)
    return within.unflatten(1, places.shape[1:3]).any(-1)


class Removed(NamedTuple):
    """R of N faces have lost the pair of squares of one AU."""

    images: Tensor  # [N, 3, S, S]
    rows: Tensor  # [R] which faces, in rising order
    which: Tensor  # [R] the AU's column
    hidden: Tensor  # [R, 2, 2] the centres of its squares
    covered: Tensor  # [N, A] AUs of which a centre is hidden


def remove(images: Tensor, places: Tensor, *, share: float) -> Removed:
    """Paint the squares of one random AU of `places` [N, A, 2, 2] white, in a share of the images but in one at least."""
    count, aus = places.shape[:2]
    which = torch.randint(aus, (count,), device=images.device)
    rows = torch.randperm(count, device=images.device)[: max(1, round(share * count))].sort().values
    hidden = places[rows, which[rows]]
    left, gone = images.clone(), torch.zeros(count, aus, dtype=torch.bool, device=images.device)
    left[rows] = without(images[rows], hidden)
    gone[rows] = covered(places[rows], hidden, size=images.shape[-1])
    return Removed(left, rows, which[rows], hidden, gone)


def pasted(images: Tensor, patches: Tensor, places: Tensor) -> Tensor:
    """Images [N, 3, S, S] with patches [N, K, 3, s, s] about places [N, K, 2], moved to lie inside."""
    result, side = images.clone(), patches.shape[-1]
    corners = (places - (side - 1) / 2).round().long().clamp(0, images.shape[-1] - side)
    for image, its_patches, its_corners in zip(result, patches, corners.tolist(), strict=True):
        for patch, (x, y) in zip(its_patches, its_corners, strict=True):
            image[:, y : y + side, x : x + side] = patch
    return result
