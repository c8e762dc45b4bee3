"""Image degradations that imitate a camera, a codec and occlusion: blur, JPEG artefacts, black squares (cutout).

All work on float images [M, 3, S, S] in [0, 1], on any device. `apply` selects the images of a batch for each of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facscale.nn.constants import cache_constant

BLUR = (0.1 / 224, 2.0 / 224)  # shares of the side (Chen et al., SimCLR, arXiv 2002.05709, appendix A)
QUALITY = (30, 95)  # on libjpeg's scale
HOLES = (1, 8)
HOLE = (1 / 32, 1 / 8)  # shares of the side (public code of Yang et al., AUNet: albumentations' CoarseDropout)
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
GOLDEN = 1.2207440846057596  # x^4 = x + 1; multiples of x^-1, x^-2, x^-3 fill a cube evenly (M. Roberts, 2018)
BLOCK, MACROBLOCK = 8, 16  # sides in pixels of JPEG's units: one transform; one group of luma and halved chroma blocks
# ITU-T T.81, tables K.1 and K.2: divisors of the luma and chroma coefficients at quality 50.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def find_degraded(parameters: Tensor) -> tuple[Tensor, ...]:
    """List the numbers of the images that are blurred, compressed and cut out: three tensors int64, on the same device.

    parameters [..., P], see `augment.PARAMETERS`. If they lie on a device, the host waits for it.
    """
    return tuple(torch.nonzero(column.flatten())[:, 0] for column in parameters[..., -6:-3].unbind(-1))


def apply(images: Tensor, changes: Tensor, *, degraded: tuple[Tensor, ...] | None = None, step: int = 256) -> None:
    """Blur, compress and cut out images [N, 3, S, S] in place, `step` of them at a time.

    changes [N, 6] are the last of `augment.PARAMETERS`: blur, quality, holes, hole x, hole y, hole side. An image whose
    blur, quality or number of holes is 0 skips that step. `degraded`: what `find_degraded` gives for all N images; where
    it is given, the host does not wait for their device.
    """
    strengths = (changes[:, 0], changes[:, 1], changes[:, 2:])
    numbers = find_degraded(changes) if degraded is None else degraded
    for degrade, strength, rows in zip((blur, compress_jpeg, cut_out), strengths, numbers, strict=True):
        for part in rows.split(step) if len(rows) else ():
            images[part] = degrade(images[part], strength[part])


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images [M, 3, S, S], each by its own Gaussian; sigma [M] is a share of the side."""
    size = images.shape[-1]
    reach = max(1, round(3 * BLUR[1] * size))
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernels = torch.softmax(-0.5 * (offsets / (sigma[:, None] * size)).square(), dim=1)
    kernels = kernels.repeat_interleave(3, 0)[:, None]  # [3 M, 1, taps]
    padded = functional.pad(images.flatten(0, 1)[None], [reach] * 4, mode="reflect")  # [1, 3 M, S + 2 r, S + 2 r]
    vertical = functional.conv2d(padded, kernels[..., None], groups=padded.shape[1])
    both = functional.conv2d(vertical, kernels[..., None, :], groups=padded.shape[1])
    return both[0].unflatten(0, (-1, 3))


def compress_jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Return images [M, 3, S, S] as decoded from baseline JPEG of quality [M], with chroma at half resolution (4:2:0).

    Does what libjpeg does, except for the entropy coding, which is lossless: ITU-T T.81, JFIF's colours; every value
    that is a byte in libjpeg is rounded to an integer here.
    """
    size = images.shape[-1]
    padding = -size % MACROBLOCK
    pixels = functional.pad((255 * images).round(), [0, padding, 0, padding], mode="replicate")
    to_ycc, to_rgb, _, _ = _get_jpeg_constants(images.device)
    luma, chroma = (to_ycc @ pixels.flatten(2)).round().view_as(pixels).split((1, 2), dim=1)
    tables = make_quantisation_tables(quality)
    luma = _quantise_blocks(luma - 128, tables[:, 0])[..., :size, :size] + 128
    half = (size + 1) // 2
    mean = functional.avg_pool2d(chroma, 2)
    rounds_up = torch.arange(mean.shape[-1], device=images.device) % 2  # halves: down and up alternately, as in libjpeg
    chroma = _quantise_blocks((mean + (1 + rounds_up) / 4).floor(), tables[:, 1])[..., :half, :half]
    chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear").round()[..., :size, :size]
    decoded = to_rgb @ torch.cat([luma, chroma], dim=1).flatten(2)
    return decoded.round().clamp(0, 255).div(255).view_as(images)


def make_quantisation_tables(quality: Tensor) -> Tensor:
    """Return tables [M, 2, 64] for luma and chroma, row by row, from quality [M] in 1..100, by libjpeg's rule."""
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    tables = _get_jpeg_constants(quality.device)[3]
    return ((tables * percent[:, None, None] + 50) / 100).floor().clamp(1, 255)


def cut_out(images: Tensor, holes: Tensor) -> Tensor:
    """Cut black squares out of images [M, 3, S, S].

    holes [M, 4]: their number (at most 8), then x, y and side of the first in [0, 1], from which the others follow.
    """
    size, device = images.shape[-1], images.device
    number = torch.arange(HOLES[1], device=device)
    steps = GOLDEN ** -torch.arange(1, 4, device=device)
    unit = torch.frac(holes[:, None, 1:] + number[:, None] * steps)  # [M, 8, 3], uniform
    sides = (size * (HOLE[0] + (HOLE[1] - HOLE[0]) * unit[..., 2:])).round().clamp(min=1)  # [M, 8, 1]
    first = (unit[..., :2] * (size - sides + 1)).floor().minimum(size - sides)  # [M, 8, 2]
    pixel = torch.arange(size, device=device)
    inside = (pixel >= first[..., None]) & (pixel < (first + sides)[..., None])  # [M, 8, 2, S]
    inside &= (number < holes[:, :1])[..., None, None]
    columns, rows = inside.to(images.dtype).unbind(2)
    return images.masked_fill((rows.mT @ columns > 0)[:, None], 0)


def _quantise_blocks(planes: Tensor, tables: Tensor) -> Tensor:
    """Quantise the 8 x 8 blocks of integer planes [M, C, H, W] in [-128, 127] by tables [M, 64]; same shape and range."""
    count, channels, height, width = planes.shape
    blocks = planes.view(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    _, _, transform, _ = _get_jpeg_constants(planes.device)
    table = tables[:, None]  # [M, 1, 64]
    coefficients = (blocks.reshape(count, -1, BLOCK * BLOCK) @ transform.T / table).round() * table
    values = (coefficients @ transform).round().clamp(-128, 127)
    return values.view_as(blocks).transpose(3, 4).reshape(planes.shape)


@cache_constant
def _get_jpeg_constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return RGB to YCbCr [3, 3]; its inverse; the two-dimensional DCT [64, 64]; tables K.1 and K.2 [2, 64].

    Cached on the device: copying them there for each batch would make the host wait.
    """
    red, _, blue = np.eye(3)
    to_ycc = np.stack([GREY, (blue - GREY) / 1.772, (red - GREY) / 1.402])
    frequency, place = np.ogrid[:BLOCK, :BLOCK]
    cosines = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    cosines[0] /= 2**0.5
    tables = np.array([LUMA, CHROMA]).reshape(2, -1)
    first, second, third, fourth = (
        torch.tensor(values, dtype=torch.float32, device=device)
        for values in (to_ycc, np.linalg.inv(to_ycc), np.kron(cosines, cosines), tables)
    )
    return first, second, third, fourth
