"""Access to private APIs of other libraries: one module per library, one function per use, with the versions tried."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from types import ModuleType
from typing import Any

from facscale.errors import UserError


class IncompatibleVersionError(UserError):
    """The installed version of a library lacks a private API that facscale relies on."""

    def __init__(self, name: str, *, distribution: str, tried: str) -> None:
        super().__init__(
            f"{distribution} {version(distribution)} has no {name}, which facscale needs; "
            f"install {distribution} {tried}, with which facscale was tried"
        )


def load_private(module: str, name: str, *, distribution: str, tried: str) -> Any:
    """Import `name`, which is private or undocumented, from `module`.

    `distribution` is the package's name on PyPI, `tried` the versions that are known to work. Raises
    IncompatibleVersionError with both versions where the module or the name is absent.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise IncompatibleVersionError(f"{module}.{name}", distribution=distribution, tried=tried) from None


@contextmanager
def replace_module(name: str, stand_in: ModuleType | None) -> Iterator[None]:
    """Within the block, an import of `name` gives `stand_in`; with None it raises ImportError.

    A module that is loaded already stays what it is. Afterwards it can be imported; another thread that imports it for the
    first time within the block gets the stand-in.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in  # type: ignore[assignment]  # None is Python's own way to hide a module
    try:
        yield
    finally:
        if name in sys.modules and sys.modules[name] is stand_in:  # nobody has loaded it meanwhile
            del sys.modules[name]


@contextmanager
def set_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block, and restore them after it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
