"""Shards, sampling views, deterministic streaming, augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facscale.data.errors import CorruptError, DataError
from facscale.data.shards import Dataset, ShardWriter

if TYPE_CHECKING:
    from facscale.data.stream import Stream

__all__ = ["CorruptError", "DataError", "Dataset", "ShardWriter", "Stream"]


def __getattr__(name: str) -> Any:
    """Import `Stream` on first use: it needs torch, which is slow to import for code that only reads or writes shards."""
    if name == "Stream":
        from facscale.data.stream import Stream

        return Stream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
