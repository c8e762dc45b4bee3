"""The items on a Ray cluster: Ray Data over a pool of actors, each with its own detector."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from facscale.data import DataError
from facscale.ingest.extract import Extractor
from facscale.ingest.items import Item
from facscale.ingest.parts import Status
from facscale.spec import Pipeline, SpecError

LARGEST_PLAN = 10_000  # blocks; with more items than that, several share one
OURS = (DataError, SpecError)


class Worker:
    """One actor of the pool. Rows travel as JSON: Arrow would guess types from empty lists."""

    def __init__(self, pipeline: str, run: str) -> None:
        self.extractor = Extractor(Pipeline.model_validate_json(pipeline), run=run)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"status": self.extractor(Item.from_json(row["item"]), row["key"]).to_json()}


def work(items: Sequence[tuple[str, Item]], *, pipeline: Pipeline, run: str) -> Iterator[Status]:
    """The statuses of (key, item) pairs as they get done, in any order. Raises DataError, SpecError.

    Uses the Ray that the caller is connected to; else a running one (RAY_ADDRESS, or this machine's), else starts one.
    """
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    cpus = pipeline.ingest.cpus_per_worker
    if max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=0) < cpus:
        raise SpecError(f"no node of this Ray cluster has the {cpus:g} CPUs of ingest.cpus_per_worker")
    rows = [{"key": key, "item": item.to_json()} for key, item in items]
    with _quiet():
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), LARGEST_PLAN)).map(
            Worker,
            fn_constructor_kwargs={"pipeline": pipeline.model_dump_json(), "run": run},
            num_cpus=cpus,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=min(len(rows), pipeline.ingest.workers), max_tasks_in_flight_per_actor=2
            ),
        )
        try:
            for row in data.iter_rows():
                yield Status.from_json(row["status"])
        except Exception as error:
            raise _plain(error) from error


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


def _plain(error: BaseException) -> BaseException:
    """The error that our code raised in the worker, without what Ray wrapped around it."""
    inner: BaseException | None = error
    while inner is not None:
        cause = getattr(inner, "cause", None)
        if isinstance(inner, OURS):
            return type(inner).__mro__[-3](*inner.args) if type(inner) not in OURS else inner
        inner = cause if isinstance(cause, BaseException) else inner.__cause__
    return error
