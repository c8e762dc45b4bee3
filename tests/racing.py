"""Senders in processes of their own that all begin at the same moment, round after round."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from facscale.track import flush
from facscale.track.identity import experiment_id, find_or_make_run

PATIENCE_S = 1200


def race(sender: Callable[..., Any], rounds: Sequence[Any], *, count: int) -> list[list[Any]]:
    """`sender(round, number)` in `count` processes, all at once in each round; what they returned, by round."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(count), context.Queue()
    places = [(sender, list(rounds), number, barrier, answers) for number in range(count)]
    processes = [context.Process(target=_run, args=place) for place in places]
    for process in processes:
        process.start()
    told = [answers.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join(PATIENCE_S)
    return [list(answers) for answers in zip(*told, strict=True)]


def _run(sender: Callable[..., Any], rounds: list[Any], number: int, barrier: Any, answers: Any) -> None:
    found = []
    for one in rounds:
        barrier.wait(PATIENCE_S)
        try:
            found.append(sender(one, number))
        except Exception as error:  # noqa: BLE001 - the test shows it
            found.append(error)
    answers.put(found)


def attach(job: tuple[str, str, str], number: int) -> str:
    """The id of the run of (tracker, experiment, key); senders 0 and 1 are copies of one, the others start later."""
    uri, experiment, key = job
    api = MlflowClient(uri)
    where = experiment_id(api, experiment, uri=uri)

    def make() -> str:
        return api.create_run(where, 1_000 + number // 2, {"facscale.key": key}).info.run_id

    return find_or_make_run(api, where, key=key, make=make)


def deliver(job: tuple[str, list[Path]], number: int) -> bool:
    """Send one's own copy of a spool."""
    uri, spools = job
    return flush(spools[number], uri=uri)
