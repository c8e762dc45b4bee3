"""Files that appear complete or not at all: on full disks, and when their process is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from disks import limit_file_size, mount_disk
from facscale.data.errors import NoSpaceError
from facscale.data.storage import Folder
from facscale.files import is_disk_full, write_atomically
from facscale.spec import Job
from facscale.train.trainer import (
    COST,
    DamagedExportError,
    is_finished,
    link_artifact,
    load_artifact,
    store_artifact,
)

WRITER = """
import sys
from pathlib import Path
from facscale.files import write_atomically
path, number = Path(sys.argv[1]), 0
while True:
    write_atomically(path, bytes([number % 256]) * 3_000_000)
    number += 1
    print(number, flush=True)
"""


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path):
    with mount_disk(tmp_path / "disk") as disk:
        yield disk


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"", b"second"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list_names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new_one(small_disk):
    folder = Folder(str(small_disk))
    folder.write("file", b"old")
    with pytest.raises(NoSpaceError, match=r"disk/file does not fit \(2,000,000 bytes: .*No space left.*: free space"):
        folder.write("file", bytes(2_000_000))
    assert folder.read("file") == b"old"
    assert list_names(small_disk) == ["file"]
    folder.write("file", b"new")
    assert folder.read("file") == b"new"


def test_a_limit_of_a_files_size_counts_as_a_full_disk(tmp_path):
    with limit_file_size(1000), pytest.raises(NoSpaceError, match="File too large"):
        Folder(str(tmp_path)).write("file", bytes(5000))
    assert list_names(tmp_path) == []


def test_a_source_that_does_not_fit_is_not_put(tmp_path, small_disk):
    source = tmp_path / "source"
    source.write_bytes(bytes(2_000_000))
    with pytest.raises(NoSpaceError, match="shard does not fit"):
        Folder(str(small_disk)).put("shard", source=source)
    assert list_names(small_disk) == []


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_killed_process_leaves_a_complete_file(tmp_path, count):
    path = tmp_path / "file"
    process = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE)
    for _ in range(count):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)  # somewhere in the next write
    process.wait()
    process.stdout.close()
    content = path.read_bytes()
    assert content == content[:1] * 3_000_000


def test_a_full_disk_is_recognised_behind_other_errors():
    error = RuntimeError("the upload failed")
    error.__cause__ = OSError(28, "No space left on device")
    assert is_disk_full(error)
    assert is_disk_full(RuntimeError("[errno 28] Error writing bytes to file. No space left on device"))
    assert not is_disk_full(OSError(13, "Permission denied"))
    assert not is_disk_full(None)


@pytest.fixture
def job(tmp_path):
    return Job(method={"name": "clp"}, cluster={"storage": str(tmp_path / "runs")})


def test_a_full_disk_never_leaves_a_training_that_counts_as_finished(small_disk):
    job = Job(method={"name": "clp"}, cluster={"storage": str(small_disk)})
    with pytest.raises(NoSpaceError, match=r"run/method\.safetensors does not fit"):
        store_artifact(job, name="run", export=bytes(2_000_000), cost={"seconds_per_step": 1.0})
    assert not is_finished(job, name="run")
    stored = store_artifact(job, name="run", export=bytes(1000), cost={"seconds_per_step": 1.0})
    assert load_artifact(job, name="run") == stored
    assert stored.cost == {"seconds_per_step": 1.0}


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:9] + b"x" + data[10:], lambda _: b""])
def test_an_export_that_was_altered_is_not_taken(job, damage, tmp_path):
    artifact = store_artifact(job, name="run", export=b"weights of a method", cost={})
    link_artifact(job, name="copy", source="run")
    assert load_artifact(job, name="copy").export == artifact.export
    path = tmp_path / "runs" / "run" / "method.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedExportError, match=r"run/method\.safetensors is damaged"):
        load_artifact(job, name="run")


def test_trainings_of_older_versions_stay_readable(job, tmp_path):
    """Their spent.json has no checksum; a part of an export is recognised by its header."""
    from safetensors.torch import save
    from torch import ones

    export, folder = save({"weight": ones(100)}), tmp_path / "runs" / "old"
    folder.mkdir(parents=True)
    (folder / COST).write_text(json.dumps({"peak_memory_gb": 2.0}))
    (folder / "method.safetensors").write_bytes(export)
    artifact = load_artifact(job, name="old")
    assert (artifact.export, artifact.cost) == (export, {"peak_memory_gb": 2.0})
    (folder / "method.safetensors").write_bytes(export[:-8])
    with pytest.raises(DamagedExportError):
        load_artifact(job, name="old")
    (folder / COST).write_text('{"peak_mem')
    with pytest.raises(DamagedExportError, match=r"spent\.json is damaged"):
        load_artifact(job, name="old")
