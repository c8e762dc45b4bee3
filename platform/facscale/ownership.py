"""Files and folders that belong to this user alone: making them, and checking what is trusted because of where it lies."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facscale.errors import UserError

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
PRIVATE_UMASK = 0o077


class OwnershipError(UserError):
    """Another user could read or change what must be this user's own."""


def make_private_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, with the folders above it, and return its absolute path.

    One that exists keeps its permissions. Raises OwnershipError if another user can change it or replace it.
    """
    folder = folder.expanduser().absolute()
    create_folders(folder)
    if reason := find_foreign_access(folder):
        raise OwnershipError(f"{folder} is not yours alone: {reason}. Choose another folder, or remove that access")
    return folder


def create_folders(folder: Path) -> None:
    """Create a folder, and the missing folders above it, so that only this user can enter them."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def find_foreign_access(path: Path) -> str:
    """Say how a user other than root could change `path` or put something else in its place; "" if nobody can.

    `path` and all folders above it must belong to this user or to root, and be writable by nobody else. Folders above
    with the sticky bit, such as /tmp, may be writable. A group that has no other members counts as the user.
    """
    path = path.absolute()
    for place in dict.fromkeys((path, *path.resolve().parents, *path.parents, path.resolve())):
        state = place.lstat()
        if stat.S_ISLNK(state.st_mode):
            state = os.stat_result((state.st_mode & ~0o022, *state[1:]))  # a link's own permissions have no effect
        if state.st_uid not in {0, os.geteuid()}:
            return f"{place} belongs to {get_user_name(state.st_uid)}"
        is_sticky = place != path and stat.S_ISDIR(state.st_mode) and bool(state.st_mode & stat.S_ISVTX)
        if state.st_mode & stat.S_IWOTH and not is_sticky:
            return f"every user may write to {place}"
        if state.st_mode & stat.S_IWGRP and not is_sticky and not is_own_group(state.st_gid):
            return f"the group {get_group_name(state.st_gid)} may write to {place}"
    return ""


def is_own_group(gid: int) -> bool:
    """Whether a group is root's, or this user's own: the group of the same name that has no other members."""
    if gid == 0:
        return True
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def get_user_name(uid: int) -> str:
    """The name of a user, or the number where the system knows none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def get_group_name(gid: int) -> str:
    """The name of a group, or the number where the system knows none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@contextmanager
def restrict_new_files() -> Iterator[None]:
    """Make what this process and its children create in the block readable by this user alone, by the process's umask."""
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)
