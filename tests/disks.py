"""Full disks: a real small file system, and a limit on the size of files."""

from __future__ import annotations

import contextlib
import resource
import subprocess

import pytest


@contextlib.contextmanager
def limit_file_size(size):
    """Writes beyond `size` bytes of a file fail, or are short, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def mount_disk(folder, *, options="size=1m"):
    """A file system of 1 MB at `folder`, which is created. Skips the test without root rights."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting needs root rights: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Write a file that takes what is left of a small disk, and return it."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(512)) == 512:
            pass
    return filler
