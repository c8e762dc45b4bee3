"""Specs for another machine: their `${VARIABLES}` stay, because that machine's environment resolves them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from facscale.spec.document import (
    VARIABLE,
    Document,
    UnresolvedVariable,
    VariableResolver,
    iterate_texts,
    keep_variables,
)
from facscale.spec.errors import SourceLocation

STRING_TAG = "tag:yaml.org,2002:str"


class Variable(NamedTuple):
    """An environment variable that a spec uses."""

    name: str
    default: str | None
    location: SourceLocation


def make_resolver(environment: Mapping[str, str]) -> VariableResolver:
    """Make a resolver from another machine's variables; those that are not set and have no default stay as written."""

    def resolve(name: str, default: str | None) -> str:
        return environment.get(name, keep_variables(name, None) if default is None else default)

    return resolve


def find_variables(document: Document) -> Iterator[Variable]:
    """Yield every use of a variable that is still in a document."""
    for path, value in iterate_texts(document.data):
        for name, default in VARIABLE.findall(value):
            has_no_default = f"${{{name}}}" in value
            yield Variable(name, None if has_no_default else default, document.source_location(path))


def encode_canonical(data: Mapping[str, Any]) -> bytes:
    """Encode plain data for a digest: equal content gives equal bytes."""
    return json.dumps(data, sort_keys=True).encode()


def dump_spec(document: Document) -> str:
    """Write a document as a spec file that means the same as the original wherever all its variables are set."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _SpecRepresenter
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 10_000  # a long text stays on one line
    text = io.StringIO()
    yaml.dump(document.data, text)
    return f"#!/usr/bin/env -S facscale run\n{text.getvalue()}"


class _SpecRepresenter(SafeRepresenter):
    """Quotes texts with variables, except unquoted values whose type is decided after substitution."""


def _represent_unresolved(representer: _SpecRepresenter, value: UnresolvedVariable) -> ScalarNode:
    return representer.represent_scalar(STRING_TAG, str(value))


def _represent_text(representer: _SpecRepresenter, value: str) -> ScalarNode:
    return representer.represent_scalar(STRING_TAG, value, style='"' if VARIABLE.search(value) else None)


_SpecRepresenter.add_representer(UnresolvedVariable, _represent_unresolved)
_SpecRepresenter.add_representer(str, _represent_text)
