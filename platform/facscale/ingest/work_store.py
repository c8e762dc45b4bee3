"""The intermediate results of a pipeline, stored under OUTPUT/_parts until the data set is complete.

    KEY.parquet, KEY.json    the faces of an item, and then its status, which is small
    KEY.tracks               the record of a part of the data set: the index of its shards, which are in place

Status and record are written last and atomically, so an item or a part is either complete or not started, and a pipeline
that was killed continues with those that are not complete. The faces of a part's items are deleted once its record is
there: apart from the shards that are being written, nothing is stored twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from facscale.data import DataError
from facscale.data.manifest import compute_checksum
from facscale.data.storage import Folder, open_fsspec
from facscale.data.writer import WrittenTracks
from facscale.ingest.items import Fault

FOLDER = "_parts"
RECIPE = "recipe.json"
READERS = 16
FAILURES = frozenset({"decode", "crash"})  # stages whose faults may be gone when an item is processed again


@dataclass(frozen=True)
class ItemStatus:
    """The outcome of one item. The fields are the keys of the stored JSON and the columns of `items.parquet`."""

    key: str
    source: str  # the video file, or the folder of the images
    identity: str
    video: str
    part: str
    split: str = ""  # part of the published split
    frames: int = 0  # decoded
    faces: int = 0  # kept
    faceless: int = 0  # frames in which no face was detected
    dropped: int = 0  # frames in tracks that were too short
    tracks: int = 0
    bystanders: int = 0  # faces beside the tracked one that were seen for as long as a track lasts
    strangers: int = 0  # crops that were left out because they show another person than most of the item
    descriptor: str = ""  # of the person, for the comparison with other items only: base64 of float16 [128]
    shot_cuts: int = 0
    disagreement: float | None = None  # of the crops' landmarks, mean; see `quality.py` for this and the next four
    sharpness: float | None = None  # mean
    outside: float | None = None  # mean
    doubtful: int = 0  # crops
    cut_off: int = 0  # crops
    fps: float = 0.0
    step: int = 1  # difference of the numbers of neighbouring frames
    stills: bool = False  # single images: each face is a person of its own
    seconds: float = 0.0  # of work
    au: tuple[int, ...] = ()
    images: int = 0  # image files of the item; 0: a video file
    label_rows: int = 0  # that label some AU
    rows_without_image: int = 0
    frames_without_label: int = 0  # of those decoded
    positives: tuple[int, ...] = ()  # by AU, in the frames decoded
    positives_lost: tuple[int, ...] = ()  # of these, in frames that were left out
    stamp: str = ""  # `Item.compute_stamp` of the files that were read
    content: str = ""  # `hash_content` of them; "": not known
    face_bytes: int = 0  # of the stored faces
    checksum: str = ""  # xxh3-128 of the stored faces
    faults: tuple[Fault, ...] = ()

    @property
    def sort_key(self) -> tuple[str, str, str]:
        """Position of the item in the data set."""
        return self.identity, self.video, self.part

    @property
    def is_failed(self) -> bool:
        """Whether the item, or a part of it, could not be read; a video that shows no face has not failed."""
        stages = {fault.stage for fault in self.faults}
        return bool(stages & FAILURES) or (not self.frames and "labels" in stages)

    @property
    def is_measured(self) -> bool:
        """Whether the status tells how its faces are stored; an earlier release did not write that."""
        return not self.faces or bool(self.face_bytes and self.checksum)

    def to_json(self) -> str:
        """Serialize the status, to store it or to send it to the driver."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> ItemStatus:
        """Parse the output of `to_json`."""
        values = json.loads(text)
        faults = tuple(Fault(**fault) for fault in values.pop("faults"))
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return ItemStatus(**values, faults=faults)

    def to_row(self) -> dict[str, Any]:
        """Return the row of `items.parquet`: a fault is "STAGE: REASON". The descriptor is biometric data, and left out."""
        faults = [f"{fault.stage}: {fault.reason}" for fault in self.faults]
        return asdict(self) | {"faults": faults, "descriptor": ""}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> ItemStatus:
        """Parse a row of `items.parquet`, also of an earlier release."""
        names = {field.name for field in fields(ItemStatus)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        faults = (text.partition(": ") for text in values.pop("faults") or ())
        return ItemStatus(
            **{name: value for name, value in values.items() if name in names},
            faults=tuple(Fault(row["source"], stage, reason) for stage, _, reason in faults),
        )


class WorkStore:
    """The results of all items of one data set."""

    def __init__(self, output: str) -> None:
        self.url = f"{output.rstrip('/')}/{FOLDER}"
        self.folder = Folder(self.url)

    def check_recipe(self, recipe: dict[str, Any]) -> None:
        """Store the recipe of the results, or compare it. Raises DataError if those stored have another recipe."""
        text = json.dumps(recipe, sort_keys=True)
        try:
            stored = json.loads(self.folder.read(RECIPE))
        except FileNotFoundError:
            self.folder.write(RECIPE, text.encode())
            return
        if stored != json.loads(text):
            keys = sorted(key for key in stored.keys() | recipe.keys() if stored.get(key) != recipe.get(key))
            raise DataError(
                f"{self.url} holds an unfinished data set with another recipe (different: {', '.join(keys)}); "
                "choose another output, or delete that folder to start again"
            )

    def list_files(self) -> frozenset[str]:
        """List the names of all stored files."""
        system, path = open_fsspec(self.folder.url, use_listings_cache=False)
        names = system.find(path) if system.exists(path) else []
        return frozenset(name.rsplit("/", 1)[-1] for name in names)

    def read_statuses(self, keys: Collection[str]) -> dict[str, ItemStatus]:
        """Read the statuses of those items that are complete, by key."""
        files = self.list_files() if keys else frozenset()
        complete = [key for key in keys if f"{key}.json" in files]
        with ThreadPoolExecutor(READERS) as pool:
            statuses = pool.map(lambda key: ItemStatus.from_json(self.folder.read(f"{key}.json")), complete)
            return {status.key: status for status in statuses}

    def read_status(self, key: str) -> ItemStatus | None:
        """Read the status of one item; None if it is not complete."""
        try:
            return ItemStatus.from_json(self.folder.read(f"{key}.json"))
        except FileNotFoundError:
            return None

    def save(self, status: ItemStatus, *, faces: Path | None) -> ItemStatus:
        """Store an item's faces (a local Parquet file) and then its status; return the status with their size and checksum."""
        if faces is not None:
            self.folder.create()
            with pa.memory_map(str(faces)) as file:
                status = replace(status, face_bytes=file.size(), checksum=compute_checksum(file.read_buffer()))
            self.folder.put(f"{status.key}.parquet", source=faces)
        self.folder.write(f"{status.key}.json", status.to_json().encode())
        return status

    def delete_items(self, keys: Collection[str]) -> None:
        """Delete all that is stored of items, so that they are processed again."""
        files = self.list_files() if keys else frozenset()
        for suffix in ("json", "parquet", "tries"):  # without its status, an item is not complete
            self.delete_files([name for key in keys if (name := f"{key}.{suffix}") in files])

    def read_parts(self, keys: Collection[str]) -> dict[str, WrittenTracks]:
        """Read the records of parts that are known to be complete, by key."""
        with ThreadPoolExecutor(READERS) as pool:
            records = pool.map(lambda key: self.folder.read(f"{key}.tracks"), keys)
            return {key: WrittenTracks.from_bytes(record) for key, record in zip(keys, records, strict=True)}

    def save_part(self, key: str, written: WrittenTracks) -> None:
        """Store the record of a part whose shards are in place."""
        with put_file(self.folder, f"{key}.tracks") as path:
            path.write_bytes(written.to_bytes())

    def delete_files(self, names: Collection[str]) -> None:
        """Delete stored files; one that is not there is passed over."""
        delete_files(self.folder.url, names)

    def count_attempt(self, key: str, run: str) -> int:
        """Count an attempt at an item within one run of the pipeline, and return its number, from 1."""
        name = f"{key}.tries"
        try:
            tries = json.loads(self.folder.read(name))
        except FileNotFoundError:
            tries = {}
        count = tries["count"] + 1 if tries.get("run") == run else 1
        self.folder.write(name, json.dumps({"run": run, "count": count}).encode())
        return int(count)

    def delete(self) -> None:
        """Delete all results."""
        system, path = open_fsspec(self.folder.url, use_listings_cache=False)
        if system.exists(path):
            system.rm(path, recursive=True)


def delete_files(url: str, names: Collection[str]) -> None:
    """Delete files of a folder; one that is not there is passed over."""
    system, path = open_fsspec(url, use_listings_cache=False)
    if isinstance(system, LocalFileSystem):
        for name in names:
            Path(path, name).unlink(missing_ok=True)
        return
    paths = [f"{path}/{name}" for name in names]
    try:
        if paths:
            system.rm(paths)  # S3: one request for a thousand, and none of them need be there
    except FileNotFoundError:
        for file in paths:
            with suppress(FileNotFoundError):
                system.rm_file(file)


@contextmanager
def put_file(folder: Folder, name: str) -> Iterator[Path]:
    """Yield a local path to write to; on exit the file is moved to `folder` atomically."""
    with tempfile.TemporaryDirectory(prefix="facscale-") as spool:
        path = Path(spool) / Path(name).name
        yield path
        folder.create()
        folder.put(name, source=path)
