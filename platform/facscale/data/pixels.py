"""JPEG decoding with a limit on the image size, which is read from the header before anything is decoded."""

from __future__ import annotations

import numpy as np
import simplejpeg

MAX_PIXELS = 64_000_000  # twice the pixels of an 8K frame, and 200 MB when decoded


def check_image_size(width: int, height: int) -> None:
    """Raise ValueError for an image larger than any camera takes: a file of a few bytes can announce gigabytes."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than the {MAX_PIXELS:,} that are decoded")


def decode_jpeg(content: bytes | memoryview) -> np.ndarray:
    """Decode a JPEG to RGB [H, W, 3] uint8. Raises ValueError."""
    height, width, *_ = simplejpeg.decode_jpeg_header(content)
    check_image_size(width, height)
    image: np.ndarray = simplejpeg.decode_jpeg(content, colorspace="RGB")
    return image
