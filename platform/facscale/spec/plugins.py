"""Plug-ins that a spec names: modules of one of our packages, by file name, or classes of other packages' entry points.

There is no registry to edit, and a spec cannot name any other code.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from facscale.spec.document import Document, parse, suggest_nearest
from facscale.spec.errors import SpecError

Base = TypeVar("Base")


@dataclass(frozen=True)
class Plugins(Generic[Base]):
    """All plug-ins of one kind: each is a class with a closed `Config` of its own."""

    kind: str  # "method": the block of a spec that names it, and its name in errors
    base: type[Any]  # the class that every plug-in derives from
    package: str  # its modules are plug-ins
    excluded: frozenset[str]  # modules of the package that are not plug-ins
    group: str  # of other packages' entry points

    def names(self) -> tuple[str, ...]:
        """All names that a spec can use, sorted."""
        return tuple(sorted({*self._list_modules(), *(point.name for point in entry_points(group=self.group))}))

    def find(self, name: str) -> type[Base]:
        """The class with this name, preferably one of ours. Raises SpecError if there is none."""
        if name not in self.names():
            raise SpecError(f'there is no {self.kind} "{name}"{suggest_nearest(name, self.names())}')
        if name in self._list_modules():
            return self._load_module(name)
        (point, *_) = entry_points(group=self.group, name=name)
        try:
            plugin = point.load()
        except Exception as error:
            owner = point.dist and point.dist.name
            reason = " ".join(str(error).split())[:300]
            raise SpecError(
                f'the {self.kind} "{name}" of {owner} cannot be loaded ({point.value}): {type(error).__name__}: {reason}'
            ) from error
        if not self._is_plugin(plugin):
            owner = point.dist and point.dist.name
            raise SpecError(f'the entry point "{name}" of {owner} is not a facscale {self.base.__name__}: {plugin!r}')
        return plugin

    def find_owner(self, name: str) -> str:
        """The package that a plug-in is from; "" for one of ours, and for an unknown one."""
        if name in self._list_modules():
            return ""
        points = entry_points(group=self.group, name=name)
        return next((point.dist.name for point in points if point.dist), "")

    def list_hidden(self) -> list[str]:
        """Entry points that no spec can reach, because another plug-in has the same name: each as a sentence."""
        ours, sentences = self._list_modules(), list[str]()
        seen: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            owner = point.dist.name if point.dist else "an unknown package"
            if point.name in ours:
                sentences.append(f"{point.name} of {owner} is hidden by facscale's own {self.kind} of that name")
            elif (first := seen.setdefault(point.name, point)) is not point and first.value != point.value:
                sentences.append(f"{point.name} of {owner} is hidden by {first.value}, which has the same name")
        return [f"{sentence}; its package must rename it" for sentence in sentences]

    def configure(self, document: Document) -> tuple[type[Base], Any]:
        """The class that a document's block names, and its Config from the rest of the block. Raises SpecError."""
        block = document.get((self.kind,)) or {}
        try:
            plugin: Any = self.find(block["name"])
        except SpecError as error:
            raise SpecError(f"{document.source_location((self.kind, 'name'))}: {error}") from None
        options = {key: value for key, value in block.items() if key != "name"}
        config: type[BaseModel] = plugin.Config
        return plugin, parse(Document({self.kind: options}, document.locations), config, (self.kind,))

    def _list_modules(self) -> set[str]:
        paths = importlib.import_module(self.package).__path__
        return {module.name for module in pkgutil.iter_modules(paths)} - self.excluded

    def _load_module(self, name: str) -> type[Base]:
        try:
            module = importlib.import_module(f"{self.package}.{name}")
        except ModuleNotFoundError as error:
            raise SpecError(f'the {self.kind} "{name}" needs {error.name}, which is not installed') from error
        classes = [item for item in vars(module).values() if self._is_plugin(item)]
        plugins = [plugin for plugin in classes if plugin.__module__ == module.__name__]
        if len(plugins) != 1:
            raise TypeError(f"{module.__name__} must define one {self.base.__name__}; it defines {len(plugins)}")
        return plugins[0]

    def _is_plugin(self, item: Any) -> bool:
        return isinstance(item, type) and issubclass(item, self.base) and item is not self.base
