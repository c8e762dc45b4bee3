"""How the authors of data sets lay out their files: `layout: bp4d` in a pipeline is the module `bp4d` beside this file.

A layout is a module with
- `items(files)`: the videos in a listing of the source, in any order;
- `labels(item, read)`: the labels of one video and notes on what is missing, where `read(name)` gives a file's bytes;

or, where a data set is single images with facial expressions, a module with
- `EXPRESSIONS`: names of the classes;
- `stills(files, read)`: the images that its lists name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

from facscale.ingest.items import Files, Item, Labels, Still
from facscale.spec import SpecError, nearest
from facscale.spec.pipelines import Source

Read = Callable[[str], bytes]


class Layout(Protocol):
    """What the module of a layout offers."""

    def items(self, files: Files) -> Iterator[Item]:
        """The videos among `files`; files that belong to no video are passed over."""
        ...

    def labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:
        """The item's labels, and notes on missing ones. Raises ValueError, naming the file, for unreadable ones."""
        ...


def names() -> tuple[str, ...]:
    """All layouts that a pipeline can name."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Layout:
    """The layout `name` of videos. Raises SpecError for an unknown one."""
    return cast("Layout", _module(name))


def stills(name: str) -> Callable[[Files, Read], Iterator[Still]]:
    """What finds the images in a layout of single images. It raises ValueError for lists that are missing or wrong."""
    found: Callable[[Files, Read], Iterator[Still]] = _module(name).stills
    return found


def expressions(source: Source) -> tuple[str, ...]:
    """The classes that a data set gets, in their order; none where the layout has videos. Raises SpecError for others."""
    known: tuple[str, ...] = getattr(_module(source.layout), "EXPRESSIONS", ())
    for name in source.expressions:
        if name not in known:
            hint = nearest(name, known) if known else f": there are none in the layout {source.layout}"
            raise SpecError(f'source.expressions: there is no "{name}"{hint}')
    if source.expressions and len(set(source.expressions)) < max(2, len(source.expressions)):
        raise SpecError("source.expressions: name two or more, each once")
    return source.expressions or known


def _module(name: str) -> Any:
    if name not in names():
        raise SpecError(f'there is no layout "{name}"{nearest(name, names())}')
    return importlib.import_module(f"{__name__}.{name}")
