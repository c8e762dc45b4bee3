"""Private API of torch.distributed. Tried with torch 2.13.0 and 2.14.1."""

from __future__ import annotations

from datetime import timedelta

from torch.distributed import distributed_c10d as c10d


def set_collective_timeouts(seconds: float) -> None:
    """Set the timeout of every process group of this process, also of those that other libraries made.

    Torch sets it for a group that one holds, and has no public way to the other groups: DeepSpeed averages gradients in
    a copy of the default group, which has torch's own timeout of half an hour. Without a process group nothing is set.
    """
    if c10d.is_initialized():
        set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout  # noqa: SLF001 - before torch 2.14
        for group in c10d._world.pg_map:  # noqa: SLF001
            set_timeout(timedelta(seconds=seconds), group)
