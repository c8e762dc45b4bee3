"""What is to be predicted: files, folders, globs and URLs of videos and images, and data sets of shards."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import av
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from facscale.data import DataError
from facscale.data.manifest import MANIFEST
from facscale.data.storage import open_fsspec
from facscale.errors import UserError
from facscale.ingest.frames import AV_OPTIONS, Frame, FrameReader, decode_image
from facscale.ingest.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Item, list_files, open_root, read_bytes

Kind = Literal["video", "image", "data set"]
DEFAULT_FPS = 25.0  # where a header does not say
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # of the images that are read


class InputError(UserError):
    """An input cannot be read, or there is none."""


@dataclass(frozen=True)
class Input:
    """Something to predict: a video, an image or a data set."""

    kind: Kind
    root: str  # the folder that it is in; for a data set its own
    name: str  # its path there; "" for a data set
    stamp: str = ""  # changes when the file is written again

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{self.root}/{self.name}" if self.name else self.root

    @property
    def key(self) -> str:
        """A hash of where it is and what it was when it was listed."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class VideoFacts:
    """What the header of a video says, which may be wrong."""

    fps: float
    frames: int  # 0: it does not say


def list_inputs(words: Sequence[str]) -> tuple[list[Input], int]:
    """List all videos, images and data sets that the words name, and count the files of folders that are neither.

    A word is a file, a folder (searched with all below it), a pattern with * ? or [, a data set, or a URL of one of these.
    Each input is listed once, in the order of the words. Raises InputError for a word that names nothing.
    """
    inputs: list[Input] = []
    others = 0
    for word in words:
        expanded, ignored = _expand(word)
        others += ignored
        if not expanded:
            raise InputError(f"{word}: there is no video, image or data set (you are in {Path.cwd()})")
        inputs += expanded
    return list({item.url: item for item in reversed(inputs)}.values())[::-1], others


def open_video(item: Input, *, every: int, note: Any) -> tuple[Iterator[Frame], VideoFacts]:
    """Open a video: its frames, and what its header says. `note(stage, reason)` is called for what is left out.

    Raises InputError for a file that is no video, or has no picture.
    """
    facts = probe_video(item)
    reader = FrameReader(Item("", item.name, "", (item.name,)), root=item.root, every=every, note=note)
    return _read(reader, item.url), facts


def probe_video(item: Input) -> VideoFacts:
    """Read frame rate and number of frames from the header of a video. Raises InputError."""
    system, base = open_root(item.root)
    is_local = isinstance(system, LocalFileSystem)
    try:
        source: Any = f"{base}/{item.name}" if is_local else system.open(f"{base}/{item.name}", "rb")
        try:
            with av.open(source, metadata_errors="replace", options=AV_OPTIONS) as container:
                stream = container.streams.best("video")
                if stream is None:
                    raise InputError(f"{item.url}: has no video stream{_list_streams(container)}")
                rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
                frames = stream.frames
                if not frames and container.duration:
                    frames = round(container.duration / av.time_base * rate)
                return VideoFacts(rate, frames)
        finally:
            if not is_local:
                source.close()
    except av.FFmpegError as error:
        reason = "not a supported video format" if error.errno == errno.EINVAL else error.strerror
        raise InputError(f"{item.url}: cannot be opened as a video: {reason}") from None
    except OSError as error:
        raise InputError(f"{item.url}: cannot be read: {error.strerror or error}") from None


def read_image(item: Input) -> np.ndarray:
    """Read an image, upright by its EXIF orientation: RGB [H, W, 3] uint8. Raises InputError."""
    try:
        return decode_image(read_bytes(item.root, item.name))
    except (ValueError, OSError) as error:
        raise InputError(f"{item.url}: cannot be read as an image: {error}; give a JPEG or PNG file") from None


def _read(reader: FrameReader, url: str) -> Iterator[Frame]:
    try:
        yield from reader
    except ValueError as error:  # of a header that only the decoder sees through
        raise InputError(f"{url}: {error}") from None
    except av.FFmpegError as error:
        raise InputError(f"{url}: cannot be decoded: {error.strerror}") from None


def _list_streams(container: Any) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    return f", only {' and '.join(kinds)}" if kinds else ""


def _expand(word: str) -> tuple[list[Input], int]:
    is_url = "://" in word
    path = Path(word).expanduser()
    if not is_url and path.is_file():
        return [_describe_file(str(path.parent.absolute()), path.name)], 0
    if not is_url and path.is_dir():
        return _list_folder(str(path.absolute()))
    if any(letter in word for letter in "*?["):
        return _list_matches(word)
    if not is_url:
        raise InputError(f"{word}: there is no such file or folder (you are in {Path.cwd()})")
    system, base = _open(word)
    if system.isfile(base):
        root, _, name = word.rpartition("/")
        return [_describe_file(root, name)], 0
    return _list_folder(word.rstrip("/"))


def _open(url: str) -> tuple[Any, str]:
    try:
        system, base = open_fsspec(url)
        system.exists(base)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - each file system raises errors of its own classes
        raise InputError(f"{url}: cannot be read: {str(error) or type(error).__name__}") from None
    return system, base


def _list_folder(root: str) -> tuple[list[Input], int]:
    system, base = _open(root)
    manifests = (f"{base.rstrip('/')}/{MANIFEST}", f"{base.rstrip('/')}/{MANIFEST.rpartition('/')[2]}")
    if any(system.isfile(manifest) for manifest in manifests):
        return [Input("data set", root, "")], 0
    listing = list_files(root)
    kinds = {name: _find_kind(name) for name in listing.files}
    media = [Input(kind, root, name, _make_stamp(listing, name)) for name, kind in kinds.items() if kind]
    return media, len(kinds) - len(media)


def _make_stamp(listing: Any, name: str) -> str:
    return f"{listing.files[name]} {listing.stamps.get(name, '')}"


def _list_matches(pattern: str) -> tuple[list[Input], int]:
    if "://" not in pattern:
        files = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 - patterns with folders
        pairs = [(str(Path(file).absolute().parent), Path(file).name) for file in files if Path(file).is_file()]
    else:
        fixed = pattern.split("*", maxsplit=1)[0].split("?", maxsplit=1)[0].split("[", maxsplit=1)[0].rpartition("/")[0]
        system, base = _open(fixed)
        inside = pattern.removeprefix(fixed)
        names = sorted(path.removeprefix(base).lstrip("/") for path in system.glob(base.rstrip("/") + inside))
        pairs = [(fixed, name) for name in names]
    inputs = [_describe_file(root, name) for root, name in pairs if _find_kind(name)]
    return inputs, len(pairs) - len(inputs)


def _describe_file(root: str, name: str) -> Input:
    """A file that is named by the user: without a telling suffix it is an image by its first bytes, else a video."""
    system, base = open_root(root)
    info = system.info(f"{base}/{name}")
    stamp = f"{info['size']} {info.get('mtime') or info.get('ETag') or info.get('LastModified') or ''}"
    kind = _find_kind(name)
    if kind is None:
        with system.open(f"{base}/{name}", "rb") as file:
            kind = "image" if file.read(8).startswith(MAGIC) else "video"
    return Input(kind, root, name, stamp)


def _find_kind(name: str) -> Kind | None:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "image" if suffix in IMAGE_SUFFIXES else None
