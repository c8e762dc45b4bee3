"""The base class of every part of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """A part of a spec: unknown keys are errors, numbers are finite, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")
    renamed: ClassVar[Mapping[str, str]] = {}  # old to new name of a key; an error about the old one gives the new one
    added: ClassVar[frozenset[str]] = frozenset()  # later fields: at their default, no digest of a spec depends on them


def nested_model(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model that a field of `model` holds, also an optional one; None for a plain value or an unknown field."""
    info = model.model_fields.get(field)
    members = [info.annotation, *getattr(info.annotation, "__args__", ())] if info else []
    return next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)
