"""Images inside of larger files: tar files (WebDataset), and Parquet or Arrow files (Hugging Face datasets).

An image has a place instead of a name: `shards/a.tar::1536+20480::key.jpg`, its bytes in a tar file, or
`data/a.parquet::17::image`, the row and the column of a table. Places stand wherever an item names a file.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from facscale.data.parquet import open_parquet

TAR_PLACE = re.compile(r"(.+\.tar)::(\d+)\+(\d+)::(.+)", re.IGNORECASE | re.DOTALL)
ROW_PLACE = re.compile(r"(.+\.(?:parquet|arrow))::(\d+)::(.+)", re.IGNORECASE | re.DOTALL)
BLOCK = 1 << 20  # bytes that are read ahead in a tar file of a bucket
MAX_SIDECAR = 1 << 20  # bytes; labels are small
# Images are read ahead by several threads, which would all fetch the row group that none of them finds in the cache.
READING = threading.Lock()


class Member(NamedTuple):
    """A file in a tar file: its name, its place, and its content if that was asked for."""

    name: str
    place: str
    content: bytes | None


def get_container(name: str) -> str:
    """Return the file that holds an image: the name itself if it is no place."""
    match = TAR_PLACE.fullmatch(name) or ROW_PLACE.fullmatch(name)
    return match[1] if match else name


def get_plain_name(name: str) -> str:
    """Return a name for an image without offsets: those of one file are in the order of its names or rows."""
    if match := TAR_PLACE.fullmatch(name):
        return f"{match[1]}/{match[4].removeprefix('./')}"
    if match := ROW_PLACE.fullmatch(name):
        return f"{match[1]}/{int(match[2]):09d}"
    return name


def read_place(system: Any, base: str, name: str) -> bytes | None:
    """Read the image at a place of a source; None if `name` is the name of a file. Raises ValueError."""
    if match := TAR_PLACE.fullmatch(name):
        start = int(match[2])
        content: bytes = system.cat_file(f"{base}/{match[1]}", start=start, end=start + int(match[3]))
        return content
    if match := ROW_PLACE.fullmatch(name):
        return _read_cell(system, f"{base}/{match[1]}", row=int(match[2]), column=match[3])
    return None


def index_tar(system: Any, base: str, name: str, *, sidecars: frozenset[str]) -> Iterator[Member]:
    """Yield the files in a tar file, with the content of those with a suffix in `sidecars`. Raises ValueError.

    Over a network the whole file is read, since only its end tells what is in it.
    """
    options = {} if isinstance(system, LocalFileSystem) else {"block_size": BLOCK}
    try:
        with system.open(f"{base}/{name}", "rb", **options) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                suffix = "." + member.name.rpartition(".")[2].lower()
                content = None
                if suffix in sidecars and member.size <= MAX_SIDECAR:
                    extracted = tar.extractfile(member)
                    content = extracted.read() if extracted else None
                place = f"{name}::{member.offset_data}+{member.size}::{member.name}"
                yield Member(member.name.removeprefix("./"), place, content)
    except tarfile.TarError as error:
        raise ValueError(f"{name}: not a plain tar file ({error}); a compressed one must be unpacked first") from None


def read_columns(system: Any, base: str, name: str, *, image: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read all columns of a Parquet or Arrow file but those that hold images.

    Returns (rows, the features that Hugging Face's datasets library has described, {} without it). Raises ValueError.
    """
    try:
        if name.lower().endswith(".parquet"):
            with system.open(f"{base}/{name}", "rb") as file:
                parquet = open_parquet(file)
                schema = parquet.schema_arrow
                rows = parquet.read(columns=_select_plain(schema, image), use_threads=False).to_pylist()
        else:
            table = _open_arrow(_File.locate(system, f"{base}/{name}"))
            schema = table.schema
            rows = table.select(_select_plain(schema, image)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name}: cannot be read as a table: {str(error).splitlines()[0]}") from None
    if image not in schema.names:
        raise ValueError(
            f"{name}: there is no column {image!r}; there are: {', '.join(schema.names)}; set source.image"
        )
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        features = {}
    return rows or [{} for _ in range(_count_rows(system, base, name))], features


def _count_rows(system: Any, base: str, name: str) -> int:
    if name.lower().endswith(".parquet"):
        with system.open(f"{base}/{name}", "rb") as file:
            return int(open_parquet(file).metadata.num_rows)
    return int(_open_arrow(_File.locate(system, f"{base}/{name}")).num_rows)


def _select_plain(schema: pa.Schema, image: str) -> list[str]:
    is_large = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct
    return [field.name for field in schema if field.name != image and not any(is_(field.type) for is_ in is_large)]


@dataclass(frozen=True)
class _File:
    """A file in a store. fsspec has a file system for each thread, all of which mean the same file."""

    store: str
    path: str
    system: Any = field(compare=False)

    @classmethod
    def locate(cls, system: Any, path: str) -> _File:
        return cls(str(system.protocol), path, system)


def _read_cell(system: Any, path: str, *, row: int, column: str) -> bytes:
    with READING:
        chunk, first = _read_chunk(_File.locate(system, path), row, column)
    value = chunk[row - first].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return content
    raise ValueError("the row holds no image; only images stored in the table are read")


def _read_chunk(file: _File, row: int, column: str) -> tuple[Any, int]:
    """Return the column in the row group with a row, and the number of its first row."""
    if not file.path.lower().endswith(".parquet"):
        return _open_arrow(file)[column], 0
    edges = _list_row_groups(file)
    group = next(number for number in range(len(edges) - 1) if row < edges[number + 1])
    return _read_row_group(file, group, column), edges[group]


@lru_cache(maxsize=64)
def _list_row_groups(file: _File) -> list[int]:
    """List the first row of each row group, then the number of rows."""
    edges = [0]
    with file.system.open(file.path, "rb") as content:
        metadata = open_parquet(content).metadata
        for number in range(metadata.num_row_groups):
            edges.append(edges[-1] + metadata.row_group(number).num_rows)
    return edges


@lru_cache(maxsize=2)  # images are read in order, so the last row group is used again
def _read_row_group(file: _File, group: int, column: str) -> Any:
    with file.system.open(file.path, "rb") as content:
        return open_parquet(content).read_row_group(group, columns=[column], use_threads=False)[column]


@lru_cache(maxsize=2)
def _open_arrow(file: _File) -> pa.Table:
    """Open an Arrow file or stream; a local one is mapped into memory."""
    is_local = isinstance(file.system, LocalFileSystem)
    source = pa.memory_map(file.path) if is_local else io.BytesIO(file.system.cat_file(file.path))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_file(source).read_all()
