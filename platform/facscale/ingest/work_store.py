"""The intermediate results of a pipeline: those of each item are stored under OUTPUT/_parts until all are complete.

The result of an item is a Parquet file of its faces and a small JSON status. The status is written last and atomically,
so an item is either complete or not started; a pipeline that was killed continues with the items that have no status.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec

from facscale.data import DataError
from facscale.data.storage import Folder
from facscale.ingest.items import Fault

FOLDER = "_parts"
RECIPE = "recipe.json"
READERS = 16


@dataclass(frozen=True)
class ItemStatus:
    """The outcome of one item. The fields are the keys of the stored JSON and the columns of `items.parquet`."""

    key: str
    source: str  # the video file, or the folder of the images
    identity: str
    video: str
    part: str
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
    faults: tuple[Fault, ...] = ()

    @property
    def sort_key(self) -> tuple[str, str, str]:
        """Position of the item in the data set."""
        return self.identity, self.video, self.part

    def to_json(self) -> str:
        """Serialize the status, to store it or to send it to the driver."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> ItemStatus:
        """Parse the output of `to_json`."""
        fields = json.loads(text)
        faults = tuple(Fault(**fault) for fault in fields.pop("faults"))
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return ItemStatus(**fields, faults=faults)


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
            put_text(self.folder, RECIPE, text)
            return
        if stored != json.loads(text):
            keys = sorted(key for key in stored.keys() | recipe.keys() if stored.get(key) != recipe.get(key))
            raise DataError(
                f"{self.url} holds an unfinished data set with another recipe (different: {', '.join(keys)}); "
                "choose another output, or delete that folder to start again"
            )

    def read_statuses(self, keys: set[str]) -> dict[str, ItemStatus]:
        """Read the statuses of those of `keys` that are complete, by key."""
        files = [name for name in self._list_files() if name.endswith(".json") and name[:-5] in keys]
        with ThreadPoolExecutor(READERS) as pool:
            statuses = pool.map(lambda name: ItemStatus.from_json(self.folder.read(name)), files)
            return {status.key: status for status in statuses}

    def read_status(self, key: str) -> ItemStatus | None:
        """Read the status of one item; None if it is not complete."""
        try:
            return ItemStatus.from_json(self.folder.read(f"{key}.json"))
        except FileNotFoundError:
            return None

    def save(self, status: ItemStatus, *, faces: Path | None) -> None:
        """Store an item's faces (a local Parquet file) and then its status."""
        if faces is not None:
            self.folder.create()
            self.folder.put(f"{status.key}.parquet", source=faces)
        put_text(self.folder, f"{status.key}.json", status.to_json())

    def count_attempt(self, key: str, run: str) -> int:
        """Count an attempt at an item within one run of the pipeline, and return its number, from 1."""
        name = f"{key}.tries"
        try:
            tries = json.loads(self.folder.read(name))
        except FileNotFoundError:
            tries = {}
        count = tries["count"] + 1 if tries.get("run") == run else 1
        put_text(self.folder, name, json.dumps({"run": run, "count": count}))
        return int(count)

    def delete(self) -> None:
        """Delete all results."""
        system, path = fsspec.core.url_to_fs(self.folder.url, use_listings_cache=False)
        if system.exists(path):
            system.rm(path, recursive=True)

    def _list_files(self) -> list[str]:
        system, path = fsspec.core.url_to_fs(self.folder.url, use_listings_cache=False)
        return [name.rsplit("/", 1)[-1] for name in system.find(path)] if system.exists(path) else []


def put_text(folder: Folder, name: str, text: str) -> None:
    """Write a small text file atomically."""
    with put_file(folder, name) as path:
        path.write_text(text, encoding="utf-8")


@contextmanager
def put_file(folder: Folder, name: str) -> Iterator[Path]:
    """Yield a local path to write to; on exit the file is moved to `folder` atomically."""
    with tempfile.TemporaryDirectory(prefix="facscale-") as spool:
        path = Path(spool) / name
        yield path
        folder.create()
        folder.put(name, source=path)
