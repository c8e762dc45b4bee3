"""Local files that appear complete or not at all, whatever ends this process or fills the disk; and locks on files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the process's limit


class LockedError(Exception):
    """Another process holds a lock; the message is what it says of itself."""


@contextlib.contextmanager
def hold_lock(path: Path, *, owner: str) -> Iterator[None]:
    """Hold the lock file `path`, in which `owner` says who does; the kernel lets go when this process ends, however it ends.

    Raises LockedError where another process holds it. Where no lock can be made (a read-only folder, a file system that
    has none) the block runs without.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError:
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LockedError(file.read().decode(errors="replace").strip() or "another process") from None
        except OSError:
            pass
        with contextlib.suppress(OSError):  # the disk is full: the lock holds without words
            file.truncate(0)
            file.write(owner.encode())
            file.flush()
        yield


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, in place of one of that name; after a crash there is the old one or the new one.

    Raises OSError; a full disk leaves the old file, and no part of the new one.
    """
    with replace_file(path) as partial, partial.open("xb") as file:
        file.write(data)


@contextlib.contextmanager
def replace_file(path: Path, *, mark: str = "") -> Iterator[Path]:
    """Yield where to write a file that takes the place of `path` when the block ends, complete, or not at all.

    A block that writes no file replaces none. `mark`: part of the name until then. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{mark}{secrets.token_hex(4)}.partial")
    try:
        yield partial
        if partial.exists():
            sync(partial)
            publish(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def publish(partial: Path, path: Path) -> None:
    """Rename a complete file that is on the disk, and see the new name onto the disk too. Raises OSError."""
    partial.replace(path)
    with contextlib.suppress(OSError):  # some network file systems cannot sync a folder
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that there is no space to write to."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(os.strerror(code) in str(error) for code in FULL):  # of libraries that only pass the words on
            return True
        error = error.__cause__ or error.__context__
    return False
