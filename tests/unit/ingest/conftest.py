from __future__ import annotations

from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture
def plugins(monkeypatch):
    """The package of `tests/plugins` is installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))
