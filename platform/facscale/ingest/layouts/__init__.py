"""How the authors of data sets lay out their files: `layout: bp4d` in a pipeline is the module `bp4d` beside this file.

A layout is a module with
- `items(files)`: the videos in a listing of the source, in any order;
- `labels(item, read)`: the labels of one video and notes on what is missing, where `read(name)` gives a file's bytes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from facscale.ingest.items import Files, Item, Labels
from facscale.spec import SpecError, nearest

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
    """The layout `name`. Raises SpecError for an unknown one."""
    if name not in names():
        raise SpecError(f'there is no layout "{name}"{nearest(name, names())}')
    return cast("Layout", importlib.import_module(f"{__name__}.{name}"))
