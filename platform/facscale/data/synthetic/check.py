"""Are the faces real enough? dlib's stock detector and landmarks against the truth.

    python -m facscale.data.synthetic.check --identities 20 --clips 2 --seconds 2 --every 5

prints the detection rate, the landmark error as a share of the distance between the outer eye corners, its parts, the
worst frames, and the renderer's speed; the exit status says whether the goals are met (90 % found, error below 0.1).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from facscale.data.synthetic.clip import Clip, render_clip

FOUND, ERROR = 0.9, 0.1  # the goals
PARTS = {"jaw": range(17), "brows": range(17, 27), "nose": range(27, 36), "eyes": range(36, 48), "lips": range(48, 68)}


@dataclass(frozen=True)
class Measured:
    """One frame: errors [68] as shares of the distance between the outer eye corners; None where no face was found."""

    identity: int
    clip: int
    frame: int
    errors: NDArray[np.floating] | None
    offsets: NDArray[np.floating] | None = None  # [68, 2] found - true, same unit


class Dlib:
    """The stock HOG detector and the 68-point predictor."""

    def __init__(self) -> None:
        import dlib
        import face_recognition_models

        self._detect = dlib.get_frontal_face_detector()
        self._predict = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())

    def landmarks(self, image: NDArray[np.uint8]) -> NDArray[np.floating] | None:
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
        if found is None:
            out.append(Measured(clip.identity, number, i, None))
            continue
        ruler = np.linalg.norm(truth[36] - truth[45])
        offsets = (found - truth) / ruler
        out.append(Measured(clip.identity, number, i, np.linalg.norm(offsets, axis=1), offsets))
    return out


def report(frames: list[Measured], *, speed: float) -> bool:
    """Print it; True when the goals are met."""
    errors = np.array([f.errors for f in frames if f.errors is not None]).reshape(-1, 68)
    rate = len(errors) / max(len(frames), 1)
    mean = float(errors.mean()) if len(errors) else float("inf")
    print(f"frames judged       {len(frames)}")
    print(f"faces found         {rate:.1%}   (goal: at least {FOUND:.0%})")
    print(f"mean landmark error {mean:.4f} of the outer inter-ocular distance   (goal: below {ERROR})")
    for name, points in PARTS.items():
        print(f"  {name:<18}{errors[:, list(points)].mean():.4f}" if len(errors) else f"  {name:<18}-")
    found = sorted((f for f in frames if f.errors is not None), key=lambda f: -float(np.mean(f.errors)))  # type: ignore[arg-type]
    for f in found[:5]:
        print(f"  worst: identity {f.identity} clip {f.clip} frame {f.frame}: {np.mean(f.errors):.3f}")  # type: ignore[arg-type]
    lost: dict[int, int] = {}
    for f in frames:
        lost[f.identity] = lost.get(f.identity, 0) + (f.errors is None)
    print("  not found in identities " + (", ".join(f"{k} ({v})" for k, v in sorted(lost.items()) if v) or "none"))
    print(f"rendering           {speed:.1f} frames/s on one core")
    return rate >= FOUND and mean < ERROR


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m facscale.data.synthetic.check", description="dlib against the truth of the rendered faces")
    for name, default in (("identities", 20), ("clips", 2), ("every", 5), ("size", 224), ("seed", 0), ("first", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=2.0)
    a = parser.parse_args(arguments)
    judge, frames, rendered, spent = Dlib(), [], 0, 0.0
    for identity, clip in tqdm([(i, c) for i in range(a.first, a.first + a.identities) for c in range(a.clips)], unit="clip", file=sys.stderr):
        start = time.perf_counter()
        made = render_clip(identity=identity, clip=clip, seconds=a.seconds, size=a.size, seed=a.seed)
        spent, rendered = spent + time.perf_counter() - start, rendered + len(made.frames)
        frames += measure(made, number=clip, every=a.every, judge=judge)
    return 0 if report(frames, speed=rendered / spent) else 1


if __name__ == "__main__":
    sys.exit(main())
