"""What methods are pretended to say, for tests of comparing them."""

from __future__ import annotations

import numpy as np

from facscale.evaluate import Predictions


def judged(probability, au, *, name="ours", identity=None):
    frames, aus = np.shape(au)
    return Predictions(
        name, tuple(range(1, aus + 1)), np.array(probability, np.float32), np.array(au, np.int8),
        np.array(identity if identity is not None else ["a"] * frames), np.full(frames, "v"),
        np.arange(frames, dtype=np.int32), np.zeros(frames, np.int8), ("fold0",),
    )  # fmt: skip


def pair(frames=90, *, seed=0):
    """Three AUs of nine people; the second method is a little better."""
    random = np.random.default_rng(seed)
    au = random.integers(-1, 2, (frames, 3), np.int8)
    au[0] = -1
    identity = [f"id{number}" for number in np.arange(frames) % 9]
    error = random.random((2, frames, 3)) * np.array([0.8, 0.7])[:, None, None]
    a, b = np.where(au == 1, 1 - error, error)
    return judged(a, au, name="a", identity=identity), judged(b, au, name="b", identity=identity)
