"""Access to private APIs of other libraries: one module per library, one function per use, with the versions tried."""

from __future__ import annotations

import importlib
from importlib.metadata import version
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
