"""What has changed in a source since the last version of its data set, and so what has to be done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from facscale.data import DataError, Dataset
from facscale.data.derivation import TERMS, hash_identity, list_forgotten
from facscale.data.versions import list_versions
from facscale.ingest.items import ImageBatch, Item
from facscale.ingest.report import read_statuses
from facscale.ingest.work_store import ItemStatus

KINDS = ("added", "replaced", "repaired", "removed")
SortKey = tuple[str, str, str]


class Task(NamedTuple):
    """An item that has to be processed."""

    key: str
    item: Item
    stamp: str


@dataclass(frozen=True)
class Previous:
    """The latest version of a data set that its pipeline wrote."""

    dataset: Dataset
    statuses: tuple[ItemStatus, ...] | None  # in sorted order; None: not known, so that it cannot be extended
    forgotten: frozenset[str] = frozenset()  # hashes of the people whom some version has forgotten
    history: tuple[dict[str, Any], ...] = ()  # of all versions

    @property
    def by_position(self) -> dict[SortKey, ItemStatus]:
        """The statuses by the positions of their items."""
        return {status.sort_key: status for status in self.statuses or ()}


@dataclass
class Comparison:
    """The items of a source against those of the last version, of which `kept` are as they were."""

    kept: list[ItemStatus] = field(default_factory=list)
    touched: list[tuple[Task, ItemStatus]] = field(default_factory=list)  # written again, perhaps with the same content
    pending: list[Task] = field(default_factory=list)
    removed: list[ItemStatus] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.touched or self.pending or self.removed)


def select_settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe that decide the crops: not what the source held, its licence, nor the history."""
    return {key: value for key, value in recipe.items() if key not in (*TERMS, "listing", "history")}


def find_previous(output: str, recipe: Mapping[str, Any]) -> Previous | None:
    """Find the last version of the data set at `output`; None if there is none. Raises DataError for another recipe."""
    versions = list_versions(output)
    settings = select_settings(recipe)
    for version in versions:
        stored = select_settings(version.manifest.recipe)
        if version.url == output.rstrip("/") and stored != settings:
            keys = sorted(key for key in stored.keys() | settings.keys() if stored.get(key) != settings.get(key))
            raise DataError(
                f"{output} already holds a finished data set from another recipe (different: {', '.join(keys)}); data sets "
                "never change: choose another output"
            )
    same = [version for version in versions if select_settings(version.manifest.recipe) == settings]
    if not same:
        return None
    history = [entry for version in same for entry in version.manifest.recipe.get("history", [])]
    unique = tuple(entry for number, entry in enumerate(history) if entry not in history[:number])
    forgotten = frozenset().union(*(list_forgotten(version.manifest.recipe) for version in same))
    for version in reversed(same):
        statuses = read_statuses(version.url)
        if statuses is not None:
            statuses = sorted(statuses, key=lambda status: status.sort_key)
            is_measured = all(status.is_measured for status in statuses)
            return Previous(version, tuple(statuses) if is_measured else None, forgotten, unique)
    return Previous(same[0], None, forgotten, unique)


def drop_forgotten(items: Sequence[Item], previous: Previous | None) -> tuple[tuple[Item, ...], int]:
    """Return the items without those of people whom a version has forgotten, and how many these were.

    Raises DataError for batches of single images, each of which shows many people.
    """
    if previous is None or not previous.forgotten:
        return tuple(items), 0
    if any(isinstance(item, ImageBatch) for item in items):
        raise DataError(
            f"{previous.dataset.url}: a version of it has forgotten people, and single images cannot be extended without "
            "them; remove their images, and choose another output"
        )
    remaining = tuple(item for item in items if hash_identity(item.identity) not in previous.forgotten)
    return remaining, len(items) - len(remaining)


def compare_items(tasks: Sequence[Task], previous: Previous | None, *, should_retry: bool = False) -> Comparison:
    """Compare the items of a source with the last version; with `should_retry`, items that failed are processed again."""
    comparison = Comparison()
    stored = previous.by_position if previous else {}
    for task in tasks:
        old = stored.pop(task.item.sort_key, None)
        if old is None or old.key != task.key or (should_retry and old.is_failed):
            comparison.pending.append(task)
        elif old.stamp == task.stamp or not (old.stamp and task.stamp):
            comparison.kept.append(replace(old, split=task.item.split))  # the lists of a split are no part of an item
        elif old.content:
            comparison.touched.append((task, old))
        else:
            comparison.pending.append(task)
    forgotten = previous.forgotten if previous else frozenset()
    comparison.removed = [status for status in stored.values() if hash_identity(status.identity) not in forgotten]
    return comparison


def list_changes(previous: Previous, statuses: Sequence[ItemStatus]) -> dict[str, tuple[str, ...]]:
    """Return the items that were added, replaced, repaired (they had failed before) and removed, in the order of names.

    An item that was processed again with the same result is not among them.
    """
    changes: dict[str, list[str]] = {kind: [] for kind in KINDS}
    stored = previous.by_position
    for status in statuses:
        old = stored.pop(status.sort_key, None)
        if old is None:
            changes["added"].append(status.source)
        elif (old.faces, old.checksum, old.is_failed) != (status.faces, status.checksum, status.is_failed):
            is_repaired = old.is_failed and not status.is_failed
            changes["repaired" if is_repaired else "replaced"].append(status.source)
    changes["removed"] += [
        status.source for status in stored.values() if hash_identity(status.identity) not in previous.forgotten
    ]
    return {kind: tuple(sorted(items)) for kind, items in changes.items()}
