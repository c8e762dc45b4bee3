"""What a camera, a codec or a hand before the face does to an image: blur, JPEG artefacts, black holes.

All work on float images [M, 3, S, S] in [0, 1], on any device. `apply` says which of a batch's images each is done to.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

BLUR = (0.1 / 224, 2.0 / 224)  # shares of the side (Chen et al., SimCLR, arXiv 2002.05709, appendix A)
QUALITY = (30, 95)  # as libjpeg counts it
HOLES = (1, 8)
HOLE = (1 / 32, 1 / 8)  # shares of the side (public code of Yang et al., AUNet: albumentations' CoarseDropout)
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
GOLDEN = 1.2207440846057596  # x^4 = x + 1; multiples of x^-1, x^-2, x^-3 fill a cube evenly (M. Roberts, 2018)
BLOCK, MACROBLOCK = 8, 16  # sides in pixels of what JPEG transforms at once, in luma; in colour
# ITU-T T.81, tables K.1 and K.2: what luma's and chroma's coefficients are divided by at quality 50.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip


def apply(images: Tensor, changes: Tensor) -> None:
    """Blur, compress and punch images [N, 3, S, S] in place.

    changes [N, 6] are the last of `augment.PARAMETERS`: blur, quality, holes, hole x, hole y, hole side. An image whose
    blur, quality or number of holes is 0 is spared that step.
    """
    wanted = (changes[:, :3] != 0).cpu()  # together, for the host waits for the device each time that it asks
    for column, (damaged, strength) in enumerate(
        ((blurred, changes[:, 0]), (compressed, changes[:, 1]), (punched, changes[:, 2:]))
    ):
        chosen = torch.nonzero(wanted[:, column])[:, 0].to(images.device)
        if len(chosen):
            images[chosen] = damaged(images[chosen], strength[chosen])


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Images [M, 3, S, S] under Gaussians of their own, sigma [M] in shares of the side."""
    size = images.shape[-1]
    reach = max(1, round(3 * BLUR[1] * size))
    places = torch.arange(-reach, reach + 1, device=images.device)
    kernels = torch.softmax(-0.5 * (places / (sigma[:, None] * size)).square(), dim=1)
    kernels = kernels.repeat_interleave(3, 0)[:, None]  # [3 M, 1, taps]
    rows = functional.pad(images.flatten(0, 1)[None], [reach] * 4, mode="reflect")  # [1, 3 M, S + 2 r, S + 2 r]
    down = functional.conv2d(rows, kernels[..., None], groups=rows.shape[1])
    across = functional.conv2d(down, kernels[..., None, :], groups=rows.shape[1])
    return across[0].unflatten(0, (-1, 3))


def compressed(images: Tensor, quality: Tensor) -> Tensor:
    """Images [M, 3, S, S] as baseline JPEG of the given quality [M] gives them back, with chroma halved (4:2:0).

    What libjpeg does but for the entropy coding, which loses nothing: ITU-T T.81, JFIF's colours, every value that is a
    byte there is a whole number here.
    """
    size = images.shape[-1]
    short = -size % MACROBLOCK
    pixels = functional.pad((255 * images).round(), [0, short, 0, short], mode="replicate")
    colours, back, _, _ = _constants(images.device)
    luma, chroma = (colours @ pixels.flatten(2)).round().view_as(pixels).split((1, 2), dim=1)
    tables = quantisation(quality)
    luma = _coded(luma - 128, tables[:, 0])[..., :size, :size] + 128
    half = (size + 1) // 2
    mean = functional.avg_pool2d(chroma, 2)
    upwards = torch.arange(mean.shape[-1], device=images.device) % 2  # halves go down and up in turn, as in libjpeg
    chroma = _coded((mean + (1 + upwards) / 4).floor(), tables[:, 1])[..., :half, :half]
    chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear").round()[..., :size, :size]
    decoded = back @ torch.cat([luma, chroma], dim=1).flatten(2)
    return decoded.round().clamp(0, 255).div(255).view_as(images)


def quantisation(quality: Tensor) -> Tensor:
    """Tables [M, 2, 64] for luma and chroma, row by row, from quality [M] in 1..100, by libjpeg's rule."""
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    tables = _constants(quality.device)[3]
    return ((tables * percent[:, None, None] + 50) / 100).floor().clamp(1, 255)


def punched(images: Tensor, holes: Tensor) -> Tensor:
    """Images [M, 3, S, S] with black squares.

    holes [M, 4]: how many (at most 8), then x, y and side of the first in [0, 1], from which the others follow.
    """
    size, device = images.shape[-1], images.device
    turn = torch.arange(HOLES[1], device=device)
    steps = GOLDEN ** -torch.arange(1, 4, device=device)
    drawn = torch.frac(holes[:, None, 1:] + turn[:, None] * steps)  # [M, 8, 3], uniform
    sides = (size * (HOLE[0] + (HOLE[1] - HOLE[0]) * drawn[..., 2:])).round().clamp(min=1)  # [M, 8, 1]
    first = (drawn[..., :2] * (size - sides + 1)).floor().minimum(size - sides)  # [M, 8, 2]
    place = torch.arange(size, device=device)
    inside = (place >= first[..., None]) & (place < (first + sides)[..., None])  # [M, 8, 2, S]
    inside &= (turn < holes[:, :1])[..., None, None]
    columns, rows = inside.to(images.dtype).unbind(2)
    return images.masked_fill((rows.mT @ columns > 0)[:, None], 0)


def _coded(planes: Tensor, tables: Tensor) -> Tensor:
    """Planes [M, C, H, W] of whole numbers in [-128, 127] after quantisation of their 8 x 8 blocks by tables [M, 64]."""
    count, channels, height, width = planes.shape
    split = planes.view(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    _, _, transform, _ = _constants(planes.device)
    table = tables[:, None]  # [M, 1, 64]
    coefficients = (split.reshape(count, -1, BLOCK * BLOCK) @ transform.T / table).round() * table
    values = (coefficients @ transform).round().clamp(-128, 127)
    return values.view_as(split).transpose(3, 4).reshape(planes.shape)


@lru_cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """RGB -> luma, blue, red chroma [3, 3]; back; the two-dimensional DCT [64, 64]; tables K.1 and K.2 [2, 64].

    Kept on the device: copying them there for each batch would make the host wait.
    """
    red, _, blue = np.eye(3)
    colours = np.stack([GREY, (blue - GREY) / 1.772, (red - GREY) / 1.402])
    frequency, place = np.ogrid[:BLOCK, :BLOCK]
    cosines = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    cosines[0] /= 2**0.5
    tables = np.array([LUMA, CHROMA]).reshape(2, -1)
    red_green_blue, transform = np.linalg.inv(colours), np.kron(cosines, cosines)
    first, second, third, fourth = (
        torch.tensor(values, dtype=torch.float32, device=device)
        for values in (colours, red_green_blue, transform, tables)
    )
    return first, second, third, fourth
