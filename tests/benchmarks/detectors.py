"""How well the face detectors locate the eyes of rendered faces, and how long they take on one thread.

    python tests/benchmarks/detectors.py --people 24 [--out FILE]

The crops are made from the eye centres, whose error against the truth is given in distances between them: median, 90th
percentile and maximum over the people. `extra` counts boxes on which no face lies. Times are of the processor, hence
hardly depend on what else runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[2] / "platform")]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402

from facscale.data.align import locate_eyes  # noqa: E402
from facscale.ingest import detectors  # noqa: E402
from facscale.ingest.detectors import Box  # noqa: E402
from facscale.synthetic.actions import AUS  # noqa: E402
from facscale.synthetic.sheet import render_stills  # noqa: E402

NAMES = ("mediapipe", "dlib")
FIRST_IDENTITY = 200_000
SIZE = 256  # pixels, side of a rendered picture; the face takes two thirds of it
POSES = {
    "frontal": (0, 0, 0),
    "yaw 15": (15, 0, 0),
    "yaw 30": (30, 0, 0),
    "yaw 45": (45, 0, 0),
    "yaw 60": (60, 0, 0),
    "pitch 20": (0, 20, 0),
    "roll 20": (0, 0, 20),
    "roll 45": (0, 0, 45),
}
WIDTHS = (90, 45, 22)  # pixels, faces in a picture of 640 x 360
MIN_IOU = 0.3  # of a box with that of the true landmarks
COLUMNS = {
    "case": None,
    "detector": None,
    "found": 0,
    "of": 0,
    "extra": 0,
    "error, median": 3,
    "error, 90 %": 3,
    "error, largest": 3,
    "detect, ms": 1,
    "landmarks, ms": 1,
}


class Accuracy(NamedTuple):
    """How well a detector does in a case; errors in distances between the eyes, times in milliseconds."""

    found: int
    faces: int
    extra: int
    median: float
    high: float  # of 90 % of the faces
    worst: float
    detect_ms: float
    landmarks_ms: float

    def __str__(self) -> str:
        errors = f"{self.median:.3f} {self.high:.3f} {self.worst:.3f}"
        return f"{self.found:4d}/{self.faces:<4d} {self.extra:5d}   {errors}   {self.detect_ms:6.1f} {self.landmarks_ms:6.1f}"


class Picture(NamedTuple):
    """A picture, and the landmarks [68, 2] of each face in it."""

    image: np.ndarray
    truths: list[np.ndarray]


def render(person: int) -> dict[str, Picture]:
    """Render a person with two action units in each of POSES, give or take two degrees, to either side."""
    random = np.random.default_rng(person)
    intensities = np.zeros((1, len(AUS)), np.float32)
    intensities[0, random.choice(len(AUS), 2, replace=False)] = 3
    pictures = {}
    for name, pose in POSES.items():
        turn = np.deg2rad(np.array(pose) * random.choice([-1, 1], 3) + random.normal(0, 2, 3))
        frames, marks = render_stills(
            identity=FIRST_IDENTITY + person, intensities=intensities, size=SIZE, pose=(*turn, 0, 0, 1)
        )
        pictures[name] = Picture(frames[0], [marks[0]])
    return pictures


def darken(picture: Picture, *, seed: int) -> Picture:
    """An eighth of the light, with a sensor's noise."""
    noise = np.random.default_rng(seed).normal(0, 3, picture.image.shape)
    return Picture(np.clip(0.12 * picture.image + noise, 0, 255).astype(np.uint8), picture.truths)


def place(faces: list[Picture], *, widths: list[int], seed: int) -> Picture:
    """Put faces of the given widths beside each other into a picture of 640 x 360."""
    random = np.random.default_rng(seed)
    canvas = np.full((360, 640, 3), random.integers(60, 180, 3), np.uint8)
    column, truths = 640 // len(faces), []
    for number, (face, width) in enumerate(zip(faces, widths, strict=True)):
        scale = width / np.ptp(face.truths[0][:, 0])
        small = cv2.resize(face.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        small = small[:360, :column]
        x = column * number + int(random.integers(0, column - small.shape[1] + 1))
        y = int(random.integers(0, 360 - small.shape[0] + 1))
        canvas[y : y + small.shape[0], x : x + small.shape[1]] = small
        truths.append((face.truths[0] + 0.5) * scale - 0.5 + [x, y])
    return Picture(canvas, truths)


def make_cases(people: int) -> Iterator[tuple[str, dict[str, float], list[Picture]]]:
    """Yield the name of each case, the detectors' options in it, and its pictures."""
    rendered = [render(person) for person in range(people)]
    for name in POSES:
        yield name, {}, [pictures[name] for pictures in rendered]
    frontal = [pictures["frontal"] for pictures in rendered]
    yield "low light", {}, [darken(face, seed=seed) for seed, face in enumerate(frontal)]
    for width in WIDTHS:
        pictures = [place([face], widths=[width], seed=seed) for seed, face in enumerate(frontal)]
        yield f"{width} px wide", {"smallest_face": width / 360}, pictures
    groups = [[frontal[(seed + step) % people] for step in range(4)] for seed in range(people)]
    yield (
        "four faces",
        {"smallest_face": 0.15},
        [place(group, widths=[100, 80, 60, 100], seed=seed) for seed, group in enumerate(groups)],
    )
    random = np.random.default_rng(0)
    rooms = [cv2.resize(random.integers(0, 256, (9, 16, 3), dtype=np.uint8), (640, 360)) for _ in range(people)]
    yield "nobody", {"smallest_face": 0.1}, [Picture(room, []) for room in rooms]


def measure(name: str, options: dict[str, float], pictures: list[Picture]) -> Accuracy:
    """Measure how well a detector does in a case."""
    detector_class = detectors.find(name)
    detector = detector_class(detector_class.Config(**options))
    errors: list[float] = []
    extra, faces = 0, sum(len(picture.truths) for picture in pictures)
    times: dict[str, list[float]] = {"detect": [], "landmarks": []}
    for picture in pictures:
        start = time.process_time()
        boxes = detector.detect(picture.image)
        times["detect"].append(time.process_time() - start)
        for truth in picture.truths:
            outline = Box(*truth.min(axis=0), *truth.max(axis=0))
            box = max(boxes, key=outline.compute_iou, default=None)
            if box is None or outline.compute_iou(box) < MIN_IOU:
                continue
            boxes.remove(box)
            start = time.process_time()
            points = detector.predict_landmarks(picture.image, box)
            times["landmarks"].append(time.process_time() - start)
            eyes = locate_eyes(truth)
            offsets = np.linalg.norm(locate_eyes(points) - eyes, axis=1)
            errors.append(float(offsets.mean() / np.linalg.norm(eyes[1] - eyes[0])))
        extra += len(boxes)
    quantiles = np.quantile(errors, [0.5, 0.9, 1]) if errors else (np.nan,) * 3
    speed = (np.median(values or [np.nan]) * 1e3 for values in times.values())
    return Accuracy(len(errors), faces, extra, *quantiles, *speed)


def main() -> None:
    """Print a row for each case and detector."""
    parser = argparse.ArgumentParser(description="the face detectors against the truth of rendered faces")
    parser.add_argument("--people", type=int, default=24)
    add_out_option(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    title = f"Face detectors against the truth of {options.people} rendered people"
    with ResultWriter(options.out, title=title, columns=COLUMNS, threads=1) as table:
        compare(options.people, table)


def compare(people: int, table: ResultWriter) -> None:
    """Measure each detector in each case."""
    print(f"{'case':<12} {'detector':<10}    found  extra   median   90%   max   detect landmarks (ms)")
    for case, options, pictures in make_cases(people):
        for name in NAMES:
            accuracy = measure(name, options, pictures)
            print(f"{case:<12} {name:<10} {accuracy}", flush=True)
            table.add(case, f"`{name}`", *accuracy)


if __name__ == "__main__":
    main()
