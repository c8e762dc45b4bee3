"""The half-way house of a pipeline: what came out of each item lies under OUTPUT/_parts until all are there.

An item's part is a Parquet file of its faces and a small JSON status. The status is written last and whole, so an item
either is done or was never begun; a pipeline that was killed goes on with the items that have none.
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
class Status:
    """What came out of one item."""

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
    fps: float = 0.0
    step: int = 1  # difference of the numbers of neighbouring frames
    stills: bool = False  # single images: each face is a person of its own
    seconds: float = 0.0  # of work
    au: tuple[int, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def order(self) -> tuple[str, str, str]:
        """The place of the item in the data set."""
        return self.identity, self.video, self.part

    def to_json(self) -> str:
        """For the file."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Status:
        """What `to_json` wrote."""
        fields = json.loads(text)
        faults = tuple(Fault(**fault) for fault in fields.pop("faults"))
        return Status(**{**fields, "au": tuple(fields["au"])}, faults=faults)


class Parts:
    """The parts of one data set. Pickles as its URL."""

    def __init__(self, output: str) -> None:
        self.url = f"{output.rstrip('/')}/{FOLDER}"
        self.folder = Folder(self.url)

    def claim(self, recipe: dict[str, Any]) -> None:
        """Say how these parts are made. Raises DataError when they were begun otherwise."""
        text = json.dumps(recipe, sort_keys=True)
        try:
            begun = json.loads(self.folder.read(RECIPE))
        except FileNotFoundError:
            self._put(RECIPE, text)
            return
        if begun != json.loads(text):
            changed = ", ".join(
                sorted(key for key in begun.keys() | recipe.keys() if begun.get(key) != recipe.get(key))
            )
            raise DataError(
                f"{self.url} holds a half-finished data set of another recipe (different: {changed}); "
                "choose another output, or delete that folder to begin anew"
            )

    def statuses(self, keys: set[str]) -> dict[str, Status]:
        """The statuses of those of `keys` that are done."""
        done = [name for name in self._names() if name.endswith(".json") and name[:-5] in keys]
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda name: Status.from_json(self.folder.read(name)), done)
            return {status.key: status for status in found}

    def status(self, key: str) -> Status | None:
        """The status of one item; None while it is not done."""
        try:
            return Status.from_json(self.folder.read(f"{key}.json"))
        except FileNotFoundError:
            return None

    def finish(self, status: Status, *, faces: Path | None) -> None:
        """Store an item's faces (a local Parquet file) and then its status."""
        if faces is not None:
            self.folder.make()
            self.folder.put(f"{status.key}.parquet", source=faces)
        self._put(f"{status.key}.json", status.to_json())

    def attempt(self, key: str, run: str) -> int:
        """Count an attempt at an item within one run of the pipeline, and say which one it is, from 1."""
        name = f"{key}.tries"
        try:
            tries = json.loads(self.folder.read(name))
        except FileNotFoundError:
            tries = {}
        count = tries["count"] + 1 if tries.get("run") == run else 1
        self._put(name, json.dumps({"run": run, "count": count}))
        return int(count)

    def remove(self) -> None:
        """Delete all parts."""
        system, path = fsspec.core.url_to_fs(self.folder.url, use_listings_cache=False)
        if system.exists(path):
            system.rm(path, recursive=True)

    def _names(self) -> list[str]:
        system, path = fsspec.core.url_to_fs(self.folder.url, use_listings_cache=False)
        return [name.rsplit("/", 1)[-1] for name in system.find(path)] if system.exists(path) else []

    def _put(self, name: str, text: str) -> None:
        put_text(self.folder, name, text)


def put_text(folder: Folder, name: str, text: str) -> None:
    """Write a small file whole."""
    with put_file(folder, name) as path:
        path.write_text(text, encoding="utf-8")


@contextmanager
def put_file(folder: Folder, name: str) -> Iterator[Path]:
    """A local path to write to; what lies there in the end is put in place whole."""
    with tempfile.TemporaryDirectory(prefix="facscale-") as spool:
        path = Path(spool) / name
        yield path
        folder.make()
        folder.put(name, source=path)
