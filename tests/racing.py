"""Runs senders in several processes that all start each round at the same moment."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from facscale.track import flush
from facscale.track.identity import get_or_create_experiment, get_or_create_run

PATIENCE_S = 1200


def race(sender: Callable[..., Any], rounds: Sequence[Any], *, count: int) -> list[list[Any]]:
    """Call `sender(argument, number)` in `count` processes, all at once in each round; return results by round."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.Queue()
    places = [(sender, list(rounds), number, barrier, answers) for number in range(count)]
    processes = [context.Process(target=_run, args=place) for place in places]
    for process in processes:
        process.start()
    results = [answers.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join(PATIENCE_S)
    return [list(answers) for answers in zip(*results, strict=True)]


def _run(sender: Callable[..., Any], rounds: list[Any], number: int, barrier: Any, answers: Any) -> None:
    results = []
    for argument in rounds:
        barrier.wait(PATIENCE_S)
        try:
            results.append(sender(argument, number))
        except Exception as error:  # noqa: BLE001 - the test shows it
            results.append(error)
    answers.put(results)


def attach(job: tuple[str, str, str], number: int) -> str:
    """Return the run id of `job` (tracker, experiment, key); senders 0 and 1 are copies with the same start time."""
    uri, experiment, key = job
    api = MlflowClient(uri)
    where = get_or_create_experiment(api, experiment, uri=uri)

    def create() -> str:
        return api.create_run(where, 1_000 + number // 2, {"facscale.key": key}).info.run_id

    return get_or_create_run(api, where, key=key, create=create)


def deliver(job: tuple[str, list[Path]], number: int) -> bool:
    """Send the copy of a spool that belongs to this sender."""
    uri, spools = job
    return flush(spools[number], uri=uri)
