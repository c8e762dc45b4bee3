"""Private API of DeepSpeed: the optimizer state behind ZeRO stages 1 and 2. Tried with DeepSpeed 0.19.2.

DeepSpeed's universal checkpoint is the public way to resume on another number of workers, but it converts whole folders
of files offline. Here the state goes through memory, as one tensor for each parameter.
"""

from __future__ import annotations

from typing import Any

LINK = "_lazy_init_hp_params_optimizer_state"


def is_sharded(optimizer: Any) -> bool:
    """Whether `optimizer` is DeepSpeed's own around a torch optimizer (ZeRO stage 1 or 2), not that optimizer itself."""
    return hasattr(optimizer, LINK)


def relink_states(optimizer: Any) -> None:
    """Link the states of the flat parameter groups of a sharded optimizer to their parameters, for all groups anew.

    DeepSpeed links once, all groups as soon as the first of them has a state; groups that got theirs later stay without.
    Raises AttributeError where this version of DeepSpeed has no such function.
    """
    optimizer._hp_optimizer_states_linked = False  # noqa: SLF001
    optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001


def link_states(optimizer: Any) -> None:
    """Link the states of a sharded optimizer that has just been given some. Raises as `relink_states`."""
    optimizer._lazy_init_hp_params_optimizer_state()  # noqa: SLF001
