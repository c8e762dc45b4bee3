"""Zip a folder of code for upload with a job: the files that git lists, else all but hidden files and caches."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from facscale.errors import UserError

MAX_ZIP_BYTES = 1_000_000  # a ConfigMap holds 1 MiB, together with the spec
EXCLUDED = {"__pycache__", "node_modules", ".git"}
MARKER = "facscale-code.txt"  # in the root: Ray unpacks a zip with a single folder in it one level higher
SECRET_NAMES = (
    ".env*",
    "*.pem",
    "*.key",
    "id_*",
    ".netrc",
    ".npmrc",
    ".pypirc",
    "*credentials*",
    "*.token",
    "kubeconfig",
)
# A repository's own configuration may name programs that git runs when it lists files.
SAFE_GIT = (
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.pager=cat",
    "-c",
    "core.untrackedCache=false",
)
EPOCH = (1980, 1, 1, 0, 0, 0)  # of all files: equal content gives equal bytes


class CodeError(UserError):
    """The folder cannot be packed."""


@dataclass(frozen=True)
class CodeArchive:
    """A zip with the content of a folder."""

    folder: Path
    content: bytes  # of the zip
    left_out: tuple[str, ...] = ()  # files whose names are those of passwords and keys

    @property
    def digest(self) -> str:
        """SHA-256 over all names and contents."""
        return hashlib.sha256(self.content).hexdigest()


def pack_folder(folder: Path) -> CodeArchive:
    """Zip a folder, without files that hold passwords and keys by their names.

    Raises CodeError if it is missing, if a link in it leads out of it, or if it is too large, with the largest files.
    """
    if not folder.is_dir():
        raise CodeError(f"--working-dir {folder}: there is no such folder")
    listed = list_files(folder)
    root = folder.resolve()
    for path in listed:
        if not path.resolve().is_relative_to(root):
            raise CodeError(
                f"--working-dir {folder}: {path.relative_to(folder)} leads to {path.resolve()}, outside the folder; its "
                "content would be uploaded with your code: replace the link by a copy, or remove it"
            )
    left_out = [path for path in listed if holds_secrets(path.relative_to(folder))]
    paths = [path for path in listed if path not in left_out]
    size = sum(path.stat().st_size for path in paths)
    if size > 50 * MAX_ZIP_BYTES:  # will not compress enough; spares the time
        raise build_size_error(folder, paths, f"{size / 1e6:,.0f} MB")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(zipfile.ZipInfo(MARKER, EPOCH), "Uploaded by facscale submit.\n")
        for path in paths:
            info = zipfile.ZipInfo(str(path.relative_to(folder)), EPOCH)
            info.external_attr = (path.stat().st_mode & 0o777) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    if buffer.tell() > MAX_ZIP_BYTES:
        raise build_size_error(folder, paths, f"{buffer.tell() / 1e6:.1f} MB when zipped")
    return CodeArchive(folder, buffer.getvalue(), tuple(str(path.relative_to(folder)) for path in left_out))


def list_files(folder: Path) -> list[Path]:
    """List the files to pack, sorted."""
    command = ["git", *SAFE_GIT, "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - no shell
    except FileNotFoundError:
        git = None  # git is not installed
    is_checkout = git is not None and git.returncode == 0
    names = git.stdout.split("\0") if git is not None and is_checkout else []
    paths = (folder / name for name in names if name) if is_checkout else folder.rglob("*")
    return sorted(
        path for path in paths if path.is_file() and should_pack(path.relative_to(folder), is_listed=is_checkout)
    )


def should_pack(path: Path, *, is_listed: bool) -> bool:
    """Return whether a file is packed; hidden ones only if git lists them."""
    is_hidden = any(part.startswith(".") for part in path.parts)
    return not EXCLUDED & set(path.parts) and (is_listed or not is_hidden)


def holds_secrets(path: Path) -> bool:
    """Return whether a file, or a folder above it, has a name that passwords and keys are kept under."""
    return any(fnmatch(part.lower(), pattern) for part in path.parts for pattern in SECRET_NAMES)


def build_size_error(folder: Path, paths: list[Path], size: str) -> CodeError:
    """Build the error for a folder that is too large, with its five largest files."""
    largest = sorted(paths, key=lambda path: path.stat().st_size, reverse=True)[:5]
    lines = "\n".join(f"  {path.stat().st_size / 1e6:9.2f} MB  {path.relative_to(folder)}" for path in largest)
    return CodeError(
        f"--working-dir {folder} has {size}; code that is uploaded with a job may have {MAX_ZIP_BYTES / 1e6:.0f} MB. "
        f"The largest files:\n{lines}\nName a folder with the code alone, add the others to .gitignore, or build an "
        "image: --image"
    )
