"""A folder of code, packed to travel with a job: the files that git knows, or all but hidden ones and caches."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from facscale.errors import UserError

LIMIT = 1_000_000  # bytes of the zip: a ConfigMap holds 1 MiB, with the spec
NEVER = {"__pycache__", "node_modules", ".git"}
MARK = "facscale-code.txt"  # in the root: Ray unpacks a zip with a single folder in it one level higher
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same bytes


class CodeError(UserError):
    """The folder cannot travel."""


@dataclass(frozen=True)
class Code:
    """A zip with the content of a folder."""

    folder: Path
    zipped: bytes

    @property
    def digest(self) -> str:
        """Over all names and contents."""
        return hashlib.sha256(self.zipped).hexdigest()


def pack(folder: Path) -> Code:
    """Zip a folder. Raises CodeError for one that is missing or too large, and names what is large in it."""
    if not folder.is_dir():
        raise CodeError(f"--working-dir {folder}: there is no such folder")
    listed = files(folder)
    large = sum(path.stat().st_size for path in listed)
    if large > 50 * LIMIT:  # not worth the packing
        raise too_large(folder, listed, f"{large / 1e6:,.0f} MB")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(zipfile.ZipInfo(MARK, EPOCH), "Uploaded by facscale submit.\n")
        for path in listed:
            info = zipfile.ZipInfo(str(path.relative_to(folder)), EPOCH)
            info.external_attr = (path.stat().st_mode & 0o777) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    if packed.tell() > LIMIT:
        raise too_large(folder, listed, f"{packed.tell() / 1e6:.1f} MB when zipped")
    return Code(folder, packed.getvalue())


def files(folder: Path) -> list[Path]:
    """What travels, sorted."""
    asked = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - no shell, our words
    except FileNotFoundError:  # no git here
        done = None
    known = done.stdout.split("\0") if done and done.returncode == 0 else None
    found = (folder / name for name in known if name) if known is not None else folder.rglob("*")
    return sorted(
        path for path in found if path.is_file() and travels(path.relative_to(folder), listed=known is not None)
    )


def travels(path: Path, *, listed: bool) -> bool:
    """Hidden files stay at home unless git lists them."""
    return not NEVER & set(path.parts) and (listed or not any(part.startswith(".") for part in path.parts))


def too_large(folder: Path, listed: list[Path], how: str) -> CodeError:
    """Says what to leave out."""
    largest = sorted(listed, key=lambda path: path.stat().st_size, reverse=True)[:5]
    lines = "\n".join(f"  {path.stat().st_size / 1e6:9.2f} MB  {path.relative_to(folder)}" for path in largest)
    return CodeError(
        f"--working-dir {folder} has {how}; code that travels with a job may have {LIMIT / 1e6:.0f} MB. The largest files:\n"
        f"{lines}\nName a folder with the code alone, write the others into .gitignore, or build an image: --image"
    )
