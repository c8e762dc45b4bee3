"""A page that shows a video or photo beside the AUs that a detector reads from it: one file, which needs no network.

The video is made smaller, and then copied into the page with the results, both a piece at a time, so that memory does not
grow with the length of the video.
"""

from __future__ import annotations

import base64
import json
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import simplejpeg

from facscale.files import replace_file
from facscale.inference.predictor import FrameResult
from facscale.inference.tables import AULayout, SummaryMeter
from facscale.inference.viewer import describe_frame, read_asset
from facscale.ingest.frames import Frame
from facscale.report.pages import render_page
from facscale.report.prediction_video import open_video_writer, pair_frames
from facscale.report.table import Column, ReportTable

SIDE = 480  # pixels, the longer one of the video in the page at most
PIECE = 3 << 16  # bytes that are encoded at once; a multiple of 3


@dataclass(frozen=True)
class PageFacts:
    """What a page says besides the results."""

    title: str
    notes: Sequence[str] = ()  # sentences above the picture
    truth: Mapping[str, Sequence[int]] = field(default_factory=dict)  # by AU, as "AU01": 1 or 0 for each frame


def write_page(
    frames: Iterable[Frame],
    results: Iterable[FrameResult],
    path: Path,
    *,
    layout: AULayout,
    interval_s: float,
    facts: PageFacts,
    step: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> int:
    """Write the page; returns the number of frames. It appears complete or not at all.

    frames, results: in order; only frames that have a result are in the page. interval_s: seconds between frames; 0: a
    single image. step: difference of the numbers of neighbouring frames. advance: called after each frame.
    """
    meter = SummaryMeter(layout, interval_s, step)
    with replace_file(path) as partial, tempfile.TemporaryDirectory(prefix="facscale-") as folder:
        lines, media = Path(folder) / "frames.ndjson", Path(folder) / ("media.mp4" if interval_s else "media.jpg")
        count, size = _write_parts(frames, results, lines, media, layout, meter, interval_s, advance)
        marks = [f"@{secrets.token_hex(8)}@" for _ in range(3)]  # where the large parts go
        rest = _render(layout, facts, marks=marks, size=size, is_video=bool(interval_s))
        with partial.open("w", encoding="utf-8") as file:
            parts: tuple[str | Path, ...] = (_render_summary(meter), media, lines)
            for mark, part in zip(marks, parts, strict=True):
                before, _, rest = rest.partition(mark)
                file.write(before)
                _write_part(part, file, is_encoded=part is media)
            file.write(rest)
    return count


def _write_parts(
    frames: Iterable[Frame],
    results: Iterable[FrameResult],
    lines: Path,
    media: Path,
    layout: AULayout,
    meter: SummaryMeter,
    interval_s: float,
    advance: Callable[[], None],
) -> tuple[int, tuple[int, int]]:
    """Write results as lines of JSON, and the small video or picture; returns the number of frames, and (width, height)."""
    count, size = 0, (0, 0)
    rate = 1 / interval_s if interval_s else 1.0
    pairs = ((frame, result) for frame, result in pair_frames(frames, results) if result is not None)
    options = {"crf": "26", "preset": "veryfast", "g": str(max(1, round(rate)))}  # a key frame a second, for seeking
    with lines.open("w", encoding="utf-8") as file, open_video_writer(media, rate=rate, options=options) as write:
        for frame, result in pairs:
            size = (frame.image.shape[1], frame.image.shape[0])
            small = _shrink(frame.image)
            if interval_s:
                write(small, frame.time_s)
            else:
                media.write_bytes(simplejpeg.encode_jpeg(small, quality=88))
            meter.add(result)
            file.write(json.dumps(describe_frame(result, layout), separators=(",", ":")) + "\n")
            count += 1
            advance()
    return count, size


def _shrink(image: np.ndarray) -> np.ndarray:
    """Make a picture no larger than SIDE, with even sides."""
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    target = tuple(max(2, 2 * round(side * scale / 2)) for side in (width, height))
    return np.ascontiguousarray(cv2.resize(image, target, interpolation=cv2.INTER_AREA))


def _render(layout: AULayout, facts: PageFacts, *, marks: Sequence[str], size: tuple[int, int], is_video: bool) -> str:
    """The page with marks in place of its summary, its media and its frames."""
    result = {
        "aus": [f"AU{au:02d}" for au in layout.aus],
        "thresholds": [round(float(value), 6) for value in layout.thresholds],
        "truth": {name: list(map(int, labels)) for name, labels in facts.truth.items()} or None,
        "size": size,
    }
    return render_page(
        "prediction.html",
        title=facts.title,
        notes=facts.notes,
        has_truth=bool(facts.truth),
        is_video=is_video,
        result=json.dumps(result).replace("<", "\\u003c"),
        script=read_asset("viewer.js"),
        style=read_asset("viewer.css"),
        summary_mark=marks[0],
        media_mark=marks[1],
        frames_mark=marks[2],
    )


def _render_summary(meter: SummaryMeter) -> str:
    """Tables of each face: share of time, onsets, mean duration; and the pairs of AUs that are most often together."""
    summary = meter.summarize()
    texts = [f"<p>{summary['frames']} frames, {summary['frames_without_a_face']} of them without a face.</p>"]
    for number, face in summary["faces"].items():
        columns = [
            Column(name) for name in ("AU", "share of its frames", "mean probability", "onsets", "mean duration")
        ]
        rows = [
            [
                name,
                f"{100 * values['share']:.1f} %",
                f"{values['mean_probability']:.2f}",
                "" if values["onsets"] is None else str(values["onsets"]),
                "" if values["mean_seconds"] is None else f"{values['mean_seconds']:.2f} s",
            ]
            for name, values in face["aus"].items()
        ]
        texts.append(ReportTable(columns, rows, title=f"Face {number}, {face['frames']} frames").to_html())
        together = sorted(face["together"].items(), key=lambda item: -item[1])[:8]
        if together:
            words = ", ".join(f"{pair.replace('+', ' and ')} {100 * share:.0f} %" for pair, share in together)
            texts.append(f"<p>Together in most frames: {words}.</p>")
    return "\n".join(texts)


def _write_part(part: str | Path, target: IO[str], *, is_encoded: bool) -> None:
    """Write a text, or copy a file a piece at a time: as it is, or as base64. A file that is not there is empty."""
    if isinstance(part, str):
        target.write(part)
    elif part.exists():
        with part.open("rb") as file:
            while piece := file.read(PIECE):
                target.write(base64.b64encode(piece).decode() if is_encoded else piece.decode("ascii"))
