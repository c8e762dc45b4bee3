"""The description that is stored with a data set: its manifest, and the index of its runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field, TypeAdapter, ValidationError

from facscale.data.errors import DataError
from facscale.spec.pipelines import MAX_MARGIN

SCHEMA_VERSION = 1
MAX_BYTES = 1 << 30  # of a row group, or of a footer; the writer makes none above 64 MB
MIN_BYTES_PER_ROW = 4  # the length field of its JPEG alone
FRAME_ENTRY_BYTES = 16  # of each row in a frame table
REQUIRED_COUNTS = {"identities", "videos", "tracks", "frames", "labelled_frames"}
# Everything but the shards is in this folder: pandas, pyarrow and Hugging Face's datasets skip a folder whose name begins with
# two underscores, so that they read a data set by its own folder.
ABOUT = "__facscale__"
MANIFEST, INDEX = f"{ABOUT}/manifest.json", f"{ABOUT}/index.parquet"


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Position of a row group in its file (bytes), and the xxh3-128 of those bytes (hexadecimal).

    `frame_table`: xxh3-128 of the frame table behind it (`frame_table.py`); "": data sets of earlier releases have none.
    """

    offset: Annotated[int, Field(ge=0)]
    length: Annotated[int, Field(gt=0, le=MAX_BYTES)]
    rows: Annotated[int, Field(gt=0)]
    checksum: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    frame_table: Annotated[str, Field(pattern="^([0-9a-f]{32})?$")] = ""

    @property
    def end(self) -> int:
        """The byte of the file after the row group and its frame table."""
        return self.offset + self.length + self.table_bytes

    @property
    def table_bytes(self) -> int:
        """Size of the frame table."""
        return FRAME_ENTRY_BYTES * self.rows if self.frame_table else 0


@dataclass(frozen=True)
class Shard:
    """One Parquet file; `bytes` is its size."""

    file: Annotated[str, Field(pattern=r"^[\w-][\w.-]*$", max_length=200)]  # a plain name: nothing outside the folder
    bytes: Annotated[int, Field(gt=0)]
    rows: Annotated[int, Field(gt=0)]
    row_groups: Annotated[tuple[RowGroup, ...], Field(min_length=1)]
    labelled_frames: int | None = None  # None: not counted, in data sets of earlier releases
    origin: str = ""  # hash of what a pipeline wrote it from: a later version takes over shards of equal origin

    @property
    def footer_offset(self) -> int:
        """The end of the last row group and its frame table, where Parquet's footer begins."""
        return max(group.end for group in self.row_groups)

    def find_faults(self) -> Iterator[str]:
        """Yield a sentence for each contradiction between the fields."""
        if self.rows != sum(group.rows for group in self.row_groups):
            yield f"{self.file} has another number of rows than its row groups"
        if not 0 < self.bytes - self.footer_offset <= MAX_BYTES:
            yield f"{self.file} has no room for its footer"
        if any(MIN_BYTES_PER_ROW * group.rows > group.length for group in self.row_groups):
            yield f"{self.file} has a row group with too few bytes for its rows"
        if any(group.table_bytes > MAX_BYTES for group in self.row_groups):
            yield f"{self.file} has a row group with more than {MAX_BYTES // FRAME_ENTRY_BYTES:,} rows"


@dataclass(frozen=True)
class _SchemaVersion:
    """The only field of manifest.json that every version has."""

    schema: Any


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]  # printed, hence no control characters
    au: tuple[Annotated[int, Field(ge=0)], ...]  # AU numbers of the label columns, in their order; empty: not labelled
    image_size: Annotated[int, Field(gt=0, le=8192)]  # pixels, side of the stored square crops
    fps: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # frames a second of the source videos; 0: single images
    recipe: dict[str, Any]  # how the data set was made, in free form
    counts: dict[str, Annotated[int, Field(ge=0)]]  # identities, videos, tracks, frames, labelled_frames
    shards: Annotated[tuple[Shard, ...], Field(min_length=1)]
    fingerprint: str  # sha256 over names, columns and all row-group checksums
    index_checksum: str
    expressions: tuple[str, ...] = ()  # classes of the column `expression`, by their numbers; empty: no such column
    margin: Annotated[float, Field(ge=0, le=MAX_MARGIN)] = (
        0.0  # around the face square, as a share of the square's side
    )
    kind: str = "faces"
    schema: int = SCHEMA_VERSION
    version: int = 1  # of what one pipeline made from a source that has changed in between
    previous: str = ""  # fingerprint of the version before
    changes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # since then: items added, replaced, ...

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: bytes | str, *, url: str) -> Self:
        """Parse and validate manifest.json of the data set at `url`. Raises DataError."""
        try:
            version = TypeAdapter(_SchemaVersion).validate_json(text).schema
            if version != SCHEMA_VERSION:
                raise DataError(
                    f"{url}: written with schema {version}, this facscale reads {SCHEMA_VERSION}; convert it again"
                )
            manifest = TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{url}/{MANIFEST} is damaged: {field}: {first['msg']}; make the data set again") from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{url}/{MANIFEST} is damaged: {error!r}; make the data set again") from None
        for fault in manifest.find_faults():
            raise DataError(f"{url}/{MANIFEST} is damaged: {fault}; make the data set again")
        return manifest

    def find_faults(self) -> Iterator[str]:
        """Yield a sentence for each contradiction between the fields: a manifest is untrusted input."""
        if missing := REQUIRED_COUNTS - self.counts.keys():
            yield f"counts lack {', '.join(sorted(missing))}"
        if len(set(self.au)) < len(self.au):
            yield "au names a column twice"
        for shard in self.shards:
            yield from shard.find_faults()


@dataclass(frozen=True)
class Runs:
    """All runs of a data set in stored order, as arrays [R].

    `identities` and `videos` hold the names behind the codes in `identity` and `video`.
    """

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
    fps: np.ndarray | None = None  # frames a second of the source video; None: as in the manifest
    every: np.ndarray | None = None  # difference of the numbers of neighbouring frames; 0: single images

    def __len__(self) -> int:
        return len(self.shard)

    def mask_subjects(self, subjects: Collection[str]) -> np.ndarray:
        """Return bool [R]: whether each run shows one of the given identities."""
        mask: np.ndarray = np.isin(np.asarray(self.identities), list(subjects))[self.identity]
        return mask

    def check_bounds(self, manifest: Manifest) -> None:
        """Raise ValueError for a run outside the row groups of the manifest."""
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
        """Convert the rows of index.parquet."""
        numbers = {
            name: table[name].to_numpy() for name in ("shard", "row_group", "start", "frames", "track", "first_frame")
        }
        identity = table["identity"].combine_chunks().dictionary_encode()
        pairs = pc.binary_join_element_wise(table["identity"], table["video"], "\0")
        video = pairs.combine_chunks().dictionary_encode().indices.to_numpy()
        del pairs
        first_run = np.unique(video, return_index=True)[1]  # of each video
        names = table["video"].combine_chunks().dictionary_encode()
        distinct = names.dictionary.to_pylist()  # equal names of a million videos are one string
        videos = tuple(distinct[code] for code in names.indices.to_numpy()[first_run].tolist())
        timing = {
            name: table[name].cast(kind).to_numpy()
            for name, kind in (("fps", pa.float32()), ("every", pa.int32()))
            if name in table.column_names
        }
        return cls(
            **numbers,
            **timing,
            identity=identity.indices.to_numpy(),
            video=video,
            identities=tuple(identity.dictionary.to_pylist()),
            videos=videos,
        )


def compute_checksum(data: bytes | memoryview) -> str:
    """Compute xxh3-128 in hexadecimal: it detects damage at memory speed, but is no defence against forgery."""
    return xxhash.xxh3_128(memoryview(data)).hexdigest()


def compute_fingerprint(*, name: str, schema: pa.Schema, shards: Sequence[Shard]) -> str:
    """Compute sha256 over names, columns and all row-group checksums: equal if and only if the stored data are."""
    columns = [(field.name, str(field.type)) for field in schema]
    groups = [group.checksum for shard in shards for group in shard.row_groups]
    return hashlib.sha256(json.dumps([name, columns, groups]).encode()).hexdigest()
