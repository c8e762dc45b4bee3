"""The record of a training's checkpoints, whoever trains: what it does not name does not count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from facscale.compat.ray_checkpoints import CHECKPOINT_PREFIX, SNAPSHOT, build_snapshot, parse_snapshot
from facscale.data.storage import Folder, open_fsspec
from facscale.train.checkpoint import CHECKSUMS, METRICS, CheckpointError, StoredCheckpoint, fetch, sort_newest_first
from facscale.train.task import ResumePoint

Entry = tuple[str, Mapping[str, Any]]  # the name of a checkpoint's folder, and the metrics that it was kept with


def read_record(training: str) -> list[Entry]:
    """The complete checkpoints in the folder at the URL `training`, the oldest first. Raises ValueError for a damaged record."""
    store, folder = open_fsspec(training)
    path = f"{folder}/{SNAPSHOT}"
    return [*parse_snapshot(store.cat_file(path))] if store.exists(path) else []


def write_record(training: str, entries: Sequence[Entry]) -> None:
    """Replace the record of the folder at the URL `training`."""
    Folder(training).write(SNAPSHOT, build_snapshot(entries))


def list_stored(training: str) -> list[StoredCheckpoint]:
    """The checkpoints of the training in the folder at a URL, the newest first. Raises ValueError for a damaged record."""
    stored = []
    for name, metrics in read_record(training):
        url = f"{training}/{name}"
        stored.append(StoredCheckpoint(url, partial(fetch, url), int(metrics.get("step", 0))))
    return sort_newest_first(stored)


def list_resumable(point: ResumePoint) -> list[StoredCheckpoint]:
    """The checkpoints of a training up to `point.step`, the newest first; after them those that are newer.

    The training may have gone on since `point.step`, even to its end, and it keeps only its last few checkpoints. Raises
    CheckpointError where it has none.
    """
    try:
        stored = list_stored(point.training)
    except ValueError as error:
        raise CheckpointError(f"{point.training}/{SNAPSHOT} is damaged ({error})") from None
    if not stored:
        raise CheckpointError(f"{point.training} has no checkpoint to resume from")
    newer = [item for item in stored if item.step > point.step]
    return [item for item in stored if item.step <= point.step] + newer[::-1]


def repair_record(training: str) -> str:
    """Write the record of the folder at the URL `training` anew where it is damaged.

    Returns what was done; "" where nothing is wrong, or nothing there.
    """
    store, folder = open_fsspec(training)
    path = f"{folder}/{SNAPSHOT}"
    if not store.exists(path):
        return ""
    names = {item.rstrip("/").rpartition("/")[2] for item in store.ls(folder, detail=False)} - {SNAPSHOT}
    with suppress(ValueError):
        if all(name in names for name, _ in parse_snapshot(store.cat_file(path))):
            return ""
    entries: list[Entry] = []
    for name in sorted(name for name in names if name.startswith(CHECKPOINT_PREFIX)):
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # its upload was not complete
            metrics = json.loads(store.cat_file(f"{folder}/{name}/{CHECKSUMS}"))[METRICS]
            entries.append((name, dict(metrics)))
    if entries:
        write_record(training, sorted(entries, key=lambda entry: float(entry[1].get("step", 0))))
        return f"{training}/{SNAPSHOT} was damaged: it is written anew from {len(entries)} checkpoints"
    store.rm_file(path)
    return f"{training}/{SNAPSHOT} was damaged, and no checkpoint is complete: the training begins again"
