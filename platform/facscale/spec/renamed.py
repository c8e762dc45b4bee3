"""Specs with renamed and added keys (`Block.renamed`, `converted`, `added`), where stored data depend on the old ones.

A run, a training and a submission are identified by a digest of their spec. The digest is taken over the old names, and
without added keys that have their default, so that it is the same as before. A stored spec is read by updating its keys to
the new names. A key whose old value would give other samples today keeps its new name, so that the digest differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from facscale.spec.block import Block, nested_model
from facscale.spec.models import Evaluate, Job
from facscale.spec.sweep import Sweep

PATCHES = {(Job, "stages"), (Evaluate, "baselines")}  # fields with patches over the whole spec, by name
DOTTED = {(Sweep, "space")}  # fields with dotted keys of the spec, as in "data.joint"


def restore_old_names(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Rename every key of a job's spec to its old name, also in stages, baselines and the space of a sweep.

    `spec` is a dump of a Job, or some of its blocks; it is not changed.
    """
    return _rename_keys(spec, Job, to_old=True)


def update_old_names(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Rename every key with an old name to its new one: the inverse of `restore_old_names`, apart from defaults."""
    return _rename_keys(spec, Job, to_old=False)


def _rename_keys(values: Any, block: type[BaseModel], *, to_old: bool) -> Any:
    if not isinstance(values, Mapping) or not issubclass(block, Block):
        return values
    result = {}
    for key, value in values.items():
        field = block.renamed.get(key, key)
        if to_old and field in block.added and value == _dump_default(block, field):
            continue
        name, conversion = _rename_key(key, block, to_old=to_old), block.converted.get(field)
        if conversion is None or name == key:
            result[name] = _rename_value(value, block, field, to_old=to_old)
        elif not to_old:
            result[name] = conversion.update(value)
        elif (old_value := conversion.restore(value)) is not None:
            result[name] = old_value
        else:
            result[key] = value
    return result


def _dump_default(block: type[Block], field: str) -> Any:
    """The default of a field as a dump has it."""
    default = block.model_fields[field].default
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else default


def _rename_value(value: Any, block: type[Block], field: str, *, to_old: bool) -> Any:
    """Rename the keys within the value of a block's field."""
    if (block, field) in PATCHES and isinstance(value, Mapping):
        return {name: _rename_keys(patch, Job, to_old=to_old) for name, patch in value.items()}
    if (block, field) in DOTTED and isinstance(value, Mapping):
        return {_rename_dotted(key, to_old=to_old): part for key, part in value.items()}
    inner = nested_model(block, field)
    return _rename_keys(value, inner, to_old=to_old) if inner else value


def _rename_dotted(dotted: str, *, to_old: bool) -> str:
    block: type[BaseModel] | None = Job
    parts = []
    for key in dotted.split("."):
        parent = block if block and issubclass(block, Block) else Block
        parts.append(_rename_key(key, parent, to_old=to_old))
        block = nested_model(parent, parent.renamed.get(key, key))
    return ".".join(parts)


def _rename_key(key: str, block: type[Block], *, to_old: bool) -> str:
    names = {new: old for old, new in block.renamed.items()} if to_old else block.renamed
    return names.get(key, key)
