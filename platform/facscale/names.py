"""Names of files, folders and metrics that are made from titles, and where our caches lie."""

from __future__ import annotations

import os
import re
from pathlib import Path


def sanitize_filename(title: str) -> str:
    """Replace what paths in a store must not contain: "DISFA, learned on BP4D" to "DISFA-learned-on-BP4D"."""
    return re.sub(r"[^\w.-]+", "-", title)


def slugify(title: str) -> str:
    """Replace every character that is not a letter or digit by a dash."""
    return "".join(letter if letter.isalnum() else "-" for letter in title)


def expand_cache(path: str) -> Path:
    """Expand ~ in the path of a cache; ~/.cache is XDG_CACHE_HOME, where that is set to an absolute path."""
    home, inside = "~/.cache/", os.environ.get("XDG_CACHE_HOME", "")
    if path.startswith(home) and Path(inside).is_absolute():
        return Path(inside) / path.removeprefix(home)
    return Path(path).expanduser()
