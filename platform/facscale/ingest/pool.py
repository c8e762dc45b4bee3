"""Carries out the tasks of a pipeline on a Ray cluster, in processes that keep their detector."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import ray

from facscale.cluster.ray import join
from facscale.data import DataError
from facscale.data.s3 import DRIVER_VARIABLE, list_variables
from facscale.ingest.tasks import Action
from facscale.spec import Pipeline, SpecError

SPEC_ERROR = "spec: "  # prefix of a SpecError among the error texts that workers send
MAX_BLOCKS = 10_000  # of Ray Data's plan; with more items than that, several share a block


class RayPool:
    """The workers of a Ray cluster: tasks of Ray Data, up to `ingest.workers` at a time, which Ray retries without end."""

    def connect(self) -> AbstractContextManager[None]:
        """Use the caller's connection to Ray; without one, connect by `join`, and disconnect at the end."""
        return _connect_to_ray()

    def run(self, action: Action, rows: Sequence[str], *, pipeline: Pipeline) -> Iterator[str]:
        """Yield the results as they complete. Rows and results are texts: Arrow would guess types from empty lists.

        Raises DataError; SpecError if no node has enough CPUs.
        """
        if not rows:
            return
        with _connect_to_ray(), _silence_ray_data():
            cpus = pipeline.ingest.cpus_per_worker
            if max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=0) < cpus:
                raise SpecError(
                    f"no node of this Ray cluster has the {cpus:g} CPUs of ingest.cpus_per_worker; lower it"
                )
            blocks = min(len(rows), MAX_BLOCKS)
            data = ray.data.from_items([{"task": row} for row in rows], override_num_blocks=blocks).map(
                _run_row,
                fn_kwargs={"action": action, "variables": " ".join(list_variables())},
                num_cpus=cpus,
                compute=ray.data.TaskPoolStrategy(size=min(len(rows), pipeline.ingest.workers)),
            )
            for row in data.iter_rows():
                if row["error"]:
                    raise _parse_error(row["error"])
                yield row["result"]


def _run_row(row: dict[str, Any], *, action: Action, variables: str) -> dict[str, Any]:
    """Return a row with the result, or with an error that ends the pipeline.

    Errors are returned, because Ray would bury their text in its own. `variables`: names of the AWS_ variables of the
    driver, for errors about them.
    """
    os.environ[DRIVER_VARIABLE] = variables
    try:
        return {"result": action(row["task"]), "error": ""}
    except DataError as error:
        return {"result": "", "error": str(error)}
    except SpecError as error:
        return {"result": "", "error": f"{SPEC_ERROR}{error}"}


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
