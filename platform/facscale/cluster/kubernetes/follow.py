"""Follow a job on a cluster from its queue to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from facscale.cluster.kubernetes.client import ClusterClient, JobState, JobStatus, LogStream
from facscale.cluster.kubernetes.errors import JobNotFoundError, UnreachableError

Result = TypeVar("Result")
PAUSE_S = 2.0
MAX_ATTEMPTS = 451  # without an answer, with PAUSE_S between them: a quarter of an hour
EMPTY_READS = 5  # reads without a line after which a log has ended: a job's last lines arrive late


class LogScreen(Protocol):
    """The display of a job's log (`progress.LogView`)."""

    def show(self, lines: Iterable[str]) -> None:
        """Show lines of the job's log."""
        ...

    def note(self, text: str) -> None:
        """Show a line about the job."""
        ...


def follow_job(client: ClusterClient, job: str, *, screen: LogScreen) -> JobStatus:
    """Show what a job waits for, then its log, until it ends; return its last status. Survives lost connections.

    Raises JobNotFoundError if the job does not exist at the start, UnreachableError if the cluster gives no answer
    for a quarter of an hour.
    """
    status, last_text = client.get_job(job), ""
    log = client.open_log(job)
    try:
        while True:
            text = f"  {status.state:<10} {status.reason}".rstrip()
            if text != last_text:
                screen.note(text)
            last_text = text
            screen.show(call_with_retries(log.read_new, screen))
            if status.state.is_terminal:
                show_rest(log, screen)
                return status
            time.sleep(PAUSE_S)
            status = call_with_retries(lambda: client.get_job(job), screen)
    except JobNotFoundError:
        return replace(status, state=JobState.STOPPED, reason="somebody has cancelled it")
    finally:
        log.close()


def call_with_retries(call: Callable[[], Result], screen: LogScreen) -> Result:
    """Return what `call` returns once the cluster answers; raise its last error after a quarter of an hour."""

    def note_first_failure(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            screen.note(f"  {state.outcome.exception()}\n  the job goes on; trying to reach it again")

    retrying = Retrying(
        retry=retry_if_exception_type(UnreachableError),
        stop=stop_after_attempt(MAX_ATTEMPTS),
        wait=wait_fixed(PAUSE_S),
        before_sleep=note_first_failure,
        reraise=True,
    )
    return retrying(call)


def show_rest(log: LogStream, screen: LogScreen) -> None:
    """Show the last lines of the log of a job that has ended."""
    empty_reads = 0
    while empty_reads < EMPTY_READS:
        lines = log.read_new()
        screen.show(lines)
        empty_reads = 0 if lines else empty_reads + 1
        if empty_reads:
            time.sleep(PAUSE_S / EMPTY_READS)
