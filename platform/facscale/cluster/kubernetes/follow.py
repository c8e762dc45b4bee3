"""Watch a job elsewhere from its queue to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol, TypeVar

from facscale.cluster.kubernetes.failures import GoneError, UnreachableError
from facscale.cluster.kubernetes.host import Host, Log, Standing, State

Answer = TypeVar("Answer")
PAUSE_S = 2.0
PATIENCE = 450  # looks without an answer, until that is an error: a quarter of an hour
LATE = 5  # looks after the end: what a job prints last arrives late


class Screen(Protocol):
    """Where it is shown (`progress.Tail`)."""

    def show(self, lines: Iterable[str]) -> None:
        """Lines of the job's log."""
        ...

    def note(self, text: str) -> None:
        """A line about the job."""
        ...


def follow(host: Host, job: str, *, screen: Screen) -> Standing:
    """Show what a job waits for, then its log, until it is over; its last standing. Stays through lost connections.

    Raises GoneError for a job that is not there from the beginning, UnreachableError for a cluster that stays silent.
    """
    last, told = host.look(job), ""
    log = host.log(job)
    try:
        while True:
            said = f"  {last.state:<10} {last.why}".rstrip()
            if said != told:
                screen.note(said)
            told = said
            screen.show(patiently(log.more, screen))
            if last.state.over:
                drain(log, screen)
                return last
            time.sleep(PAUSE_S)
            last = patiently(lambda: host.look(job), screen)
    except GoneError:
        return replace(last, state=State.STOPPED, why="somebody has cancelled it")
    finally:
        log.close()


def patiently(ask: Callable[[], Answer], screen: Screen) -> Answer:
    """What `ask` returns, once the cluster answers; its last error after a quarter of an hour."""
    for silent in range(PATIENCE):
        try:
            return ask()
        except UnreachableError as error:
            if silent == 0:
                screen.note(f"  {error}\n  the job goes on; trying to reach it again")
            time.sleep(PAUSE_S)
    return ask()


def drain(log: Log, screen: Screen) -> None:
    """Show the end of a log."""
    quiet = 0
    while quiet < LATE:
        lines = log.more()
        screen.show(lines)
        quiet = 0 if lines else quiet + 1
        if quiet:
            time.sleep(PAUSE_S / LATE)
