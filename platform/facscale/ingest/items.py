"""The contents of a source: its files, and the items (one video each) that a layout makes of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import xxhash
from fsspec.implementations.local import LocalFileSystem

from facscale.data import DataError
from facscale.data.storage import open_fsspec
from facscale.ingest.containers import get_container, read_place

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"),
        *(".ts", ".vob", ".webm", ".wmv"),
    }
)
IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png"})
MAX_PATH_BYTES = 1024  # S3's limit
MAX_NAME_BYTES = 255  # the limit of most file systems, for each part of a path
UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")

OPTIONAL = frozenset({"still", "notes", "au", "occurrence", "intensity"})  # fields of an Item

STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime")

Files = Mapping[str, int]  # path relative to the source's root -> bytes


@dataclass(frozen=True)
class Item:
    """One video of one identity: a video file, or the image files of its frames.

    Items of the same (identity, video) differ in `part`; their tracks are numbered consecutively in the order of their
    parts. The field names enter `compute_key`, and so the fingerprints of stored data sets: they must not change, and
    those from `still` on enter it only where they are set.
    """

    identity: str
    video: str
    part: str
    files: tuple[str, ...]  # one video file, or images in the order of their frames
    numbers: tuple[int, ...] = ()  # frame numbers of the images; empty for a video file
    first: int = 0  # number of a video file's first frame
    fps: float = 25.0  # of images; for a video file its header counts
    labels: tuple[str, ...] = ()  # label files
    still: bool = False  # pictures that are not neighbours in time: each is a track of its own
    notes: tuple[str, ...] = ()  # for the report: what the layout found odd about the item
    split: str = ""  # part of the published split: "train", "validation", "test"; "": none. Never in the key
    au: tuple[int, ...] = ()  # AUs of `occurrence`, for labels that lie in no file of the item
    occurrence: tuple[str, ...] = ()  # a character per AU for each frame: 0, 1, - not labelled
    intensity: tuple[str, ...] = ()  # likewise: 0 to 5, -; empty: none

    @property
    def sort_key(self) -> tuple[str, str, str]:
        """Position of the item in the data set."""
        return self.identity, self.video, self.part

    @property
    def source(self) -> str:
        """The video file, or the folder of the images."""
        return str(PurePosixPath(self.files[0]).parent) if self.numbers else self.files[0]

    def parse_labels(self) -> Labels:
        """Return the labels that the item itself holds; empty if it holds none."""
        if not self.au:
            return Labels()
        occurrence = _parse_codes(self.occurrence, len(self.au))
        intensity = _parse_codes(self.intensity, len(self.au)) if self.intensity else np.full_like(occurrence, -1)
        return Labels(self.au, {number: row for row, number in enumerate(self.numbers)}, occurrence, intensity)

    def to_json(self) -> str:
        """Serialize the item, to send it to a worker."""
        return json.dumps(asdict(self))

    def compute_stamp(self, stamps: Mapping[str, str]) -> str:
        """Hash what the store says of the item's files beside their sizes (`Listing.stamps`); "" where it says nothing."""
        values = [(name, stamps.get(get_container(name), "")) for name in (*self.files, *self.labels)]
        if not any(stamp for _, stamp in values):
            return ""
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

    @staticmethod
    def from_json(text: str) -> Item:
        """Parse the output of `to_json`: an Item or an ImageBatch."""
        fields: dict[str, Any] = json.loads(text)
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return ImageBatch(**fields) if "people" in fields else Item(**fields)

    def compute_key(self, sizes: Files) -> str:
        """Hash the item and the sizes of its files to the key of its part: 32 hex digits."""
        listing = [(name, sizes.get(get_container(name))) for name in (*self.files, *self.labels)]
        fields = asdict(self)
        fields = {name: value for name, value in fields.items() if name not in OPTIONAL or value}
        del fields["split"]
        text = json.dumps([fields, listing], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class LabelledImage(NamedTuple):
    """One image with a facial expression or with AUs, as the lists of a data set name it."""

    name: str  # of the person: such data sets name nobody, so every image is a person of its own
    file: str
    part: str = ""  # of the published split: "train" or "test"; "": there is none
    expression: str = ""  # one of the layout's `expressions`; "" where it has none
    au: tuple[tuple[int, int], ...] = ()  # (AU, 1 or 0) for each AU that is labelled


@dataclass(frozen=True)
class ImageBatch(Item):
    """A batch of single images of one part of the split, sorted by person; `numbers` are their positions in it."""

    people: tuple[str, ...] = ()  # each is a video and a track of its own
    expressions: tuple[int, ...] = ()  # class numbers in the data set

    @property
    def source(self) -> str:
        """A short description for reports."""
        return f"{self.files[0]} and {len(self.files) - 1} more"


@dataclass(frozen=True)
class Fault:
    """Something that was left out of the data set, and why."""

    item: str  # path in the source: a video file, the folder of the images, or a folder
    stage: str  # list, labels, decode, detect, faces, crash
    reason: str


@dataclass(frozen=True)
class Labels:
    """Action units of one video by frame number. `occurrence`: 0, 1, -1 not labelled; `intensity`: 0..5, -1."""

    au: tuple[int, ...] = ()
    rows: dict[int, int] = field(default_factory=dict)  # frame number -> row of the arrays
    occurrence: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int8))  # [rows, au]
    intensity: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int8))  # [rows, au]

    def select_coded(self, only: Collection[int] = ()) -> Labels:
        """Keep the AUs that are labelled in some frame of this video; `only`, if not empty, restricts them further."""
        coded = np.flatnonzero((self.occurrence >= 0).any(axis=0))
        columns = [column for column in coded if not only or self.au[column] in only]
        au = tuple(self.au[column] for column in columns)
        return Labels(au, self.rows, self.occurrence[:, columns], self.intensity[:, columns])

    def get_frame(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (occurrence [au], intensity [au]) of a frame; all -1 for a frame that is not labelled."""
        row = self.rows.get(number)
        if row is None:
            unlabelled = np.full(len(self.au), -1, np.int8)
            return unlabelled, unlabelled
        return self.occurrence[row], self.intensity[row]


@dataclass(frozen=True)
class Listing:
    """The files below a root, without hidden ones and those with unsafe names."""

    root: str
    files: dict[str, int]
    faults: tuple[Fault, ...]
    stamps: dict[str, str] = field(default_factory=dict)  # of each file, what changes when it is written again

    def fingerprint(self, items: tuple[Item, ...]) -> str:
        """Hash the items: changes when a file that an item reads appears, vanishes or changes its size."""
        keys = [item.compute_key(self.files) for item in items]
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _parse_codes(rows: Sequence[str], width: int) -> np.ndarray:
    codes = [[int(code) if code.isdigit() else -1 for code in row] for row in rows]
    return np.array(codes, np.int8).reshape(len(rows), width)


def list_files(root: str) -> Listing:
    """List all files below `root` (any fsspec URL). Raises DataError if there are none or the store does not answer."""
    try:
        system, base = open_root(root)
        if isinstance(system, LocalFileSystem):
            entries = _walk(base)
        else:
            system.invalidate_cache()  # of what an earlier run in this process listed
            entries = [
                (path, info["size"], _make_stamp(info))
                for path, info in system.find(base, detail=True).items()
                if not _is_folder_marker(path, info, base)
            ]
    except Exception as error:  # each file system raises errors of its own classes
        raise DataError(f"{root}: the source cannot be listed: {str(error) or type(error).__name__}") from error
    if not entries:
        raise DataError(f"{root}: there are no files; set source.root to the folder that holds the data set")
    relative = {path[len(base) :].lstrip("/"): size for path, size, _ in entries}
    stamps = {path[len(base) :].lstrip("/"): stamp for path, _, stamp in entries}
    faults = tuple(Fault(repr(name), "list", "unsafe file name") for name in sorted(relative) if is_unsafe(name))
    files = {name: size for name, size in sorted(relative.items()) if not is_unsafe(name) and not is_hidden(name)}
    return Listing(root=root, files=files, faults=faults, stamps={name: stamps[name] for name in files})


def _is_folder_marker(path: str, info: Mapping[str, Any], base: str) -> bool:
    """Return whether an object of a bucket is a folder that was made in the store's console: empty, with a slash at the end."""
    return not info["size"] and (path.endswith("/") or path == base)


def is_unsafe(name: str) -> bool:
    """Return whether a path could lead out of its folder, break a listing, or be too long for a store."""
    parts = name.split("/")
    is_too_long = len(name.encode(errors="replace")) > MAX_PATH_BYTES or any(
        len(part.encode(errors="replace")) > MAX_NAME_BYTES for part in parts
    )
    has_bad_part = any(part in ("", ".", "..") for part in parts)
    return is_too_long or has_bad_part or bool(UNSAFE.search(name)) or name.startswith("/")


def is_hidden(name: str) -> bool:
    """Return whether a file manager or an archiver left the file behind."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def get_stem(name: str) -> str:
    """Return the file's name without folder and suffix."""
    return PurePosixPath(name).stem


def get_suffix(name: str) -> str:
    """Return the file's suffix in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def open_root(root: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it without a trailing slash."""
    system, base = open_fsspec(root)
    return system, base.rstrip("/")


def read_bytes(root: str, name: str) -> bytes:
    """Read one small file of a source. Raises ValueError for a name that could lead out of it: lists are untrusted."""
    if is_unsafe(name):
        raise ValueError(f"{name[:80]!r} is not a valid name of a file in the source")
    system, base = open_root(root)
    content = read_place(system, base, name)
    if content is None:
        content = system.cat_file(f"{base}/{name}")
    return content


def hash_content(root: str, names: Sequence[str]) -> str:
    """Hash the contents of files of a local source (32 hex digits); "" for any other, or if one cannot be read."""
    system, base = open_root(root)
    if not isinstance(system, LocalFileSystem):
        return ""
    digest = xxhash.xxh3_128()
    try:
        for name in names:
            if get_container(name) != name:
                digest.update(read_bytes(root, name))
                continue
            with Path(base, name).open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            digest.update(b"\0")
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()


def _make_stamp(info: Mapping[str, Any]) -> str:
    """Return what a store says of a file that is written again: its ETag, or else when it was written."""
    for key in STAMPS:
        if info.get(key):
            return str(info[key]).strip('"')
    return ""


def _walk(base: str) -> list[tuple[str, int, str]]:
    """List (path, bytes, time of the last change in ns) of all files; symbolic links, common in assembled data sets, are followed, each folder once."""
    entries: list[tuple[str, int, str]] = []
    visited: set[str] = set()
    for folder, folders, files in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        paths = [Path(folder) / name for name in files]
        facts = [(str(path), path.stat()) for path in paths if path.exists()]
        entries += [(path, fact.st_size, str(fact.st_mtime_ns)) for path, fact in facts]
    return entries
