"""Frames a second of one core in each stage of the extraction of faces, against decoding alone and plain dlib.

    python tests/benchmarks/ingest.py                      a rendered video of 224 x 224 pixels, 25 frames/s
    python tests/benchmarks/ingest.py --video talk.mp4 --smallest-face 0.25

Each stage includes those before it. Times are of the process, not of the clock, so that other programs disturb little;
each is the best of `--repeat`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import simplejpeg

from facscale.ingest import detectors
from facscale.ingest.crops import crop_faces
from facscale.ingest.frames import FrameReader
from facscale.ingest.items import Item
from facscale.ingest.tracking import FaceTracker
from facscale.spec.pipelines import Crop

sys.path.insert(0, str(Path(__file__).parents[1]))


def measure(video: Path, *, smallest_face: float, every: int, repeat: int) -> list[tuple[str, float]]:
    """Return (stage, frames of the source a second of one core)."""
    detector_class = detectors.find("dlib")
    config = detector_class.Config(smallest_face=smallest_face)
    detector = detector_class(config)

    def read() -> FrameReader:
        return FrameReader(Item("a", "b", "", (video.name,)), root=str(video.parent), every=every, note=print)

    def track() -> list:
        frames = read()
        return list(FaceTracker(detector, config=config, step=frames.step).track(frames))

    def detect_all() -> None:
        for frame in read():
            for box in detector.detect(frame.image)[:1]:
                detector.predict_landmarks(frame.image, box)

    def encode() -> None:
        for crop in crop_faces(track(), Crop()):
            simplejpeg.encode_jpeg(crop.image, quality=Crop().quality)

    stages: dict[str, Callable[[], object]] = {
        "decoding alone": lambda: list(read()),
        "decoding, dlib on every frame": detect_all,
        "decoding, tracking": track,
        "decoding, tracking, crops": lambda: list(crop_faces(track(), Crop())),
        "all, with JPEG": encode,
    }
    count = sum(1 for _ in read()) * every
    return [(name, count / min(_time(stage) for _ in range(repeat))) for name, stage in stages.items()]


def _time(stage: Callable[[], object]) -> float:
    started = time.process_time()
    stage()
    return time.process_time() - started


def _render(folder: Path) -> Path:
    from facscale.synthetic import render_clip
    from plugins.blob_faces import write_video

    return write_video(folder / "rendered.mp4", render_clip(identity=3, clip=0, seconds=3, fps=25, size=224).frames)


def main() -> None:
    """Print a line for each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path)
    parser.add_argument("--smallest-face", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or _render(Path(folder))
        for name, speed in measure(
            video, smallest_face=options.smallest_face, every=options.every, repeat=options.repeat
        ):
            sys.stdout.write(f"{name:<32}{speed:8.0f} frames/s a core\n")


if __name__ == "__main__":
    main()
