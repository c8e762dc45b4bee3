"""The file layouts of published data sets: `layout: bp4d` in a pipeline is the module `bp4d` in this package.

The layout of a data set of videos is a module with
- `list_items(files)`: yields the videos in a listing of the source, in any order;
- `read_labels(item, read)`: returns the labels of one video and notes on missing ones; `read(name)` gives a file's bytes.

The layout of a data set of single images with facial expressions is a module with
- `EXPRESSIONS`: the names of the classes;
- `list_images(files, read)`: yields the images that its lists name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

from facscale.ingest.items import Files, Item, LabelledImage, Labels
from facscale.spec import SpecError, suggest_nearest
from facscale.spec.pipelines import Source

Read = Callable[[str], bytes]


class Layout(Protocol):
    """The functions in the module of a layout of videos."""

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield the videos among `files`; files that belong to no video are ignored."""
        ...

    def read_labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:
        """Return the item's labels, and notes on missing ones. Raises ValueError, naming the file, for unreadable ones."""
        ...


def list_names() -> tuple[str, ...]:
    """List all layouts that a pipeline can name."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Layout:
    """Import the layout `name` of videos. Raises SpecError for an unknown one."""
    return cast("Layout", _import(name))


def list_images(name: str, files: Files, read: Read) -> Iterator[LabelledImage]:
    """Yield the images in the layout `name` of single images. Raises ValueError for lists that are missing or wrong."""
    images: Iterator[LabelledImage] = _import(name).list_images(files, read)
    return images


def select_expressions(source: Source) -> tuple[str, ...]:
    """Return the classes of a data set in order: those of the source, or all of its layout; none for videos.

    Raises SpecError for classes that the layout does not have.
    """
    available: tuple[str, ...] = getattr(_import(source.layout), "EXPRESSIONS", ())
    for name in source.expressions:
        if name not in available:
            hint = suggest_nearest(name, available) if available else f": the layout {source.layout} has no expressions"
            raise SpecError(f'source.expressions: there is no "{name}"{hint}')
    if source.expressions and len(set(source.expressions)) < max(2, len(source.expressions)):
        raise SpecError("source.expressions: name two or more, each once")
    return source.expressions or available


def _import(name: str) -> Any:
    if name not in list_names():
        raise SpecError(f'there is no layout "{name}"{suggest_nearest(name, list_names())}')
    return importlib.import_module(f"{__name__}.{name}")
