"""A video with what a detector says of it drawn in: boxes, landmarks, and bars of AUs at its side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from facscale.files import replace_file
from facscale.inference.predictor import FaceResult, FrameResult
from facscale.inference.tables import AULayout
from facscale.ingest.frames import Frame

TIME_BASE = 90_000  # ticks a second
PANEL = 270  # pixels, width of the strip with the bars
BAR = 120  # pixels, length of a bar for probability 1
ROW = 20  # pixels, height of a bar with its gap
PRESENT, ABSENT, INK, PAPER = (245, 185, 66), (31, 95, 168), (34, 34, 34), (255, 255, 255)  # RGB
NOBODY = (200, 200, 200)


def write_overlay(
    frames: Iterable[Frame],
    results: Iterable[FrameResult],
    path: Path,
    *,
    layout: AULayout,
    rate: float,
    advance: Callable[[], None] = lambda: None,
) -> int:
    """Write an H.264 video of the frames with their results drawn in, without sound; returns the number of frames.

    frames, results: in order; a frame without a result is drawn as it is. rate: frames a second, about. advance: called
    after each frame. The bars are the probabilities of the largest face, with its intensities in brackets; other faces have
    their boxes. The file appears complete or
    not at all.
    """
    count = 0
    with open_video_writer(path, rate=rate) as write:
        for frame, result in pair_frames(frames, results):
            write(draw_frame(frame.image, result, layout), frame.time_s)
            count += 1
            advance()
    return count


def pair_frames(frames: Iterable[Frame], results: Iterable[FrameResult]) -> Iterator[tuple[Frame, FrameResult | None]]:
    """Pair each frame with the result of the same number; None where there is none. Both are in order."""
    iterator = iter(results)
    result = next(iterator, None)
    for frame in frames:
        while result is not None and result.number < frame.number:
            result = next(iterator, None)
        yield frame, result if result is not None and result.number == frame.number else None


def draw_frame(image: np.ndarray, result: FrameResult | None, layout: AULayout) -> np.ndarray:
    """Draw a result on a frame [H, W, 3], and the bars on a strip at its right: [H', W + PANEL, 3] uint8, sides even."""
    height, width = image.shape[:2]
    full = max(height, ROW * (len(layout.aus) + 2))
    canvas = np.empty((full + full % 2, width + PANEL + width % 2, 3), np.uint8)
    canvas[:] = PAPER
    canvas[:height, :width] = image
    faces = result.faces if result else ()
    largest = max(faces, key=lambda face: face.box.area, default=None)
    scale = max(1, round(min(height, width) / 360))
    for face in faces:
        _draw_face(canvas[:height, :width], face, colour=PRESENT if face is largest else NOBODY, scale=scale)
    _draw_bars(canvas[:, width:], largest, layout)
    return canvas


def _draw_face(picture: np.ndarray, face: FaceResult, *, colour: tuple[int, int, int], scale: int) -> None:
    (left, top), (right, bottom) = (tuple(round(v) for v in corner) for corner in (face.box[:2], face.box[2:]))
    cv2.rectangle(picture, (left, top), (right, bottom), colour, scale)
    place = (left, max(12 * scale, top - 4))
    cv2.putText(picture, f"face {face.face}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * scale, colour, scale, cv2.LINE_AA)
    for point in face.points[np.isfinite(face.points).all(axis=1)]:
        cv2.circle(picture, (round(float(point[0])), round(float(point[1]))), scale, colour, -1)


def _draw_bars(panel: np.ndarray, face: FaceResult | None, layout: AULayout) -> None:
    title = "no face" if face is None else f"face {face.face}"
    _put_text(panel, title, 8, 15)
    if face is None:
        return
    first, length = 56, BAR
    rated = dict(zip(layout.intensity_aus, face.intensity, strict=True)) if face.intensity is not None else {}
    for number, (au, decision) in enumerate(zip(layout.aus, layout.decide(face.probability), strict=True), start=1):
        value, y = float(face.probability[number - 1]), ROW * number + 4
        _put_text(panel, f"AU{au:02d}", 8, y + 12)
        cv2.rectangle(panel, (first, y), (first + length, y + 14), (238, 238, 238), -1)
        cv2.rectangle(panel, (first, y), (first + round(length * value), y + 14), PRESENT if decision else ABSENT, -1)
        mark = first + round(length * float(layout.thresholds[number - 1]))
        cv2.line(panel, (mark, y), (mark, y + 14), INK, 1)
        words = f"{value:.2f}" + (f" ({rated[au]:.1f})" if au in rated else "")
        _put_text(panel, words, first + length + 5, y + 12)


def _put_text(panel: np.ndarray, text: str, x: int, y: int) -> None:
    cv2.putText(panel, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)


@contextmanager
def open_video_writer(
    path: Path, *, rate: float, options: dict[str, str] | None = None
) -> Iterator[Callable[[np.ndarray, float], None]]:
    """Yield a function that appends a frame [H, W, 3] uint8, all of the same even sides, at a time in seconds.

    The video is H.264 in MP4, and keeps the times of its frames. It appears complete or not at all; without any frame
    there is none.
    """
    state: dict[str, Any] = {"last": -1}

    def write(image: np.ndarray, time_s: float) -> None:
        stream = state.get("stream") or start(image)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        state["last"] = frame.pts = max(round(time_s * TIME_BASE), state["last"] + 1)
        container.mux(stream.encode(frame))

    def start(image: np.ndarray) -> Any:
        stream = container.add_stream(
            "libx264", rate=max(1, round(rate)), options=options or {"crf": "20", "preset": "veryfast"}
        )
        stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, TIME_BASE)
        state["stream"] = stream
        return stream

    with replace_file(path) as partial:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container:
            yield write
            if "stream" in state:
                container.mux(state["stream"].encode())
        if "stream" not in state:
            partial.unlink(missing_ok=True)
