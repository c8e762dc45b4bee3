"""Frames/s of a core in each stage of the extraction of faces, against decoding alone and dlib on every frame.

    python tests/benchmarks/ingest.py [--out FILE]             a rendered video of 224 x 224 pixels, 25 frames/s
    python tests/benchmarks/ingest.py --video talk.mp4 --video talk2.mp4 --to-face 224

`--to-face` first cuts the videos to a square around the face, of so many pixels, as VoxCeleb2's are. `--full` adds the
tracker as it was: always followed backwards too. Times are of the processor, so that other programs disturb little; each is
the best of `--repeat`. Crops are of 256 pixels, JPEG 92.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "platform")]

from results import ResultWriter, add_out_option  # noqa: E402

from facscale.ingest import detectors, tracking  # noqa: E402
from facscale.ingest.extract import FaceExtractor  # noqa: E402
from facscale.ingest.frames import FrameReader  # noqa: E402
from facscale.ingest.items import Item  # noqa: E402
from facscale.spec import Pipeline  # noqa: E402
from facscale.synthetic import render_clip  # noqa: E402
from plugins.blob_faces import write_video  # noqa: E402

MARGIN = 1.6  # side of the square, in sides of the face
STAGES = ("decode", "detect", "landmarks", "recognize", "encode")
COLUMNS = ("decode", "detect", "landmarks", "recognize", "track and crop", "encode", "all")


def read(video: Path, *, every: int = 1) -> FrameReader:
    """Open a video."""
    return FrameReader(Item("a", "b", "", (video.name,)), root=str(video.parent), every=every, note=print)


def extract(videos: list[Path], options: argparse.Namespace, *, detector: str) -> dict[str, float]:
    """Return the processor's seconds by stage, in the order of the work, and in total."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline.model_validate(
            {
                "source": {"layout": "videos", "root": str(videos[0].parent), "every": options.every},
                "detector": {"name": detector, "smallest_face": options.smallest_face},
                "recognition": {} if options.recognition else None,
                "output": folder,
            }
        )
        extractor = FaceExtractor(pipeline, run="benchmark")
        extractor.detector.detect(np.zeros((64, 64, 3), np.uint8))  # the first call of a network sets it up
        extractor.clock.seconds = dict.fromkeys(STAGES, 0.0)
        started = time.process_time()
        for number, video in enumerate(videos):
            extractor(Item("a", str(number), "", (video.name,)), str(number))
        total = time.process_time() - started
        seconds = dict(extractor.clock.seconds)
        rest = total - sum(seconds.values())
        return {**seconds, "track and crop": rest, "all": total}


def time_alone(videos: list[Path], options: argparse.Namespace, *, detector: str = "") -> dict[str, float]:
    """Return the seconds of decoding alone, or of decoding and a detector on every frame."""
    worker = None
    if detector:
        detector_class = detectors.find(detector)
        worker = detector_class(detector_class.Config(smallest_face=options.smallest_face))
    started = time.process_time()
    for video in videos:
        for frame in read(video, every=options.every):
            for box in worker.detect(frame.image)[:1] if worker else []:
                worker.predict_landmarks(frame.image, box)
    return {"all": time.process_time() - started}


def cut_to_face(video: Path, *, side: int, folder: Path) -> Path:
    """Write a video of a square around the mean place of the face."""
    detector_class = detectors.find("mediapipe")
    detector = detector_class(detector_class.Config())
    images = [frame.image for frame in read(video)]
    boxes = [box for image in images[::10] for box in detector.detect(image)[:1]]
    left, top, right, bottom = np.mean(boxes, axis=0)
    half = MARGIN * max(right - left, bottom - top) / 2
    height, width = images[0].shape[:2]
    x, y = ((left + right) / 2, (top + bottom) / 2)
    square = [slice(max(0, round(c - half)), min(limit, round(c + half))) for c, limit in ((y, height), (x, width))]
    return write_video(folder / video.name, [cv2.resize(image[tuple(square)], (side, side)) for image in images])


def render(folder: Path) -> Path:
    """Write a rendered video."""
    return write_video(folder / "rendered.mp4", render_clip(identity=3, clip=0, seconds=3, fps=25, size=224).frames)


def main() -> None:
    """Print a row for each way to read the videos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, action="append", default=[])
    parser.add_argument("--to-face", type=int, default=0, metavar="PIXELS")
    parser.add_argument("--smallest-face", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--recognition", action="store_true")
    parser.add_argument("--full", action="store_true")
    add_out_option(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    columns = {"way": None, **dict.fromkeys(COLUMNS, 0)}
    with (
        tempfile.TemporaryDirectory() as name,
        ResultWriter(options.out, title="Extraction of faces, frames/s of a core", columns=columns, threads=1) as table,
    ):
        folder = Path(name)
        videos = options.video or [render(folder)]
        if options.to_face:
            videos = [cut_to_face(video, side=options.to_face, folder=folder) for video in videos]
        frames = sum(1 for video in videos for _ in read(video)) // options.every
        rows: dict[str, Callable[[], dict[str, float]]] = {
            "decoding alone": lambda: time_alone(videos, options),
            "dlib on every frame": lambda: time_alone(videos, options, detector="dlib"),
            "mediapipe on every frame": lambda: time_alone(videos, options, detector="mediapipe"),
            "pipeline, mediapipe": lambda: extract(videos, options, detector="mediapipe"),
            "pipeline, dlib": lambda: extract(videos, options, detector="dlib"),
        }
        table.note(f"{frames} frames.")
        print(f"{frames} frames; frames/s of a core\n{'':<28}" + "".join(f"{column:>15}" for column in COLUMNS))
        for title, measure in rows.items():
            add_row(table, title, [measure() for _ in range(options.repeat)], frames=frames)
        if options.full:
            tracking.SURE_DISAGREEMENT = -1.0
            for detector in ("mediapipe", "dlib"):
                times = [extract(videos, options, detector=detector) for _ in range(options.repeat)]
                add_row(table, f"{detector}, always backwards", times, frames=frames)


def add_row(table: ResultWriter, title: str, times: list[dict[str, float]], *, frames: int) -> None:
    """Print and write the speed of each stage: the best of several times."""
    best = {name: min(seconds[name] for seconds in times) for name in times[0]}
    speeds = [frames / best[column] if best.get(column) else None for column in COLUMNS]
    print(f"{title:<28}" + "".join(f"{'' if speed is None else round(speed):>15}" for speed in speeds), flush=True)
    table.add(title, *speeds)


if __name__ == "__main__":
    main()
