"""What a data set says of itself: its manifest, and the index of its runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from facscale.data.errors import DataError

SCHEMA_VERSION = 1
MANIFEST, INDEX = "manifest.json", "index.parquet"


@dataclass(frozen=True)
class RowGroup:
    """Where a row group lies in its file (bytes), and the xxh3-128 of those bytes (hexadecimal)."""

    offset: int
    length: int
    rows: int
    checksum: str


@dataclass(frozen=True)
class Shard:
    """One Parquet file; `bytes` is its size."""

    file: str
    bytes: int
    rows: int
    row_groups: tuple[RowGroup, ...]


@dataclass(frozen=True)
class Manifest:
    """What a data set says of itself."""

    name: str
    au: tuple[int, ...]  # AU numbers of the label columns, in their order; empty: not labelled
    image_size: int  # pixels, side of the stored square crops
    fps: float  # frames a second of the source videos; 0: single images
    recipe: dict[str, Any]  # how it was made, free
    counts: dict[str, int]  # identities, videos, tracks, frames, labelled_frames
    shards: tuple[Shard, ...]
    fingerprint: str  # sha256 over names, columns and all row-group checksums
    index_checksum: str
    expressions: tuple[str, ...] = ()  # classes of the column `expression`, by their numbers; empty: it has none
    kind: str = "faces"
    schema: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: bytes | str, *, url: str) -> Self:
        """Raises DataError for what is no manifest of this schema."""
        try:
            fields = json.loads(text)
            version = fields["schema"]
            if version != SCHEMA_VERSION:
                raise DataError(
                    f"{url}: written with schema {version}, this facscale reads {SCHEMA_VERSION}; convert it again"
                )
            shards = tuple(
                Shard(**{**shard, "row_groups": tuple(RowGroup(**group) for group in shard["row_groups"])})
                for shard in fields["shards"]
            )
            lists = {name: tuple(fields[name]) for name in ("au", "expressions") if name in fields}
            return cls(**{**fields, **lists, "shards": shards})
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{url}/{MANIFEST} is damaged: {error!r}; make the data set again") from None


@dataclass(frozen=True)
class Runs:
    """All runs of a data set in stored order, as arrays [R]; `identities` and `videos` name the codes."""

    shard: np.ndarray
    row_group: np.ndarray
    start: np.ndarray  # first row within the row group
    frames: np.ndarray
    identity: np.ndarray  # code of the person
    video: np.ndarray  # code of the (identity, video) pair
    track: np.ndarray
    first_frame: np.ndarray  # number of the first frame in the source video
    identities: tuple[str, ...]
    videos: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.shard)

    def of(self, people: Collection[str]) -> np.ndarray:
        """Which runs show one of these identities: bool [R]."""
        shown: np.ndarray = np.isin(np.asarray(self.identities), list(people))[self.identity]
        return shown

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """From the rows of index.parquet."""
        numbers = {
            name: table[name].to_numpy() for name in ("shard", "row_group", "start", "frames", "track", "first_frame")
        }
        person = table["identity"].combine_chunks().dictionary_encode()
        film = pc.binary_join_element_wise(table["identity"], table["video"], "\0").combine_chunks().dictionary_encode()
        names = tuple(pair.split("\0")[1] for pair in film.dictionary.to_pylist())
        return cls(
            **numbers,
            identity=person.indices.to_numpy(),
            video=film.indices.to_numpy(),
            identities=tuple(person.dictionary.to_pylist()),
            videos=names,
        )


def checksum(data: bytes | memoryview) -> str:
    """xxh3-128 in hexadecimal: it finds damage at memory speed; it is no defence against forgery."""
    return xxhash.xxh3_128(memoryview(data)).hexdigest()


def fingerprint(*, name: str, schema: pa.Schema, shards: Sequence[Shard]) -> str:
    """sha256 over names, columns and all row-group checksums: equal if and only if the stored data are."""
    columns = [(field.name, str(field.type)) for field in schema]
    groups = [group.checksum for shard in shards for group in shard.row_groups]
    return hashlib.sha256(json.dumps([name, columns, groups]).encode()).hexdigest()
