"""A spec that another machine will read: its `${VARIABLES}` stay, for that machine's environment fills them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from facscale.spec.document import VARIABLE, Document, Fill, Unfilled, as_written, texts
from facscale.spec.errors import Origin

STRING = "tag:yaml.org,2002:str"


class Variable(NamedTuple):
    """One that a spec names."""

    name: str
    default: str | None
    origin: Origin


def filled_from(environment: Mapping[str, str]) -> Fill:
    """A `Fill` from another machine's variables; one that is not set, and has no default, stays as it is written."""

    def fill(name: str, default: str | None) -> str:
        return environment.get(name, as_written(name, None) if default is None else default)

    return fill


def variables(document: Document) -> Iterator[Variable]:
    """All that are left in a document."""
    for path, value in texts(document.data):
        for name, default in VARIABLE.findall(value):
            bare = f"${{{name}}}" in value
            yield Variable(name, None if bare else default, document.origin(path))


def canonical(data: Mapping[str, Any]) -> bytes:
    """The same bytes for the same content, for digests."""
    return json.dumps(data, sort_keys=True).encode()


def dump(document: Document) -> str:
    """A job file with that content. Read where all variables are set, it is what the original is there."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 10_000  # a long text stays on its line
    text = io.StringIO()
    yaml.dump(document.data, text)
    return f"#!/usr/bin/env -S facscale run\n{text.getvalue()}"


class _Representer(SafeRepresenter):
    """Says by quotes which values with variables are texts whatever they are filled with."""


def _unfilled(representer: _Representer, value: Unfilled) -> ScalarNode:
    return representer.represent_scalar(STRING, str(value))


def _text(representer: _Representer, value: str) -> ScalarNode:
    return representer.represent_scalar(STRING, value, style='"' if VARIABLE.search(value) else None)


_Representer.add_representer(Unfilled, _unfilled)
_Representer.add_representer(str, _text)
