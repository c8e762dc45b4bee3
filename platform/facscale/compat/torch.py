"""Private API of torch and torch.distributed. Tried with torch 2.13.0 and 2.14.1."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import ModuleType
from typing import Any

from torch.distributed import distributed_c10d as c10d

from facscale.compat import replace_module

logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # it misses Triton, whose kernels it could count
with replace_module("triton", None):  # to import it takes 0.2 s
    from torch.utils.flop_counter import flop_registry

__all__ = ["flop_registry", "set_collective_timeouts", "without_compiler"]


def set_collective_timeouts(seconds: float) -> None:
    """Set the timeout of every process group of this process, also of those that other libraries made.

    Torch sets it for a group that one holds, and has no public way to the other groups: DeepSpeed averages gradients in
    a copy of the default group, which has torch's own timeout of half an hour. Without a process group nothing is set.
    """
    if c10d.is_initialized():
        set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout  # noqa: SLF001 - before torch 2.14
        for group in c10d._world.pg_map:  # noqa: SLF001
            set_timeout(timedelta(seconds=seconds), group)


def keep(value: Any, *_: Any) -> Any:
    """Return a number as it is."""
    return value


CONCRETE_NUMBERS: dict[str, Callable[..., Any]] = {  # what torch.fx.experimental.symbolic_shapes says of them
    "expect_true": keep,
    "free_unbacked_symbols": lambda *_: frozenset(),
    "guard_or_false": keep,
    "guard_or_true": keep,
    "guard_size_oblivious": keep,
    "guarding_hint_or_throw": keep,
    "has_guarding_hint": lambda *_: True,
    "is_nested_int": lambda *_: False,
    "statically_known_true": keep,
    "sym_and": lambda *values: all(values),
    "sym_eq": lambda one, other: (*one,) == (*other,) if isinstance(one, list | tuple) else one == other,
    "sym_or": lambda *values: any(values),
}


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within the block, torch's optimizers, dispatch modes and Python kernels run without importing torch's compiler.

    They are decorated with `torch._disable_dynamo`, which imports `torch._dynamo` on the first call, only to tell the
    compiler to leave the function alone. That takes two seconds, in a process that compiles nothing. In the block, a
    stand-in whose `disable` returns the function itself takes its place. Others take that of what the kernels import (0.5 s)
    to ask whether a number is symbolic. Anything else that is read from a stand-in imports the module after all. Afterwards
    nothing of the stand-ins is left. Threads may be in such blocks at the same time, and then share the stand-ins. Not
    for a process with other threads that compile.
    """
    with _lock:
        if not _stand_ins.users:
            _stand_ins.install()
        _stand_ins.users += 1
    try:
        yield
    finally:
        with _lock:
            _stand_ins.users -= 1
            if not _stand_ins.users:
                _stand_ins.give_way()


class StandIns:
    """The stand-ins of all blocks of `without_compiler` in this process."""

    def __init__(self) -> None:
        self.users = 0  # blocks
        self._modules: tuple[StandIn, ...] = ()
        self._undecorated: list[Any] = []  # functions on which torch keeps an attribute

    def install(self) -> None:
        """Put a stand-in where each module that is not loaded yet would be."""
        self._modules = (
            # An optimizer's step calls `graph_break`: there is no graph.
            StandIn("torch._dynamo", self.give_way, {"disable": self._disable, "graph_break": lambda *_, **__: None}),
            StandIn("sympy", self.give_way, {"Basic": type("Basic", (), {})}),  # of which nothing is an instance
            StandIn("torch.fx.experimental.symbolic_shapes", self.give_way, CONCRETE_NUMBERS, is_package=False),
        )
        for module in self._modules:
            sys.modules.setdefault(module.__name__, module)

    def give_way(self) -> None:
        """Make room for the modules themselves, and leave nothing."""
        for module in self._modules:
            module.remove()
        undecorated, self._undecorated = self._undecorated, []
        for function in undecorated:
            function.__dict__.pop("__dynamo_disable", None)

    def _disable(self, fn: Any, *_: Any, **__: Any) -> Any:
        self._undecorated.append(fn)
        return fn


class StandIn(ModuleType):
    """Has a few names of a module. When another name, or a module below it, is asked for, `give_way` is called first.

    After `remove` it has no names of its own, for modules that keep it.
    """

    def __init__(
        self, module: str, give_way: Callable[[], None], names: Mapping[str, Any], *, is_package: bool = True
    ) -> None:
        super().__init__(module)
        vars(self).update(names, _give_way=give_way, _names=tuple(names), _is_package=is_package)

    def remove(self) -> None:
        """Make room for the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        parent, _, child = self.__name__.rpartition(".")
        if parent in sys.modules and vars(sys.modules[parent]).get(child) is self:
            delattr(sys.modules[parent], child)
        for name in self._names:
            vars(self).pop(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and not (name == "__path__" and self._is_package):
            raise AttributeError(name)
        self._give_way()
        return getattr(importlib.import_module(self.__name__), name)


_stand_ins, _lock = StandIns(), threading.Lock()
