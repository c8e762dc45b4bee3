"""The hooks of the documentation's site, which are no package."""

from __future__ import annotations

import importlib
import sys

from conftest import ROOT


def load_hook(name):
    """The module docs/hooks/NAME.py."""
    sys.path.insert(0, str(ROOT / "docs" / "hooks"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)
