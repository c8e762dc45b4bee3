"""Decodes the frames of an item one after the other: a video of any length takes the memory of a few frames."""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import av
import cv2
import numpy as np
import simplejpeg
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from fsspec.implementations.local import LocalFileSystem

from facscale.data import pixels
from facscale.ingest import geometry, shots
from facscale.ingest.items import ImageBatch, Item, open_root, read_bytes

NoteFault = Callable[[str, str], None]  # (stage, reason)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Video containers only: FFmpeg would also open a text file as a playlist, whose lines name other files and hosts.
AV_OPTIONS = {
    "format_whitelist": "asf,avi,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo,ogg",
    "protocol_whitelist": "file",
}
AHEAD = 16  # images of a remote source that are read at the same time
MIN_DECODED_SHARE = 0.9  # of the announced frames: fewer means that some are missing (headers can be a little off)


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    number: int  # as the labels of the data set count
    time_s: float  # from the start of the video
    image: np.ndarray  # RGB [H, W, 3] uint8
    starts_shot: bool = False  # the camera changed between the frame before and this one


class FrameReader:
    """Iterates over every `every`-th frame of an item.

    A packet that cannot be decoded is noted as a fault and ends the video there, since the numbers of later frames would
    be a guess. Frames that the decoder concealed errors in are noted and left out, together with those that depend on
    them (up to the next key frame); so are images that cannot be decoded. Raises ValueError for a video that cannot be
    opened.
    """

    def __init__(self, item: Item, *, root: str, every: int, note: NoteFault) -> None:
        self.item, self.root, self.every, self.note = item, root, every, note
        self.fps = item.fps  # of the source; for a video file it is replaced when the file is opened
        self.frames_read = 0
        self.shot_cuts = 0

    @property
    def step(self) -> int:
        """Difference of the numbers of neighbouring frames: `every`, unless the image numbers themselves have gaps.

        0 for single images, which have no neighbours.
        """
        if self.item.still or isinstance(self.item, ImageBatch):
            return 0
        gaps = np.diff(self.item.numbers)
        return self.every * (int(np.median(gaps)) if len(gaps) else 1)

    @property
    def interval_s(self) -> float:
        """Seconds between neighbouring frames; for a video file, known when it is open."""
        return (self.step or self.every) / self.fps

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._read_images() if self.item.numbers else self._read_video():
            self.frames_read += 1
            yield frame

    def _read_images(self) -> Iterator[Frame]:
        positions = range(0, len(self.item.files), self.every)
        errors: list[str] = []
        shot_cuts = shots.ShotCutDetector()
        contents = read_ahead([self.item.files[position] for position in positions], root=self.root)
        for position, content in zip(positions, contents, strict=True):
            name, number = self.item.files[position], self.item.numbers[position]
            try:
                image = decode_image(content.result())
            except (ValueError, FileNotFoundError, PermissionError) as error:
                errors.append(f"{name}: {error}")
                continue
            starts_shot = bool(self.step) and shot_cuts.is_cut(shots.make_thumbnail(image))
            self.shot_cuts += starts_shot
            yield Frame(number, number / self.item.fps, image, starts_shot)
        if errors:
            self.note("decode", f"{len(errors)} of {len(positions)} images cannot be read; the first: {errors[0]}")

    def _read_video(self) -> Iterator[Frame]:
        (name,) = self.item.files
        system, base = open_root(self.root)
        is_local = isinstance(system, LocalFileSystem)
        source: Any = f"{base}/{name}" if is_local else system.open(f"{base}/{name}", "rb")
        try:
            with av.open(source, metadata_errors="replace", options=AV_OPTIONS) as container:
                stream = container.streams.best("video")  # FFmpeg's choice: not the picture of a cover
                if stream is None:
                    raise ValueError("the file has no video stream")
                self._note_other_streams(container, stream)
                yield from self._decode_video(container, stream)
        except av.FFmpegError as error:
            reason = "not a supported video format" if error.errno == errno.EINVAL else error.strerror
            raise ValueError(f"cannot be opened as a video: {reason}") from error
        finally:
            if not is_local:
                source.close()

    def _note_other_streams(self, container: Any, stream: Any) -> None:
        others = [other for other in container.streams.video if other is not stream and not _is_cover(other)]
        if others:
            size = f"{stream.codec_context.width} x {stream.codec_context.height}"
            self.note("decode", f"{len(others)} more video streams; only stream {stream.index} ({size} pixels) is read")

    def _decode_video(self, container: Any, stream: Any) -> Iterator[Frame]:
        stream.codec_context.thread_count = 1  # videos are processed in parallel, not frames
        picture = _PictureReader(stream, note=self.note)
        stream.codec_context.options = {"max_pixels": str(pixels.MAX_PIXELS)}  # a frame may exceed the header's size
        rate = float(stream.average_rate or stream.guessed_rate or self.item.fps)
        self.fps = rate
        index, damaged, is_broken, start = 0, 0, False, None
        shot_cuts, starts_shot, sampler = shots.ShotCutDetector(), False, VideoReformatter()
        for frame in self._decode_until_error(container, stream):
            is_broken = frame.is_corrupt or (is_broken and not frame.key_frame)
            damaged += is_broken
            if not is_broken:
                # The frames between the kept ones are compared too; converting all of their pixels would take too long.
                samples = sampler.reformat(
                    frame, shots.SAMPLED_SIDE, shots.SAMPLED_SIDE, "rgb24", interpolation="POINT"
                ).to_ndarray()
                if shot_cuts.is_cut(shots.make_thumbnail(samples)):
                    starts_shot = True
                    self.shot_cuts += 1
            time = frame.time if frame.time is not None else index / rate
            start = time if start is None else start  # program streams begin above 0
            if index % self.every == 0 and not is_broken:
                yield Frame(index + self.item.first, float(time - start), picture.read(frame), starts_shot)
                starts_shot = False
            index += 1
        if damaged:
            self.note("decode", f"{damaged} of {index} frames are damaged and left out")
        if index < MIN_DECODED_SHARE * stream.frames:
            self.note("decode", f"ends after {index} of the {stream.frames} frames that its header announces")

    def _decode_until_error(self, container: Any, stream: Any) -> Iterator[Any]:
        decoded = container.decode(stream)
        for index in count():
            try:
                frame = next(decoded, None)
            except av.FFmpegError as error:
                if not index:
                    raise
                self.note("decode", f"stopped after {index} frames: {error.strerror}; the frames before are kept")
                return
            if frame is None:
                return
            yield frame


def read_ahead(names: Sequence[str], *, root: str) -> Iterator[Future[bytes]]:
    """Yield the content of each file of a source, in order, while the next AHEAD are being read.

    Waiting for a store would otherwise take longer than the work. A local disk is read one file at a time.
    """
    system, _ = open_root(root)
    readers = 1 if isinstance(system, LocalFileSystem) else AHEAD
    remaining, pending = iter(names), deque[Future[bytes]]()
    with ThreadPoolExecutor(readers, thread_name_prefix="images") as pool:
        try:
            pending.extend(pool.submit(read_bytes, root, name) for name in islice(remaining, readers))
            while pending:
                content = pending.popleft()
                wait([content])
                pending.extend(pool.submit(read_bytes, root, name) for name in islice(remaining, 1))
                yield content
        finally:
            for content in pending:
                content.cancel()


def decode_image(content: bytes) -> np.ndarray:
    """Decode a JPEG or PNG file, upright by its EXIF orientation, to RGB [H, W, 3] uint8. Raises ValueError."""
    if simplejpeg.is_jpeg(content):
        return geometry.orient(pixels.decode_jpeg(content), geometry.read_orientation(content))
    pixels.check_image_size(*_read_png_size(content))
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("cannot be decoded as an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def _read_png_size(content: bytes) -> tuple[int, int]:
    """Read width and height from the header. Raises ValueError for another kind of file."""
    if not content.startswith(PNG_SIGNATURE):  # OpenCV would open a dozen other formats
        raise ValueError("neither a JPEG nor a PNG file" if content else "empty file")
    width, height = struct.unpack(">II", content[16:24].ljust(8, b"\0"))
    return width, height


def _is_cover(stream: Any) -> bool:
    return Disposition.attached_pic in stream.disposition or stream.codec_context.name in ("mjpeg", "png")


class _PictureReader:
    """Converts the frames of a video stream to RGB as a player shows them: with square pixels, upright, not mirrored.

    Raises ValueError for a stream with more pixels than are decoded.
    """

    def __init__(self, stream: Any, *, note: NoteFault) -> None:
        self._note, self._has_noted_skew = note, False
        width, height = stream.codec_context.width, stream.codec_context.height
        self._aspect = geometry.read_pixel_aspect(stream)
        if not 1 / geometry.MAX_ASPECT <= self._aspect <= geometry.MAX_ASPECT:
            note(
                "decode",
                f"its header says that pixels are {self._aspect:.3g} times as wide as high: read as square ones",
            )
            self._aspect = 1.0
        pixels.check_image_size(*geometry.compute_display_size(width, height, aspect=self._aspect))

    def read(self, frame: Any) -> np.ndarray:
        """Return RGB [H, W, 3] uint8."""
        matrix = geometry.read_display_matrix(frame)
        if self._aspect != 1:
            width, height = geometry.compute_display_size(frame.width, frame.height, aspect=self._aspect)
            frame = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
        image: np.ndarray = frame.to_ndarray(format="rgb24")
        if matrix == geometry.DisplayMatrix():
            return image
        if matrix.skew > geometry.MAX_SKEW and not self._has_noted_skew:
            self._has_noted_skew = True
            self._note(
                "decode", "its display matrix turns the picture by no right angle: read turned by the nearest one"
            )
        return matrix.apply(image)
