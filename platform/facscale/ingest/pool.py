"""Processes the items on a Ray cluster: Ray Data, one task per item, in worker processes that keep their detector."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ray

from facscale.cluster.ray import join
from facscale.data import DataError
from facscale.data.s3 import DRIVER_VARIABLE, list_variables
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.items import Item
from facscale.ingest.work_store import ItemStatus
from facscale.spec import Pipeline, SpecError

SPEC_ERROR = "spec: "  # prefix of a SpecError among the error texts that workers send
MAX_BLOCKS = 10_000  # of Ray Data's plan; with more items than that, several share a block


@lru_cache(maxsize=1)
def _get_extractor(pipeline: str, run: str) -> FaceExtractor:
    """Return the extractor of this worker process, which Ray reuses for all tasks: weights are loaded once."""
    return FaceExtractor(Pipeline.model_validate_json(pipeline), run=run)


def _extract_row(row: dict[str, Any], *, pipeline: str, run: str, variables: str) -> dict[str, Any]:
    """Return a row with the status, or with an error that ends the pipeline.

    Errors are returned, because Ray would bury their text in its own. Rows are sent as JSON: Arrow would guess types
    from empty lists. `variables`: names of the AWS_ variables of the driver, for errors about them.
    """
    os.environ[DRIVER_VARIABLE] = variables
    try:
        status = _get_extractor(pipeline, run)(Item.from_json(row["item"]), row["key"])
    except DataError as error:
        return {"status": "", "error": str(error)}
    except SpecError as error:
        return {"status": "", "error": f"{SPEC_ERROR}{error}"}
    return {"status": status.to_json(), "error": ""}


def extract_items(items: Sequence[tuple[str, Item]], *, pipeline: Pipeline, run: str) -> Iterator[ItemStatus]:
    """Yield the statuses of (key, item) pairs as they complete, in any order. Raises DataError, SpecError.

    Ray Data retries the task of a dead process indefinitely; the FaceExtractor counts the attempts and skips the item.
    """
    rows = [{"key": key, "item": item.to_json()} for key, item in items]
    with _connect_to_ray(), _silence_ray_data():
        cpus = pipeline.ingest.cpus_per_worker
        if max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=0) < cpus:
            raise SpecError(f"no node of this Ray cluster has the {cpus:g} CPUs of ingest.cpus_per_worker; lower it")
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
            _extract_row,
            fn_kwargs={"pipeline": pipeline.model_dump_json(), "run": run, "variables": " ".join(list_variables())},
            num_cpus=cpus,
            compute=ray.data.TaskPoolStrategy(size=min(len(rows), pipeline.ingest.workers)),
        )
        for row in data.iter_rows():
            if row["error"]:
                raise _parse_error(row["error"])
            yield ItemStatus.from_json(row["status"])


@contextmanager
def _connect_to_ray() -> Iterator[None]:
    """Use the caller's connection to Ray; without one, connect by `join`, and disconnect at the end."""
    is_new = not ray.is_initialized()
    if is_new:
        join()
    try:
        yield
    finally:
        if is_new:
            ray.shutdown()


@contextmanager
def _silence_ray_data() -> Iterator[None]:
    """Turn off the progress bars and logs of Ray Data: our own bar shows the same in terms of items and faces."""
    context = ray.data.DataContext.get_current()
    has_bars = context.enable_progress_bars
    context.enable_progress_bars = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = has_bars
        logger.setLevel(level)


def _parse_error(text: str) -> DataError | SpecError:
    return SpecError(text.removeprefix(SPEC_ERROR)) if text.startswith(SPEC_ERROR) else DataError(text)
