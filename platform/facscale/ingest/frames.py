"""The frames of an item, one after the other: a video of any length takes the memory of a few frames."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import av
import cv2
import numpy as np
import simplejpeg
from fsspec.implementations.local import LocalFileSystem

from facscale.data import pixels
from facscale.ingest.items import Item, Stills, open_root, read_bytes, suffix

Note = Callable[[str, str], None]  # (stage, reason)
PNG = b"\x89PNG\r\n\x1a\n"
# Containers of videos alone: FFmpeg also takes a text for a video, a playlist whose lines name other files and hosts.
OPENING = {
    "format_whitelist": "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo",
    "protocol_whitelist": "file",
}
EARLY = 0.9  # of the announced frames: with fewer something is missing (counts in headers are a little off at times)


@dataclass(frozen=True)
class Frame:
    """One decoded frame."""

    number: int  # as the data set's labels count
    time_s: float  # from the start of the video
    image: np.ndarray  # RGB [H, W, 3] uint8


class Frames:
    """Iterates over each `every`-th frame of an item.

    A packet that cannot be decoded is noted and ends the video there, since the numbers of later frames would be a
    guess. Frames that the decoder patched up are noted and left out, with those that build on them (up to the next key
    frame); so are images that cannot be decoded. Raises ValueError for a video that cannot be opened.
    """

    def __init__(self, item: Item, *, root: str, every: int, note: Note) -> None:
        self.item, self.root, self.every, self.note = item, root, every, note
        self.fps = item.fps  # of the source; a video file knows its own
        self.seen = 0  # frames delivered

    @property
    def step(self) -> int:
        """Difference of the numbers of neighbouring frames: `every`, unless the images themselves leave out numbers.

        0 where no frame is a neighbour of another.
        """
        if isinstance(self.item, Stills):
            return 0
        gaps = np.diff(self.item.numbers)
        return self.every * (int(np.median(gaps)) if len(gaps) else 1)

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._images() if self.item.numbers else self._video():
            self.seen += 1
            yield frame

    def _images(self) -> Iterator[Frame]:
        chosen = range(0, len(self.item.files), self.every)
        bad: list[str] = []
        for position in chosen:
            name, number = self.item.files[position], self.item.numbers[position]
            try:
                image = decode_image(read_bytes(self.root, name), name)
            except (ValueError, FileNotFoundError, PermissionError) as error:
                bad.append(f"{name}: {error}")
                continue
            yield Frame(number, number / self.item.fps, image)
        if bad:
            self.note("decode", f"{len(bad)} of {len(chosen)} images cannot be read; the first: {bad[0]}")

    def _video(self) -> Iterator[Frame]:
        (name,) = self.item.files
        system, base = open_root(self.root)
        local = isinstance(system, LocalFileSystem)
        source: Any = f"{base}/{name}" if local else system.open(f"{base}/{name}", "rb")
        try:
            with av.open(source, metadata_errors="replace", options=OPENING) as container:
                if not container.streams.video:
                    raise ValueError("no video stream in it")
                yield from self._decoded(container)
        except av.FFmpegError as error:
            what = "of no format of videos" if error.errno == errno.EINVAL else error.strerror
            raise ValueError(f"cannot be opened as a video: {what}") from error
        finally:
            if not local:
                source.close()

    def _decoded(self, container: Any) -> Iterator[Frame]:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # the parallelism is over videos
        pixels.refuse_large(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = {"max_pixels": str(pixels.MOST)}  # a frame may be larger than its file says
        rate = float(stream.average_rate or stream.guessed_rate or self.item.fps)
        self.fps = rate
        index, damaged, broken = 0, 0, False
        for frame in self._until_fault(container, stream):
            broken = frame.is_corrupt or (broken and not frame.key_frame)
            damaged += broken
            if index % self.every == 0 and not broken:
                time = frame.time if frame.time is not None else index / rate
                yield Frame(index + self.item.first, float(time), _upright(frame))
            index += 1
        if damaged:
            self.note("decode", f"{damaged} of {index} frames are damaged and left out")
        if index < EARLY * stream.frames:
            self.note("decode", f"ends after {index} of the {stream.frames} frames that it announces")

    def _until_fault(self, container: Any, stream: Any) -> Iterator[Any]:
        decoded = container.decode(stream)
        for index in count():
            try:
                frame = next(decoded, None)
            except av.FFmpegError as error:
                if not index:
                    raise
                self.note("decode", f"stopped after {index} frames: {error.strerror}; those before are kept")
                return
            if frame is None:
                return
            yield frame


def decode_image(content: bytes, name: str) -> np.ndarray:
    """A JPEG or PNG file as RGB [H, W, 3] uint8. Raises ValueError."""
    is_jpeg = simplejpeg.is_jpeg(content)
    if is_jpeg and suffix(name) in (".jpg", ".jpeg"):
        return pixels.jpeg(content)
    pixels.refuse_large(*_size(content, is_jpeg=is_jpeg))
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if found is None:
        raise ValueError("no image")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB))


def _size(content: bytes, *, is_jpeg: bool) -> tuple[int, int]:
    """Width and height by the header."""
    if is_jpeg:
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
        return width, height
    if not content.startswith(PNG):  # OpenCV would open a dozen other formats
        raise ValueError("no JPEG and no PNG" if content else "empty file")
    width, height = struct.unpack(">II", content[16:24].ljust(8, b"\0"))
    return width, height


def _upright(frame: Any) -> np.ndarray:
    """Phones store a turned picture and the angle to turn it back by."""
    image: np.ndarray = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
