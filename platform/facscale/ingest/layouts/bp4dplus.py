"""BP4D+ (Zhang et al., 2016): BP4D's tree, with 140 other people; four of its ten tasks are coded.

Its people have the names of BP4D's (F001, M001) and are not the same, so each gets a 2 in front: 2F001. Without it, a
small part of BP4D+ would be split by BP4D's published folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from facscale.ingest.items import Files, Item
from facscale.ingest.layouts.bp4d import BP4D


class BP4DPlus(BP4D):
    """Image sequences of tasks, with a table of occurrences for some of them."""

    published = "BP4D+"

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per (subject, task)."""
        for item in super().list_items(files):
            yield replace(item, identity=f"2{item.identity}")
