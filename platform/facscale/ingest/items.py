"""What a source holds: its files, and the items (one video each) that a layout makes of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from facscale.data import DataError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})
IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
LONGEST = 1024  # bytes of a path, as S3 has it
UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")

Files = Mapping[str, int]  # path relative to the source's root -> bytes


@dataclass(frozen=True)
class Item:
    """One video of one identity: a video file, or the image files of its frames.

    Items of the same (identity, video) differ in `part`; their tracks are numbered through in its order.
    """

    identity: str
    video: str
    part: str
    files: tuple[str, ...]  # one video file, or images in the order of their frames
    numbers: tuple[int, ...] = ()  # frame numbers of the images; empty for a video file
    first: int = 0  # number of a video file's first frame
    fps: float = 25.0  # of images; a video file knows its own
    labels: tuple[str, ...] = ()  # label files

    @property
    def order(self) -> tuple[str, str, str]:
        """The place of the item in the data set."""
        return self.identity, self.video, self.part

    @property
    def source(self) -> str:
        """The video file, or the folder of the images."""
        return str(PurePosixPath(self.files[0]).parent) if self.numbers else self.files[0]

    def to_json(self) -> str:
        """For the way to a worker."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Item:
        """What `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return Stills(**fields) if "people" in fields else Item(**fields)

    def key(self, sizes: Files) -> str:
        """A name for the item's part that changes with its files' sizes."""
        listing = [(name, sizes.get(name)) for name in (*self.files, *self.labels)]
        text = json.dumps([asdict(self), listing], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class Still(NamedTuple):
    """One image with a facial expression, as the lists of a data set name it."""

    name: str  # of the person: nobody is named in such data sets, so there is one for each image
    file: str
    part: str  # of the published split: "train" or "test"
    expression: str  # one of the layout's EXPRESSIONS


@dataclass(frozen=True)
class Stills(Item):
    """A batch of single images of one part, sorted by person; their numbers are their places in it."""

    people: tuple[str, ...] = ()  # each is a video and a track of its own
    expressions: tuple[int, ...] = ()  # numbers of the classes in the data set

    @property
    def source(self) -> str:
        """For reports."""
        return f"{self.files[0]} and {len(self.files) - 1} more"


@dataclass(frozen=True)
class Fault:
    """Something that was left out of the data set, and why."""

    item: str  # path in the source: a video file, or the folder of the images
    stage: str  # list, labels, decode, detect, faces, crash
    reason: str


@dataclass(frozen=True)
class Labels:
    """Action units of one video by frame number. `occurrence`: 0, 1, -1 not labelled; `intensity`: 0..5, -1."""

    au: tuple[int, ...] = ()
    rows: dict[int, int] = field(default_factory=dict)  # frame number -> row of the arrays
    occurrence: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int8))  # [rows, au]
    intensity: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int8))  # [rows, au]

    def coded(self, only: Collection[int] = ()) -> Labels:
        """The AUs that somebody labelled in this video, of those in `only` if it names any."""
        known = np.flatnonzero((self.occurrence >= 0).any(axis=0))
        kept = [column for column in known if not only or self.au[column] in only]
        au = tuple(self.au[column] for column in kept)
        return Labels(au, self.rows, self.occurrence[:, kept], self.intensity[:, kept])

    def at(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(occurrence [au], intensity [au]) of a frame; all -1 where nobody labelled it."""
        row = self.rows.get(number)
        if row is None:
            unknown = np.full(len(self.au), -1, np.int8)
            return unknown, unknown
        return self.occurrence[row], self.intensity[row]


@dataclass(frozen=True)
class Listing:
    """The files below a root, without those whose names cannot be trusted."""

    root: str
    files: dict[str, int]
    faults: tuple[Fault, ...]

    def fingerprint(self, items: tuple[Item, ...]) -> str:
        """Changes when a file that some item reads appears, vanishes or changes its size."""
        keys = [item.key(self.files) for item in items]
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def list_files(root: str) -> Listing:
    """All files below `root` (any fsspec URL). Raises DataError where there is nothing or nobody answers."""
    try:
        system, base = open_root(root)
        local = isinstance(system, LocalFileSystem)
        found = (
            dict(_walk(base))
            if local
            else {name: info["size"] for name, info in system.find(base, detail=True).items()}
        )
    except Exception as error:  # every file system raises its own kind
        raise DataError(f"{root}: the source cannot be listed: {error or type(error).__name__}") from error
    if not found:
        raise DataError(f"{root}: there are no files; set source.root to the folder that holds the data set")
    relative = {name[len(base) :].lstrip("/"): size for name, size in found.items()}
    faults = tuple(Fault(repr(name), "list", "unsafe file name") for name in sorted(relative) if is_unsafe(name))
    good = {name: size for name, size in sorted(relative.items()) if not is_unsafe(name) and not is_hidden(name)}
    return Listing(root=root, files=good, faults=faults)


def is_unsafe(name: str) -> bool:
    """Whether a path could lead out of its folder, break a listing, or be too long for any store."""
    parts = name.split("/")
    long = len(name.encode(errors="replace")) > LONGEST or any(
        len(part.encode(errors="replace")) > 255 for part in parts
    )
    return long or bool(UNSAFE.search(name)) or name.startswith("/") or any(part in ("", ".", "..") for part in parts)


def is_hidden(name: str) -> bool:
    """Files that file managers and archivers leave behind."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def stem(name: str) -> str:
    """The file's name without folder and suffix."""
    return PurePosixPath(name).stem


def suffix(name: str) -> str:
    """The file's suffix in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def open_root(root: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it without a slash at its end."""
    system, base = fsspec.core.url_to_fs(root)
    return system, base.rstrip("/")


def read_bytes(root: str, name: str) -> bytes:
    """One whole (small) file of a source. Raises ValueError for a name that could lead out of it: lists hold anything."""
    if is_unsafe(name):
        raise ValueError(f"{name[:80]!r} is no name of a file in the source")
    system, base = open_root(root)
    content: bytes = system.cat_file(f"{base}/{name}")
    return content


def _walk(base: str) -> list[tuple[str, int]]:
    """Data sets are often assembled from symbolic links: follow them, each folder once."""
    found: list[tuple[str, int]] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        paths = [Path(folder) / name for name in files]
        found += [(str(path), path.stat().st_size) for path in paths if path.exists()]
    return found
