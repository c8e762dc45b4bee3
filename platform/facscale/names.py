"""Converts titles to names of files, folders and metrics."""

from __future__ import annotations

import re


def sanitize_filename(title: str) -> str:
    """Replace what paths in a store must not contain: "DISFA, learned on BP4D" to "DISFA-learned-on-BP4D"."""
    return re.sub(r"[^\w.-]+", "-", title)


def slugify(title: str) -> str:
    """Replace every character that is not a letter or digit by a dash."""
    return "".join(letter if letter.isalnum() else "-" for letter in title)
