"""What another user could change is recognised, whichever folder above lets them, and what we make is ours alone."""

from __future__ import annotations

import os
import stat

import pytest

from facscale.ownership import OwnershipError, find_foreign_access, make_private_folder, restrict_new_files

STRANGER = 4242

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, which only root may")


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_new_folders_are_closed_to_others_and_old_ones_keep_their_mode(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    folder = make_private_folder(shared / "a" / "b")
    assert [mode_of(path) for path in (folder, folder.parent, shared)] == [0o700, 0o700, 0o755]


def test_files_made_in_the_block_are_closed_to_others(tmp_path):
    with restrict_new_files():
        (tmp_path / "inside").touch()
    (tmp_path / "after").touch()
    assert mode_of(tmp_path / "inside") == 0o600
    assert mode_of(tmp_path / "after") & 0o044


def test_what_everybody_may_write_is_not_ones_own(tmp_path):
    file = tmp_path / "file"
    file.touch(mode=0o600)
    assert not find_foreign_access(file)
    file.chmod(0o606)
    assert find_foreign_access(file) == f"every user may write to {file}"
    file.chmod(0o600)
    tmp_path.chmod(0o777)  # whoever may write there can put another file in its place
    assert find_foreign_access(file) == f"every user may write to {tmp_path}"
    tmp_path.chmod(0o1777)  # as in /tmp: only owners move their files
    assert not find_foreign_access(file)
    assert find_foreign_access(tmp_path), "a sticky folder itself can be filled by anybody"


@as_root
def test_groups_and_other_owners(tmp_path):
    file = tmp_path / "file"
    file.touch()
    file.chmod(0o660)
    os.chown(file, 0, STRANGER)
    assert find_foreign_access(file) == f"the group {STRANGER} may write to {file}"
    file.chmod(0o640)
    assert not find_foreign_access(file)
    os.chown(file, STRANGER, 0)
    assert find_foreign_access(file) == f"{file} belongs to user {STRANGER}"
    os.chown(tmp_path, STRANGER, 0)
    with pytest.raises(OwnershipError, match=f"belongs to user {STRANGER}"):
        make_private_folder(tmp_path / "below")


@as_root
def test_a_link_is_followed_to_what_it_names(tmp_path):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    assert not find_foreign_access(link)
    os.chown(folder, STRANGER, 0)
    assert find_foreign_access(link) == f"{folder} belongs to user {STRANGER}"
