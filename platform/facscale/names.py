"""Titles as names of files, folders and metrics."""

from __future__ import annotations

import re


def file_name(title: str) -> str:
    """Without what a store's paths may not hold: "DISFA, learned on BP4D" as "DISFA-learned-on-BP4D"."""
    return re.sub(r"[^\w.-]+", "-", title)


def folder_name(title: str) -> str:
    """Letters, digits and dashes only."""
    return "".join(letter if letter.isalnum() else "-" for letter in title)
