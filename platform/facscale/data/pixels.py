"""Pictures of a size that memory holds: what a header announces is looked at before anything is decoded."""

from __future__ import annotations

import numpy as np
import simplejpeg

MOST = 64_000_000  # pixels: twice those of an 8K frame, and 200 MB when decoded


def refuse_large(width: int, height: int) -> None:
    """Raise ValueError for a picture that no camera takes: a few bytes can announce gigabytes."""
    if width * height > MOST:
        raise ValueError(f"{width} x {height} pixels are more than the {MOST:,} that are decoded")


def jpeg(content: bytes | memoryview) -> np.ndarray:
    """A JPEG as RGB [H, W, 3] uint8. Raises ValueError."""
    height, width, *_ = simplejpeg.decode_jpeg_header(content)
    refuse_large(width, height)
    image: np.ndarray = simplejpeg.decode_jpeg(content, colorspace="RGB")
    return image
