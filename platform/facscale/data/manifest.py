"""What a data set says of itself: its manifest, and the index of its runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field, TypeAdapter, ValidationError

from facscale.data.errors import DataError

SCHEMA_VERSION = 1
MOST_BYTES = 1 << 30  # of a row group, or of a footer; the writer makes none above 64 MB
BYTES_OF_A_ROW = 4  # at least: the length of its JPEG
COUNTED = {"identities", "videos", "tracks", "frames", "labelled_frames"}
MANIFEST, INDEX = "manifest.json", "index.parquet"


@dataclass(frozen=True)
class RowGroup:
    """Where a row group lies in its file (bytes), and the xxh3-128 of those bytes (hexadecimal)."""

    offset: Annotated[int, Field(ge=0)]
    length: Annotated[int, Field(gt=0, le=MOST_BYTES)]
    rows: Annotated[int, Field(gt=0)]
    checksum: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


@dataclass(frozen=True)
class Shard:
    """One Parquet file; `bytes` is its size."""

    file: Annotated[str, Field(pattern=r"^[\w-][\w.-]*$", max_length=200)]  # of this folder, not of another one
    bytes: Annotated[int, Field(gt=0)]
    rows: Annotated[int, Field(gt=0)]
    row_groups: Annotated[tuple[RowGroup, ...], Field(min_length=1)]

    @property
    def end(self) -> int:
        """Of the last row group: there Parquet's footer begins."""
        return max(group.offset + group.length for group in self.row_groups)

    def faults(self) -> Iterator[str]:
        """What cannot be so."""
        if not 0 < self.bytes - self.end <= MOST_BYTES:
            yield f"{self.file} has no room for its footer"
        if self.rows != sum(group.rows for group in self.row_groups):
            yield f"{self.file} has other rows than its row groups"
        if any(BYTES_OF_A_ROW * group.rows > group.length for group in self.row_groups):
            yield f"{self.file} has more rows than bytes for them"


@dataclass(frozen=True)
class Manifest:
    """What a data set says of itself."""

    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]  # it is printed
    au: tuple[int, ...]  # AU numbers of the label columns, in their order; empty: not labelled
    image_size: Annotated[int, Field(gt=0, le=8192)]  # pixels, side of the stored square crops
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
            version = json.loads(text)["schema"]
            if version != SCHEMA_VERSION:
                raise DataError(
                    f"{url}: written with schema {version}, this facscale reads {SCHEMA_VERSION}; convert it again"
                )
            manifest = TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{url}/{MANIFEST} is damaged: {place}: {first['msg']}; make the data set again") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{url}/{MANIFEST} is damaged: {error!r}; make the data set again") from None
        for wrong in manifest.faults():
            raise DataError(f"{url}/{MANIFEST} is damaged: {wrong}; make the data set again")
        return manifest

    def faults(self) -> Iterator[str]:
        """What cannot be so: a manifest may come from anywhere."""
        if missing := COUNTED - self.counts.keys():
            yield f"counts lack {', '.join(sorted(missing))}"
        for shard in self.shards:
            yield from shard.faults()


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

    def refuse_others(self, manifest: Manifest) -> None:
        """Raise ValueError for a run outside the rows that the manifest tells of."""
        sizes = [[group.rows for group in shard.row_groups] for shard in manifest.shards]
        first = np.cumsum([0, *map(len, sizes)])
        inside = (self.shard >= 0) & (self.shard < len(sizes))
        shard = np.where(inside, self.shard, 0)
        inside &= (self.row_group >= 0) & (self.row_group < np.diff(first)[shard])
        rows = np.concatenate(sizes)[np.where(inside, first[shard] + self.row_group, 0)]
        inside &= (self.start >= 0) & (self.frames > 0) & (self.start + self.frames.astype(np.int64) <= rows)
        if not inside.all():
            raise ValueError(f"{np.count_nonzero(~inside)} of its runs lie outside the shards")

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
