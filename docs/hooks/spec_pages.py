"""The reference of job and pipeline files: every key with its type, default, meaning and the jobs that set it.

Types, ranges and defaults are those of the models, meanings the comments beside their fields.
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
import types
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from facscale.methods import find_method, list_methods
from facscale.spec import read_spec
from facscale.spec.block import nested_model
from facscale.spec.document import keep_variables
from facscale.spec.models import Job
from facscale.spec.pipelines import Pipeline

NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Any: "any value"}
BOUNDS = {
    annotated_types.Ge: "≥ {.ge}",
    annotated_types.Gt: "> {.gt}",
    annotated_types.Le: "≤ {.le}",
    annotated_types.Lt: "< {.lt}",
}
MAX_CHOICES = 12


def build_job_page(jobs: Path) -> str:
    """The page of all keys of a job."""
    used = collect_used_keys(jobs)
    return "\n".join(
        [
            "# Keys of a job",
            "",
            (
                "A job file has these keys, and each of them can be overridden on the command line, such as "
                "`train.optimizer.lr=0.01`. An unknown key is an error. “Set by” names the job files of facscale that set the "
                "key; lengths in seconds, and sizes in megabytes and gigabytes, have their unit "
                "in the name (`_s`, `_mb`, `_gb`), and other units are under “meaning”. "
                "The hyper-parameters under `method` are those of [the method](#keys-of-methods)."
            ),
            "",
            *describe_model(Job, "", used),
            *describe_methods(),
        ]
    )


def build_pipeline_page(pipelines: Path) -> str:
    """The page of all keys of a pipeline."""
    used = collect_used_keys(pipelines)
    return "\n".join(
        [
            "# Keys of a pipeline",
            "",
            (
                "A pipeline file turns videos or images into a data set. Under `source` a layout may have keys of its own, and under "
                "`detector` a detector; the files under `pipelines/` show them."
            ),
            "",
            *describe_model(Pipeline, "", used),
        ]
    )


def describe_model(model: type[BaseModel], prefix: str, used: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the lines of one block, then those of the blocks in it."""
    comments = read_comments(model)
    inner: list[tuple[str, type[BaseModel]]] = []
    if prefix:
        yield from ["", f"## {prefix}", "", " ".join((inspect.getdoc(model) or "").split())]
    yield from ["", "| key | type | default | meaning | set by |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        block = nested_model(model, name)
        kind = format_type(field.annotation, field.metadata)
        default = format_default(field)
        if block and not isinstance(field.default, tuple):
            inner.append((key, block))
            kind, default = f"[block](#{anchor(key)})", "null" if field.default is None else ""
        setters = ", ".join(f"`{job}`" for job in used.get(key, ())[:4]) + (" …" if len(used.get(key, ())) > 4 else "")
        yield f"| `{key}` | {kind} | {default} | {escape(comments.get(name, ''))} | {setters} |"
    for key, block in inner:
        yield from describe_model(block, key, used)


def anchor(key: str) -> str:
    """The anchor of a heading, as Python-Markdown makes it."""
    return key.lower().replace(".", "")


def describe_methods() -> Iterator[str]:
    """Yield one table of the hyper-parameters of all methods, by name, with the methods that have them."""
    keys: dict[str, dict[str, list[str]]] = {}
    for method in list_methods():
        config = find_method(method).Config
        if find_method(method).__module__.startswith("facscale."):
            comments = read_comments(config)
            for name, field in config.model_fields.items():
                row = " | ".join(
                    [
                        format_type(field.annotation, field.metadata),
                        format_default(field),
                        escape(comments.get(name, "")),
                    ]
                )
                keys.setdefault(name, {}).setdefault(row, []).append(method)
    yield from [
        "",
        "## Keys of methods",
        "",
        "| `method.` | type | default | meaning | methods |",
        "|---|---|---|---|---|",
    ]
    for name in sorted(keys):
        for row, methods in keys[name].items():
            links = ", ".join(f"[{method}](../methods/{method}.md)" for method in methods)
            yield f"| `{name}` | {row} | {links} |"


def format_type(annotation: Any, metadata: Any = ()) -> str:
    """A type in words: its kind, then its range."""
    bounds = [BOUNDS[type(each)].format(each) for each in flatten(metadata) if type(each) in BOUNDS]
    return ", ".join([name_type(annotation), *bounds])


def name_type(annotation: Any) -> str:  # noqa: PLR0911 - one for each kind
    """The kind of a value: text, integer, one of these words, a list of numbers."""
    origin, members = get_origin(annotation), get_args(annotation)
    if annotation in NAMES:
        return NAMES[annotation]
    if origin is Annotated:
        return format_type(members[0], members[1:])
    if origin is Literal:
        words = [f"`{member}`" if member != "" else "empty" for member in members]
        return ", ".join(words[:MAX_CHOICES])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(name_type(member) for member in members))
    if origin is tuple:
        if len(members) == 2 and members[1] is not Ellipsis:
            return f"[{name_type(members[0])}, {name_type(members[1])}]"
        return f"list of {name_type(members[0])}"
    if origin in (dict, Mapping):
        return "keys with values"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "block"
    return getattr(annotation, "__name__", str(annotation))


def flatten(metadata: Any) -> Iterator[Any]:
    """Yield the constraints of a field, also those inside pydantic's own."""
    for each in metadata:
        if isinstance(each, FieldInfo):
            yield from each.metadata
        elif isinstance(each, annotated_types.GroupedMetadata):
            yield from each
        else:
            yield each


def format_default(field: FieldInfo) -> str:
    """The default as YAML writes it."""
    if field.is_required():
        return "**required**"
    if field.default is PydanticUndefined:
        return "by the environment" if field.default_factory else ""
    value = field.default
    if isinstance(value, BaseModel):
        return "{}"
    if value in ("", (), {}):
        return "empty"
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower() if value is not None else 'null'}`"
    return (
        f"`{list(value)}`" if isinstance(value, tuple) else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
    )


@cache
def read_comments(model: type[BaseModel]) -> dict[str, str]:
    """The comment of each field: behind it, or in the lines above it."""
    comments: dict[str, str] = {}
    for base in reversed([base for base in model.__mro__ if issubclass(base, BaseModel) and base is not BaseModel]):
        comments |= read_class_comments(base)
    return comments


def read_class_comments(model: type[BaseModel]) -> dict[str, str]:
    """The comments of the fields that one class declares."""
    source = textwrap.dedent(inspect.getsource(model))
    (body,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    lines: dict[int, tuple[str, bool]] = {}  # text, and whether it stands alone
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0]] = (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
    comments = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno - 1
            while line in lines and lines[line][1]:
                above.insert(0, lines[line][0])
                line -= 1
            beside = [lines[line][0] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in lines]
            comments[node.target.id] = " ".join([*above, *beside])
    return comments


def collect_used_keys(folder: Path) -> dict[str, list[str]]:
    """By dotted key, the files that set it themselves or by what they extend."""
    used: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.yaml")):
        for key in list_keys(read_spec(path, resolve=keep_variables).data):
            used.setdefault(key, []).append(path.stem)
    return used


def list_keys(value: Any, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a mapping, outer ones first."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"{prefix}{name}"
            yield from list_keys(inner, f"{prefix}{name}.")


def escape(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")
