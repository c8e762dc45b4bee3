"""A spec that another machine will read: its `${VARIABLES}` stay, for that machine's environment fills them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from facscale.spec.document import VARIABLE, Document, Fill, Path_, Unfilled, as_written
from facscale.spec.errors import Origin, SpecError

STRING = "tag:yaml.org,2002:str"
SECRET_KEY = re.compile(r"(?i)(password|passwd|secret|token|credential|(access|api|private)_?key)s?$")
SECRET_NAME = re.compile(r"(?i)password|secret|token|credential|access_?key|api_?key|private_?key")
SECRET_VALUE = re.compile(
    r"""(?x)
      \b(AKIA|ASIA)[0-9A-Z]{16}\b                                      # AWS
    | (?i:password|passwd|secret|token|access_?key|api_?key)\s*[=:]\s*[^\s$&]  # password=..., token: ...
    | ://[^/\s:@]*:[^/\s@$]+@                                          # https://user:password@host
    | \b(ghp|gho|ghs|github_pat|glpat|hf|sk|xox[bp])[-_][0-9A-Za-z_-]{16,}  # GitHub, GitLab, Hugging Face, ...
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY
    | \beyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}\.                    # a JSON web token
    """
)


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
    for path, value in strings(document.data):
        for name, default in VARIABLE.findall(value):
            bare = f"${{{name}}}" in value
            yield Variable(name, None if bare else default, document.origin(path))


def refuse_secrets(document: Document) -> None:
    """Raise SpecError where a value looks like a key or a password: a spec is kept, shown and sent to MLflow.

    The value itself is not repeated. A variable that is called like a secret is refused as well.
    """
    for path, value in strings(document.data):
        names = [name for name, _ in VARIABLE.findall(value) if SECRET_NAME.search(name)]
        keyed = bool(value) and SECRET_KEY.search(str(path[-1]))
        if names or keyed or SECRET_VALUE.search(value):
            what = f"${{{names[0]}}}" if names else "a value that looks like a secret"
            raise SpecError(
                f"{document.origin(path)}: {'.'.join(map(str, path))} holds {what}. A spec is stored and shown to "
                "everybody: leave it out; the cluster's pods have their keys from its Secrets (the chart's values name "
                "them), Ray clusters from the environment of their machines"
            )


def strings(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """All texts in plain data, with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from strings(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from strings(inner, (*path, number))


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
