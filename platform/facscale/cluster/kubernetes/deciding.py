"""Pure decisions: what a submission means where the same job is known, and which job a name means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from facscale.cluster.kubernetes.host import Standing, State
from facscale.cluster.kubernetes.order import Order
from facscale.errors import UserError


class JobError(UserError):
    """A name means no job, or several."""


class Do(Enum):
    """With an order."""

    START = auto()  # nobody has
    AGAIN = auto()  # forget what is over, then start
    ATTACH = auto()  # it runs
    TELL_FINISHED = auto()
    TELL_FAILED = auto()
    TELL_RIVAL = auto()  # another spec writes to the same checkpoints now


class Decision(NamedTuple):
    """What to do, and about which job there."""

    do: Do
    about: Standing | None = None


def decide(order: Order, jobs: Sequence[Standing], *, again: bool) -> Decision:
    """What `submit` does. A stopped job is started anew: whoever stopped it and submits it wants it to go on."""
    same = sorted((one for one in jobs if one.spec == order.digest[:16]), key=lambda one: one.state.over)
    rivals = [one for one in jobs if one.trains == order.trains and not one.state.over and one not in same]
    if same and not same[0].state.over:
        return Decision(Do.ATTACH, same[0])
    if rivals:
        return Decision(Do.TELL_RIVAL, rivals[0])
    if not same:
        return Decision(Do.START)
    if again or same[0].state is State.STOPPED:
        return Decision(Do.AGAIN, same[0])
    return Decision(Do.TELL_FINISHED if same[0].state is State.SUCCEEDED else Do.TELL_FAILED, same[0])


class Found(NamedTuple):
    """A job and the cluster it is on."""

    cluster: str
    job: Standing


def find(name: str, everywhere: Mapping[str, Sequence[Standing] | UserError]) -> Found:
    """The job that `name` means: an id, a job's name, or how one of them begins. Raises JobError.

    `everywhere`: the jobs of each cluster, or why they are not known.
    """
    jobs = [
        Found(cluster, job)
        for cluster, found in everywhere.items()
        if not isinstance(found, UserError)
        for job in found
    ]
    silent = "".join(f"\n  not asked: {found}" for found in everywhere.values() if isinstance(found, UserError))
    exact = [one for one in jobs if one.job.id == name]
    named = [one for one in jobs if one.job.job == name]
    begun = [one for one in jobs if one.job.id.startswith(name) or one.job.job.startswith(name)]
    for candidates in (exact, named, begun):
        alive = [one for one in candidates if not one.job.state.over]
        for some in (candidates, alive):
            if len(some) == 1:
                return some[0]
        if candidates:
            raise JobError(
                f"{name} may be each of these; name one, or the cluster as well:\n{_lines(candidates)}{silent}"
            )
    there = f"these are there:\n{_lines(jobs[:10])}" if jobs else "there are none"
    raise JobError(f"there is no job {name}: {there}{silent}")


def _lines(found: Sequence[Found]) -> str:
    return "\n".join(f"  {one.job.id:<48} {one.job.state:<10} on {one.cluster}" for one in found)
