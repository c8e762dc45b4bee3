"""Spec files as plain data that remembers where each value was written.

`read_spec` resolves `extends:`, `${ENVIRONMENT}` variables and dotted overrides into one `Document`; `parse` turns a
document, or a part of it, into a closed pydantic model. Every fault is a `SpecError` with file, line, key and the
nearest key that exists.
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

from facscale.spec.block import nested_model
from facscale.spec.errors import SourceLocation, SpecError
from facscale.spec.safety import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_SHOWN,
    make_depth_error,
    parse_yaml_tree,
    read_text,
    refuse_secret_value,
    refuse_secret_variable,
    refuse_tag,
    truncate_repr,
)

KeyPath = tuple[str | int, ...]
VariableResolver = Callable[[str, str | None], str]  # name and default to the value; raises KeyError if it is not set
Model = TypeVar("Model", bound=BaseModel)

METHOD_KEYS = frozenset({"inputs", "start"})  # keys beside "method" that belong to the method
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
COMMENT = re.compile(r"(?:^|\s)#")  # where YAML would end a plain value


@dataclass(frozen=True)
class Document:
    """Plain data, with the source location of each value by its path."""

    data: dict[str, Any]
    locations: dict[KeyPath, SourceLocation] = field(repr=False)

    def source_location(self, path: KeyPath) -> SourceLocation:
        """Where the value at `path` was written, or its nearest parent that was written."""
        while path and path not in self.locations:
            path = path[:-1]
        return self.locations[path]

    def get(self, path: KeyPath) -> Any:
        """The value at `path`; None if there is none."""
        value: Any = self.data
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def has(self, path: KeyPath) -> bool:
        """Whether there is a value at `path`."""
        value: Any = self.data
        for key in path:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def apply_patch(self, path: KeyPath) -> Document:
        """This document with the mapping at `path` merged over it (baselines and stages are such patches)."""
        locations = {key[len(path) :]: place for key, place in self.locations.items() if key[: len(path)] == path}
        return merge(self, Document(self.get(path) or {}, locations))


def read_environment(name: str, default: str | None) -> str:
    """Resolve a variable from the environment of this process."""
    return os.environ[name] if default is None else os.environ.get(name, default)


def keep_variables(name: str, default: str | None) -> str:
    """Leave a variable as it is written, for another machine to resolve."""
    return f"${{{name}}}" if default is None else f"${{{name}:-{default}}}"


def read_spec(
    path: str | Path, overrides: Sequence[str] = (), *, resolve: VariableResolver = read_environment
) -> Document:
    """Read a spec file with everything it extends, then merge `overrides` ("train.epochs=3") over it.

    `resolve` gives the values of `${VARIABLES}`; `spec.portable` has resolvers for other machines. Raises SpecError for
    a file that is missing or not YAML, a circle of `extends:`, a bad override, and for an unset environment variable or
    a secret in a value that no override replaces.
    """
    document = _read_file(Path(path), trail=(), resolve=resolve)
    for override in overrides:
        document = merge(document, parse_override(override, resolve=resolve))
    for key, text in iterate_texts(document.data):
        if isinstance(text, _MissingVariable):
            raise SpecError(str(text))
        refuse_secret_value(text, key=".".join(map(str, key)), location=document.source_location(key))
    return document


def merge(below: Document, above: Document) -> Document:
    """Lay one document over another: mappings are merged key by key, all other values are replaced.

    Options and inputs belong to a method, so they are dropped if the upper document names another method.
    """
    data, locations = dict(below.data), dict(below.locations)
    if _changes_method("method", data.get("method"), above.data.get("method")):
        for key in METHOD_KEYS & data.keys():
            del data[key]
    for key, value in above.data.items():
        previous: Any = data.get(key)
        child = _select_child(above, key)
        if isinstance(previous, Mapping) and isinstance(value, Mapping) and not _changes_method(key, previous, value):
            child = merge(_select_child(below, key), child)
        data[key] = child.data if isinstance(value, Mapping) else value
        locations = {path: place for path, place in locations.items() if path[:1] != (key,)}
        locations |= {(key, *path): place for path, place in child.locations.items()}
    root = above.locations.get((), below.locations.get((), SourceLocation("?")))
    return Document(data, {**locations, (): root})


def parse(document: Document, model: type[Model], path: KeyPath = ()) -> Model:
    """Validate the mapping at `path` as `model`. Raises SpecError with one line for each fault."""
    try:
        return model.model_validate_json(json.dumps(document.get(path) or {}), strict=True)
    except pydantic.ValidationError as error:
        faults = [_describe_fault(document, model, path, fault) for fault in error.errors()]
        raise SpecError("\n".join(dict.fromkeys(faults))) from None


def suggest_nearest(word: str, names: Sequence[str]) -> str:
    """' (did you mean "margin"?)', or a list of all names if none of them is near."""
    matches = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if matches:
        return f' (did you mean "{matches[0]}"?)'
    return f" (known: {', '.join(sorted(names))})" if names else ""


def parse_override(text: str, *, resolve: VariableResolver = read_environment) -> Document:
    """Parse an override of the command line, such as train.epochs=3. Raises SpecError."""
    name, equals, value_text = text.partition("=")
    keys = name.split(".")
    if not equals or not all(keys):
        raise SpecError(f'command line: "{text}" is not an override; write key=value, as in train.epochs=3')
    location = SourceLocation(f"command line ({text[:MAX_SHOWN]})")
    node = parse_yaml_tree(value_text, location)
    if COMMENT.search(value_text) and (node is None or (isinstance(node, ScalarNode) and node.style is None)):
        # Nobody comments a value of the command line: /data/faces #2 is a folder.
        node = ScalarNode("tag:yaml.org,2002:str", value_text.strip(), style="'")
    converter = _TreeConverter(location.file, resolve, has_lines=False)
    value: Any = None if node is None else converter.convert(node).data
    for key in reversed(keys):
        value = {key: value}
    return Document(value, {(): location, (keys[0],): location})


def iterate_texts(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield all texts in plain data, with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping | list):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from iterate_texts(part, (*path, key))


def _describe_fault(document: Document, model: type[BaseModel], at: KeyPath, fault: Any) -> str:
    """The message for one fault that pydantic reports."""
    path = _drop_union_tags(document, at, fault["loc"])
    name = ".".join(str(part) for part in (*at, *path)) or "the file"
    where = document.source_location((*at, *path))
    if fault["type"] == "extra_forbidden":
        parent = _find_model(model, path[:-1])
        if new_name := getattr(parent, "renamed", {}).get(path[-1]):
            conversion = getattr(parent, "converted", {}).get(new_name)
            values = f": {json.dumps(conversion.update(fault['input']))}" if conversion else ""
            return f"{where}: {name} is now called {'.'.join([*name.split('.')[:-1], new_name])}{values}"
        return f'{where}: unknown key "{name}"{suggest_nearest(str(path[-1]), list(parent.model_fields))}'
    if fault["type"] == "missing":
        return f'{where}: "{name}" is missing'
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    value = document.get((*at, *path))
    but = "" if isinstance(value, Mapping | list) or value is None else f", not {truncate_repr(value)}"
    return f'{where}: "{name}": {message[:1].lower()}{message[1:]}{but}'


def _drop_union_tags(document: Document, at: KeyPath, places: KeyPath) -> KeyPath:
    """The path of a fault without the members of unions that were tried; a key that is written counts as one."""
    path: KeyPath = ()
    for part in places:
        is_written = document.has((*at, *path, part))
        if is_written or not _is_union_tag(part):
            path = (*path, part)
    return path


def _is_union_tag(part: str | int) -> bool:
    """Whether a part of a fault's path is only the member of a union that was tried: ('workers', 'constrained-int')."""
    return isinstance(part, str) and bool(
        re.search(r"[\[\](),]|^(int|str|float|bool|constrained-\w+|list|tuple)$", part)
    )


def _find_model(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    for part in path:
        model = nested_model(model, str(part)) or model
    return model


def _changes_method(key: str, below: Any, above: Any) -> bool:
    are_blocks = isinstance(below, Mapping) and isinstance(above, Mapping)
    return key == "method" and are_blocks and above.get("name", below.get("name")) != below.get("name")


def _select_child(document: Document, key: str) -> Document:
    value = document.data.get(key)
    locations = {path[1:]: place for path, place in document.locations.items() if path[:1] == (key,)}
    return Document(value if isinstance(value, dict) else {}, locations)


def _read_file(path: Path, *, trail: tuple[Path, ...], resolve: VariableResolver) -> Document:
    text = read_text(path)
    if path.resolve() in trail:
        circle = " -> ".join(file.name for file in (*trail, path))
        raise SpecError(f'{path}: "extends" forms a circle: {circle}')
    node = parse_yaml_tree(text, SourceLocation(str(path)))
    if not isinstance(node, MappingNode):
        raise SpecError(f"{path}: a spec must be a mapping of keys to values; this file is not")
    document = _TreeConverter(str(path), resolve).convert(node)
    parent = document.data.pop("extends", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise SpecError(f'{document.source_location(("extends",))}: "extends" must be the name of one file')
    extended = _read_file(path.parent / parent, trail=(*trail, path.resolve()), resolve=resolve)
    return merge(extended, document)


class UnresolvedVariable(str):
    """An unquoted value with unresolved variables; its type is decided after substitution, so it may be a number."""

    __slots__ = ()


class _MissingVariable(str):
    """An error message in place of a value whose variable is unset: an override may still replace the value."""

    __slots__ = ()


@dataclass
class _TreeConverter:
    """Converts a YAML node tree to plain data with source locations; refuses tags, duplicate keys and alias bombs."""

    file: str
    resolve: VariableResolver
    has_lines: bool = True
    locations: dict[KeyPath, SourceLocation] = field(default_factory=dict)
    yaml: YAML = field(default_factory=lambda: YAML(typ="safe", pure=True))

    def convert(self, root: Node) -> Document:
        return Document(self.convert_value(root, ()), self.locations)

    def locate(self, node: Node) -> SourceLocation:
        return SourceLocation(self.file, node.start_mark.line + 1 if self.has_lines else 0)

    def convert_value(self, node: Node, path: KeyPath) -> Any:
        if len(self.locations) > MAX_NODES:
            raise SpecError(f"{self.file}: expands to more than {MAX_NODES} values; are aliases nested in aliases?")
        location = self.locate(node)
        if len(path) > MAX_DEPTH:
            raise make_depth_error(location)
        self.locations.setdefault(path, location)
        refuse_tag(node, location)
        if isinstance(node, SequenceNode):
            return [self.convert_value(item, (*path, number)) for number, item in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self.convert_mapping(node, path)
        assert isinstance(node, ScalarNode)
        return self.convert_scalar(node, location)

    def convert_mapping(self, root: MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in root.value:
            location = self.locate(key_node)
            if not isinstance(key_node, ScalarNode):
                raise SpecError(f"{location}: a key must be a single word, not a list or a mapping")
            refuse_tag(key_node, location)
            key = str(key_node.value)
            if key in result:
                raise SpecError(f'{location}: "{key}" is written twice')
            self.locations[(*path, key)] = location
            result[key] = self.convert_value(value_node, (*path, key))
        return result

    def convert_scalar(self, node: ScalarNode, location: SourceLocation) -> Any:
        for name, _ in VARIABLE.findall(node.value):
            refuse_secret_variable(name, location)
        try:
            text = VARIABLE.sub(lambda match: self.resolve(*match.groups()), node.value)
        except KeyError as error:
            name = error.args[0]
            return _MissingVariable(
                f"{location}: the environment variable {name} is not set; export {name}=… or write ${{{name}:-default}}"
            )
        is_quoted = node.style is not None
        try:
            if text != node.value and not is_quoted:
                return text if not text or COMMENT.search(text) else self.yaml.load(text)
            if not is_quoted and VARIABLE.search(text):
                return UnresolvedVariable(text)
            return text if is_quoted else self.yaml.constructor.construct_object(node)
        except (YAMLError, ValueError) as error:  # invalid text from a variable, or a number of thousands of digits
            value = truncate_repr(node.value)
            raise SpecError(f"{location}: {value} is not a valid value: {str(error).splitlines()[0]}") from None
