"""Ray Train's record of a training's checkpoints, which a kill or a full disk can leave in part."""

from __future__ import annotations

import json
from contextlib import suppress

from facscale.compat.ray_train import CHECKPOINT_PREFIX, SNAPSHOT, build_snapshot, is_snapshot_usable
from facscale.data.storage import Folder, open_fsspec
from facscale.train.checkpoint import CHECKSUMS, METRICS


def repair_record(training: str) -> str:
    """Write Ray Train's record of the checkpoints in the folder at the URL `training` anew where it is damaged.

    Returns what was done; "" where nothing is wrong, or nothing there.
    """
    store, folder = open_fsspec(training)
    path = f"{folder}/{SNAPSHOT}"
    if not store.exists(path):
        return ""
    names = sorted(item.rstrip("/").rpartition("/")[2] for item in store.ls(folder, detail=False))
    folders = [name for name in names if name.startswith(CHECKPOINT_PREFIX) and name != SNAPSHOT]
    if is_snapshot_usable(store.cat_file(path), folders=folders):
        return ""
    checkpoints = []
    for name in folders:
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # its upload was not complete
            metrics = json.loads(store.cat_file(f"{folder}/{name}/{CHECKSUMS}"))[METRICS]
            checkpoints.append((name, dict(metrics)))
    if checkpoints:
        Folder(training).write(SNAPSHOT, build_snapshot(checkpoints))
        return f"{training}/{SNAPSHOT} was damaged: it is written anew from {len(checkpoints)} checkpoints"
    store.rm_file(path)
    return f"{training}/{SNAPSHOT} was damaged, and no checkpoint is complete: the training begins again"
