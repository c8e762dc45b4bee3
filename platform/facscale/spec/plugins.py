"""Code that a spec names: a module of ours by its file's name, or another package's through an entry point.

There is no list to edit, and a spec can name no other code.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from facscale.spec.document import Document, nearest, parse
from facscale.spec.errors import SpecError

Base = TypeVar("Base")


@dataclass(frozen=True)
class Plugins(Generic[Base]):
    """One kind of plug-in: a class with a closed `Config` of its own."""

    what: str  # "method": its block in a spec, and what errors call it
    base: type[Any]  # what every one derives from
    package: str  # whose modules are the plug-ins
    contract: frozenset[str]  # modules of the package that are none
    group: str  # of other packages' entry points

    def names(self) -> tuple[str, ...]:
        """All that a spec can name here."""
        return tuple(sorted({*self._ours(), *(point.name for point in entry_points(group=self.group))}))

    def find(self, name: str) -> type[Base]:
        """The class called `name`; ours go before those of other packages. Raises SpecError for an unknown one."""
        if name not in self.names():
            raise SpecError(f'there is no {self.what} "{name}"{nearest(name, self.names())}')
        if name in self._ours():
            return self._in_module(name)
        (point, *_) = entry_points(group=self.group, name=name)
        found = point.load()
        if not self._is_one(found):
            owner, kind = point.dist and point.dist.name, self.base.__name__
            raise SpecError(f'the entry point "{name}" of {owner} is no facscale {kind}: {found!r}')
        return found

    def configure(self, document: Document) -> tuple[type[Base], Any]:
        """The class that a document's block names, and its Config from the rest of the block. Raises SpecError."""
        block = document.at((self.what,)) or {}
        try:
            found: Any = self.find(block["name"])
        except SpecError as error:
            raise SpecError(f"{document.origin((self.what, 'name'))}: {error}") from None
        own = {key: value for key, value in block.items() if key != "name"}
        config: type[BaseModel] = found.Config
        return found, parse(Document({self.what: own}, document.origins), config, (self.what,))

    def _ours(self) -> set[str]:
        paths = importlib.import_module(self.package).__path__
        return {module.name for module in pkgutil.iter_modules(paths)} - self.contract

    def _in_module(self, name: str) -> type[Base]:
        try:
            module = importlib.import_module(f"{self.package}.{name}")
        except ModuleNotFoundError as error:
            raise SpecError(f'the {self.what} "{name}" needs {error.name}, which is not installed') from error
        found = [item for item in vars(module).values() if self._is_one(item) and item.__module__ == module.__name__]
        if len(found) != 1:
            raise TypeError(f"{module.__name__} must define one {self.base.__name__}; it defines {len(found)}")
        return found[0]

    def _is_one(self, item: Any) -> bool:
        return isinstance(item, type) and issubclass(item, self.base) and item is not self.base
