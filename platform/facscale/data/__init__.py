"""Shards, sampling views, deterministic streaming, augmentation."""

from facscale.data.errors import CorruptError, DataError
from facscale.data.shards import Dataset, ShardWriter

__all__ = ["CorruptError", "DataError", "Dataset", "ShardWriter"]
