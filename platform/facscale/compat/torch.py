"""Private API of torch and torch.distributed. Tried with torch 2.13.0 and 2.14.1."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch
from torch.distributed import distributed_c10d as c10d

from facscale.compat import replace_module

DYNAMO = "torch._dynamo"


def set_collective_timeouts(seconds: float) -> None:
    """Set the timeout of every process group of this process, also of those that other libraries made.

    Torch sets it for a group that one holds, and has no public way to the other groups: DeepSpeed averages gradients in
    a copy of the default group, which has torch's own timeout of half an hour. Without a process group nothing is set.
    """
    if c10d.is_initialized():
        set_timeout = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout  # noqa: SLF001 - before torch 2.14
        for group in c10d._world.pg_map:  # noqa: SLF001
            set_timeout(timedelta(seconds=seconds), group)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within the block, torch's dispatch modes and Python kernels run without importing torch's compiler.

    They are decorated with `torch._disable_dynamo`, which imports `torch._dynamo` on the first call, only to tell the
    compiler to leave the function alone. That takes two seconds, in a process that compiles nothing. In the block, a
    stand-in whose `disable` returns the function itself takes its place; anything else that is read from the stand-in
    imports the compiler after all. Afterwards nothing of the stand-in is left. Not for a process with other threads
    that compile.
    """
    stand_in = _CompilerStandIn(DYNAMO)
    with replace_module(DYNAMO, stand_in):
        try:
            yield
        finally:
            stand_in.remove()


class _CompilerStandIn(ModuleType):
    """Has the functions of torch._dynamo that torch calls where nothing is compiled."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.functions = list[Any]()  # which torch keeps an attribute on

    def disable(self, fn: Any, *_: Any, **__: Any) -> Any:
        """Return the function as it is: nothing is compiled."""
        self.functions.append(fn)
        return fn

    def graph_break(self, *_: Any, **__: Any) -> None:
        """Do nothing: there is no graph. Each step of an optimizer calls it twice."""

    def remove(self) -> None:
        """Make room for the compiler, and let torch ask it again about each function."""
        if sys.modules.get(DYNAMO) is self:
            del sys.modules[DYNAMO]
        if vars(torch).get("_dynamo") is self:
            delattr(torch, "_dynamo")
        for function in self.functions:
            function.__dict__.pop("__dynamo_disable", None)
        self.functions.clear()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # such as __path__, which the import system looks for
            raise AttributeError(name)
        self.remove()
        return getattr(importlib.import_module(DYNAMO), name)
