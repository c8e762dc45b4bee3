"""A YAML file as plain data that remembers where each value was written.

`read` resolves `extends:`, `${ENVIRONMENT}` variables and dotted overrides into one `Document`; `parse` turns (a part
of) a document into a closed pydantic model. Whatever is wrong comes out as one `SpecError` that names file, line and
key, and the nearest key that exists.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from facscale.spec.errors import Origin, SpecError
from facscale.spec.safety import (
    MAX_DEPTH,
    MAX_NODES,
    SHOWN,
    composed,
    refuse_secret_value,
    refuse_secret_variable,
    refuse_tag,
    shown,
    text_of,
    too_deep,
)

Path_ = tuple[str | int, ...]
Fill = Callable[[str, str | None], str]  # a variable's name and default to its value; raises KeyError: not set
Model = TypeVar("Model", bound=BaseModel)

OF_THE_METHOD = frozenset({"inputs", "start"})  # keys of a spec, beside "method", that mean that method
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Document:
    """Plain data, and the origin of each of its values by path."""

    data: dict[str, Any]
    origins: dict[Path_, Origin] = field(repr=False)

    def origin(self, path: Path_) -> Origin:
        """The origin of the value at `path`, or of its nearest written parent."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def at(self, path: Path_) -> Any:
        """The value at `path`; None where there is none."""
        value: Any = self.data
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def patched(self, path: Path_) -> Document:
        """This document with the mapping at `path` laid over it (a baseline or a stage is such a patch)."""
        origins = {key[len(path) :]: origin for key, origin in self.origins.items() if key[: len(path)] == path}
        return merge(self, Document(self.at(path) or {}, origins))


def from_environment(name: str, default: str | None) -> str:
    """A variable of this process."""
    return os.environ[name] if default is None else os.environ.get(name, default)


def as_written(name: str, default: str | None) -> str:
    """A `Fill` that leaves every variable where it is."""
    return f"${{{name}}}" if default is None else f"${{{name}:-{default}}}"


def read(path: str | Path, overrides: Sequence[str] = (), *, fill: Fill = from_environment) -> Document:
    """Read a spec file with everything it extends, then lay `overrides` ("train.epochs=3") over it.

    `fill` says what `${VARIABLES}` stand for; another machine's environment is in `spec.elsewhere`. Raises SpecError for
    a file that is missing or no YAML, a circle of `extends:`, a bad override, and for an unset environment variable, or a
    secret, in a value that nothing has replaced.
    """
    document = _read_file(Path(path), trail=(), fill=fill)
    for word in overrides:
        document = merge(document, override(word, fill=fill))
    for key, text in texts(document.data):
        if isinstance(text, _Unset):
            raise SpecError(str(text))
        refuse_secret_value(text, key=".".join(map(str, key)), origin=document.origin(key))
    return document


def merge(below: Document, above: Document) -> Document:
    """Lay one document over another: mappings merge key by key, everything else is replaced.

    A method's options and inputs belong to that method: naming another one drops them.
    """
    data, origins = dict(below.data), dict(below.origins)
    if _other_method("method", data.get("method"), above.data.get("method")):
        for key in OF_THE_METHOD & data.keys():
            del data[key]
    for key, value in above.data.items():
        old: Any = data.get(key)
        lower, upper = _child(below, key), _child(above, key)
        keeps = isinstance(old, Mapping) and isinstance(value, Mapping) and not _other_method(key, old, value)
        child = merge(lower, upper) if keeps else upper
        data[key] = child.data if isinstance(value, Mapping) else value
        origins = {path: origin for path, origin in origins.items() if path[:1] != (key,)}
        origins |= {(key, *path): origin for path, origin in child.origins.items()}
    return Document(data, {**origins, (): above.origins.get((), below.origins.get((), Origin("?")))})


def parse(document: Document, model: type[Model], at: Path_ = ()) -> Model:
    """Validate the mapping at `at` as `model`. Raises SpecError that lists every fault with its line."""
    try:
        return model.model_validate_json(json.dumps(document.at(at) or {}), strict=True)
    except pydantic.ValidationError as error:
        faults = [_explain(document, model, at, fault) for fault in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(faults))) from None


def nearest(word: str, known: Sequence[str]) -> str:
    """' (did you mean "margin"?)', or the known words where none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f' (did you mean "{close[0]}"?)'
    return f" (known: {', '.join(sorted(known))})" if known else ""


def _explain(document: Document, model: type[BaseModel], at: Path_, fault: Any) -> str:
    path = tuple(part for part in fault["loc"] if not _is_union_tag(part))
    name = ".".join(str(part) for part in (*at, *path)) or "the file"
    where = document.origin((*at, *path))
    if fault["type"] == "extra_forbidden":
        known = list(_model_at(model, path[:-1]).model_fields)
        return f'{where}: unknown key "{name}"{nearest(str(path[-1]), known)}'
    if fault["type"] == "missing":
        return f'{where}: "{name}" is missing'
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    given = document.at((*at, *path))
    but = "" if isinstance(given, Mapping | list) or given is None else f", not {shown(given)}"
    return f'{where}: "{name}": {message[:1].lower()}{message[1:]}{but}'


def _is_union_tag(part: str | int) -> bool:
    """pydantic names the tried member of a union inside the path, as in ('workers', 'constrained-int')."""
    return isinstance(part, str) and bool(
        re.search(r"[\[\](),]|^(int|str|float|bool|constrained-\w+|list|tuple)$", part)
    )


def _model_at(model: type[BaseModel], path: Path_) -> type[BaseModel]:
    for part in path:
        found = model.model_fields.get(str(part))
        members = [found.annotation, *getattr(found.annotation, "__args__", ())] if found else []
        inner = [m for m in members if isinstance(m, type) and issubclass(m, BaseModel)]
        model = inner[0] if inner else model
    return model


def _other_method(key: str, old: Any, new: Any) -> bool:
    both = isinstance(old, Mapping) and isinstance(new, Mapping)
    return key == "method" and both and new.get("name", old.get("name")) != old.get("name")


def _child(document: Document, key: str) -> Document:
    value = document.data.get(key)
    origins = {path[1:]: origin for path, origin in document.origins.items() if path[:1] == (key,)}
    return Document(value if isinstance(value, dict) else {}, origins)


def _read_file(path: Path, *, trail: tuple[Path, ...], fill: Fill) -> Document:
    text = text_of(path)
    if path.resolve() in trail:
        circle = " -> ".join(file.name for file in (*trail, path))
        raise SpecError(f'{path}: "extends" runs in a circle: {circle}')
    node = composed(text, Origin(str(path)))
    if not isinstance(node, MappingNode):
        raise SpecError(f"{path}: a spec is a mapping of keys to values; this file is not")
    document = _Plain(str(path), fill).document(node)
    parent = document.data.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise SpecError(f'{document.origin(("extends",))}: "extends" is the name of one file')
    return merge(_read_file(path.parent / parent, trail=(*trail, path.resolve()), fill=fill), document)


def override(word: str, *, fill: Fill = from_environment) -> Document:
    """A word of the command line, as in train.epochs=3. Raises SpecError."""
    name, equals, text = word.partition("=")
    if not equals or not all(name.split(".")):
        raise SpecError(f'command line: "{word}" is no override; write key=value, as in train.epochs=3')
    origin = Origin(f"command line ({word[:SHOWN]})")
    node = composed(text, origin)
    value: Any = None if node is None else _Plain(origin.file, fill, lines=False).document(node).data
    for key in reversed(name.split(".")):
        value = {key: value}
    return Document(value, {(): origin, (name.split(".")[0],): origin})


@dataclass
class _Plain:
    """Turns a YAML node tree into plain data, with the origin of every value; no tags, no duplicates, no bombs."""

    file: str
    fill: Fill
    lines: bool = True
    origins: dict[Path_, Origin] = field(default_factory=dict)
    resolver: YAML = field(default_factory=lambda: YAML(typ="safe", pure=True))

    def document(self, root: Node) -> Document:
        return Document(self.value(root, ()), self.origins)

    def place(self, node: Node) -> Origin:
        return Origin(self.file, node.start_mark.line + 1 if self.lines else 0)

    def value(self, node: Node, path: Path_) -> Any:
        if len(self.origins) > MAX_NODES:
            raise SpecError(f"{self.file}: unfolds to more than {MAX_NODES} values: are aliases nested in aliases?")
        origin = self.place(node)
        if len(path) > MAX_DEPTH:
            raise too_deep(origin)
        self.origins.setdefault(path, origin)
        refuse_tag(node, origin)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, number)) for number, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self.mapping(node, path)
        assert isinstance(node, ScalarNode)
        return self.scalar(node, origin)

    def mapping(self, root: MappingNode, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in root.value:
            origin = self.place(key_node)
            if not isinstance(key_node, ScalarNode):
                raise SpecError(f"{origin}: a key is one word, not a list or a mapping")
            refuse_tag(key_node, origin)
            key = str(key_node.value)
            if key in result:
                raise SpecError(f'{origin}: "{key}" is written twice')
            self.origins[(*path, key)] = origin
            result[key] = self.value(value_node, (*path, key))
        return result

    def scalar(self, node: ScalarNode, origin: Origin) -> Any:
        for name, _ in VARIABLE.findall(node.value):
            refuse_secret_variable(name, origin)
        try:
            text = VARIABLE.sub(lambda match: self.fill(*match.groups()), node.value)
        except KeyError as name:
            return _Unset(
                f"{origin}: the environment variable {name.args[0]} is not set; export {name.args[0]}=… or write "
                f"${{{name.args[0]}:-default}}"
            )
        try:
            if text != node.value and node.style is None:
                return self.resolver.load(text) if text else ""
            if node.style is None and VARIABLE.search(text):
                return Unfilled(text)
            return text if node.style is not None else self.resolver.constructor.construct_object(node)
        except (YAMLError, ValueError) as error:  # what a variable holds; a number of thousands of digits
            raise SpecError(f"{origin}: {shown(node.value)} is no value: {str(error).splitlines()[0]}") from None


class Unfilled(str):
    """A value that was written without quotes and still holds variables: filled in, it may be a number."""

    __slots__ = ()


class _Unset(str):
    """Stands for a value that names an unset variable, and says so; an override may yet replace it."""

    __slots__ = ()


def texts(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """All texts in plain data, with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from texts(part, (*path, key))
