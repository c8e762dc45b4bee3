"""Turns decoded pictures into what a player or viewer shows: display matrix and pixel aspect of videos, EXIF of images."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from av.sidedata.sidedata import Type

ORIENTATION = 274  # tag of EXIF
MAX_ASPECT = 4.0  # of pixels; beyond it (and below 1 / MAX_ASPECT) a header is taken to be wrong
MAX_SKEW = 0.1  # share of a display matrix that no mirror image and no right angle explains


class DisplayMatrix(NamedTuple):
    """Where a player shows the stored pixel (x, y): x' = a x + c y, y' = b x + d y, with y down."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 1.0

    @property
    def is_upright(self) -> bool:
        """Whether rows stay rows: no quarter turn."""
        return abs(self.a) + abs(self.d) >= abs(self.b) + abs(self.c)

    @property
    def skew(self) -> float:
        """Share of the matrix that is left out by `apply`, in [0, 1]; 1 for a matrix of zeros."""
        across, along = abs(self.b) + abs(self.c), abs(self.a) + abs(self.d)
        has_zero = not (self.a and self.d) if self.is_upright else not (self.b and self.c)
        return 1.0 if has_zero else min(across, along) / (across + along)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Mirror and turn a picture [H, W, 3] by the nearest of the eight matrices that keep pixels whole."""
        if self.is_upright:
            flips_rows, flips_columns = self.d < 0, self.a < 0
        else:
            image = image.transpose(1, 0, 2)
            flips_rows, flips_columns = self.b < 0, self.c < 0
        return np.ascontiguousarray(image[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1])


def read_display_matrix(frame: Any) -> DisplayMatrix:
    """Return the display matrix of a video frame: phones store turned and mirrored pictures."""
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return DisplayMatrix()
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32) / 65536
    return DisplayMatrix(float(a), float(b), float(c), float(d))


def read_pixel_aspect(stream: Any) -> float:
    """Return width / height of the pixels of a video; 1 where the file does not say."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return float(ratio) if ratio else 1.0


def compute_display_size(width: int, height: int, *, aspect: float) -> tuple[int, int]:
    """Return (width, height) with square pixels: one side is stretched, none is shrunk."""
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def read_orientation(content: bytes) -> int:
    """Return the EXIF orientation of a JPEG, 1 to 8; 1 where it has none, or EXIF is damaged."""
    if b"Exif\0\0" not in content[: 1 << 16]:
        return 1
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # about damaged EXIF
            PIL.Image.open(io.BytesIO(content), formats=["JPEG"]) as image,
        ):
            orientation = image.getexif().get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1
    return orientation if orientation in range(1, 9) else 1


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a stored picture [H, W, 3] upright by its EXIF orientation."""
    if orientation == 1:
        return image
    if orientation > 4:
        image = image.transpose(1, 0, 2)  # 5; rows and columns are mirrored from here on
    flips_rows, flips_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1])
