"""Lists the items that a pipeline could not read."""

from __future__ import annotations

from facscale.data import DataError
from facscale.ingest.report import read_statuses
from facscale.ingest.work_store import RECIPE, ItemStatus, WorkStore


def list_failed(url: str) -> list[ItemStatus]:
    """List the failed items of a data set or, while it is unfinished, of those that are done. Raises DataError for neither."""
    store = WorkStore(url)
    keys = [name.removesuffix(".json") for name in store.list_files() if name.endswith(".json") and name != RECIPE]
    statuses = list(store.read_statuses(keys).values()) if keys else read_statuses(url)
    if statuses is None:
        raise DataError(f"{url}: no pipeline has written there; give the output of a pipeline")
    return sorted((status for status in statuses if status.is_failed), key=lambda status: status.sort_key)
