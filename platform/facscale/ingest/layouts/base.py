"""The interface between the layout of a data set and the pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from facscale.ingest.items import IMAGE_SUFFIXES, Files, Item, LabelledImage, Labels, get_suffix
from facscale.spec import Block

Read = Callable[[str], bytes]  # the content of a small file, by its name in the source


class LayoutConfig(Block):
    """The options of every layout: none. A layout's own Config adds keys to the block `source`."""


class Layout:
    """Finds the videos, images and labels of a data set in the listing of its files.

    A layout of videos overrides `list_items`, and `read_labels` if it has labels; one of single images overrides
    `list_images` and sets `has_images`.
    """

    Config: ClassVar[type[LayoutConfig]] = LayoutConfig
    expressions: ClassVar[tuple[str, ...]] = ()  # names of the classes, in order; empty: no facial expressions
    has_images: ClassVar[bool] = False  # single images, from `list_images`
    parts: ClassVar[tuple[str, ...]] = ()  # of the published split, that single images must have
    published: ClassVar[str] = ""  # its name in `data.published_sizes`; "": not known
    label_place: ClassVar[str] = ""  # where its label files are, for an error if there are none; "": it has none

    def __init__(self, config: Any = None) -> None:
        self.config: Any = config if config is not None else self.Config()

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield the videos among `files`, in any order; files that belong to no video are ignored."""
        raise NotImplementedError(f"{type(self).__name__} has single images, not videos")

    def read_labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:  # noqa: ARG002
        """Return the item's labels, and notes on missing or odd ones. Raises ValueError naming the file."""
        return Labels(), []

    def list_images(self, files: Files, read: Read) -> Iterator[LabelledImage]:
        """Yield the images that the lists of the data set name. Raises ValueError for lists that are missing or wrong."""
        raise NotImplementedError(f"{type(self).__name__} has videos, not single images")


def list_sequences(files: Files, *, image: re.Pattern[str], labels: re.Pattern[str], fps: float) -> Iterator[Item]:
    """Yield an item for each folder of images, with its label files.

    The first two groups of both patterns are the subject (capitals and small letters are the same) and the sequence; the
    third one of `image` is the number of the frame.
    """
    folders = FrameFolders()
    label_files: dict[tuple[str, str], list[str]] = {}
    for name in files:
        frame, text = image.fullmatch(name), labels.fullmatch(name)
        if frame and get_suffix(name) in IMAGE_SUFFIXES:
            folders.add((frame[1].upper(), frame[2]), int(frame[3]), name)
        elif text:
            label_files.setdefault((text[1].upper(), text[2]), []).append(name)
    for (subject, sequence), frames in folders:
        own = tuple(sorted(label_files.get((subject, sequence), ())))
        yield Item(identity=subject, video=sequence, part="", fps=fps, labels=own, **frames)


class FrameFolders:
    """Collects image files of frames into folders, each sorted by the number of the frame.

    Zero-padding differs within data sets, so frames are compared as numbers. Of two files for one frame the first in the
    order of names is kept, and noted.
    """

    def __init__(self) -> None:
        self._frames: dict[Any, dict[int, str]] = {}
        self._twice: dict[Any, list[str]] = {}

    def add(self, folder: Any, number: int, name: str) -> None:
        """Add a file to a folder, whose key can be anything hashable."""
        frames = self._frames.setdefault(folder, {})
        if number in frames:
            first, second = sorted((frames[number], name))
            self._twice.setdefault(folder, []).append(f"{first} and {second}")
            name = first
        frames[number] = name

    def __iter__(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield (folder, the fields `files`, `numbers` and `notes` of its item)."""
        for folder, frames in self._frames.items():
            twice = self._twice.get(folder, [])
            notes = (f"frames with two files: {len(twice)}, such as {min(twice)}; the first is used",) if twice else ()
            numbers = tuple(sorted(frames))
            yield folder, {"files": tuple(frames[number] for number in numbers), "numbers": numbers, "notes": notes}
