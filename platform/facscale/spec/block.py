"""The base class of every part of a spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict


class Conversion(NamedTuple):
    """How the value of a renamed key is converted."""

    update: Callable[[Any], Any]  # the new value of an old one
    restore: Callable[[Any], Any]  # the old value of a new one; None where the old key could not say it


class Block(BaseModel):
    """A part of a spec: unknown keys are errors, numbers are finite, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")
    renamed: ClassVar[Mapping[str, str]] = {}  # old to new name of a key; an error about the old one gives the new one
    converted: ClassVar[Mapping[str, Conversion]] = {}  # of renamed keys whose values changed too, by their new name
    added: ClassVar[frozenset[str]] = frozenset()  # later fields: at their default, no digest of a spec depends on them


def nested_model(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model that a field of `model` holds, also an optional one; None for a plain value or an unknown field."""
    info = model.model_fields.get(field)
    members = [info.annotation, *getattr(info.annotation, "__args__", ())] if info else []
    return next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)
