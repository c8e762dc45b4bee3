"""The items on a Ray cluster: Ray Data, one task an item, in worker processes that keep their detector."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ray

from facscale.cluster import join
from facscale.data import DataError
from facscale.ingest.extract import Extractor
from facscale.ingest.items import Item
from facscale.ingest.parts import Status
from facscale.spec import Pipeline, SpecError

SPEC = "spec: "  # marks an error of the spec among those that workers send
LARGEST_PLAN = 10_000  # blocks; with more items than that, several share one


@lru_cache(maxsize=1)
def _extractor(pipeline: str, run: str) -> Extractor:
    """One a worker process, which Ray keeps for all tasks: weights are loaded once."""
    return Extractor(Pipeline.model_validate_json(pipeline), run=run)


def _one(row: dict[str, Any], *, pipeline: str, run: str) -> dict[str, Any]:
    """A row with the status, or with an error that ends the pipeline: Ray would bury its words in its own.

    Rows travel as JSON: Arrow would guess types from empty lists.
    """
    try:
        return {"status": _extractor(pipeline, run)(Item.from_json(row["item"]), row["key"]).to_json(), "error": ""}
    except DataError as error:
        return {"status": "", "error": str(error)}
    except SpecError as error:
        return {"status": "", "error": f"{SPEC}{error}"}


def work(items: Sequence[tuple[str, Item]], *, pipeline: Pipeline, run: str) -> Iterator[Status]:
    """The statuses of (key, item) pairs as they get done, in any order. Raises DataError, SpecError.

    Ray Data repeats a task whose process died for ever; the Extractor counts, and gives an item up.
    """
    rows = [{"key": key, "item": item.to_json()} for key, item in items]
    with _connected(), _quiet():
        cpus = pipeline.ingest.cpus_per_worker
        if max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=0) < cpus:
            raise SpecError(f"no node of this Ray cluster has the {cpus:g} CPUs of ingest.cpus_per_worker")
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), LARGEST_PLAN)).map(
            _one,
            fn_kwargs={"pipeline": pipeline.model_dump_json(), "run": run},
            num_cpus=cpus,
            compute=ray.data.TaskPoolStrategy(size=min(len(rows), pipeline.ingest.workers)),
        )
        for row in data.iter_rows():
            if row["error"]:
                raise _fatal(row["error"])
            yield Status.from_json(row["status"])


@contextmanager
def _connected() -> Iterator[None]:
    """The Ray that the caller is connected to; else the one that `join` takes.

    Only a connection of our own is ended.
    """
    ours = not ray.is_initialized()
    if ours:
        join()
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data draws bars and writes logs of its own; ours says the same in the user's words."""
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before
        logger.setLevel(level)


def _fatal(text: str) -> DataError | SpecError:
    return SpecError(text.removeprefix(SPEC)) if text.startswith(SPEC) else DataError(text)
