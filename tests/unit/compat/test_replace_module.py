"""A stand-in for a module, for the time of an import, leaves nothing behind."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest

from facscale.compat import replace_module


@pytest.fixture
def name(tmp_path, monkeypatch):
    """A module that nothing has imported."""
    (tmp_path / "seldom_used.py").write_text("is_real = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "seldom_used"
    sys.modules.pop("seldom_used", None)


def test_a_hidden_module_cannot_be_imported_within_the_block_alone(name):
    with replace_module(name, None), pytest.raises(ImportError):
        importlib.import_module(name)
    assert importlib.import_module(name).is_real


def test_a_stand_in_is_what_an_import_gives_also_where_the_block_fails(name):
    stand_in = ModuleType(name)
    with pytest.raises(AttributeError), replace_module(name, stand_in):
        importlib.import_module(name).is_real  # noqa: B018
    assert importlib.import_module(name).is_real


@pytest.mark.parametrize("stand_in", [None, ModuleType("stand_in")])
def test_a_module_that_is_loaded_stays(name, stand_in):
    real = importlib.import_module(name)
    with replace_module(name, stand_in):
        assert importlib.import_module(name) is real
    assert sys.modules[name] is real


def test_what_is_loaded_within_the_block_stays(name):
    with replace_module(name, ModuleType(name)):
        del sys.modules[name]
        real = importlib.import_module(name)
    assert sys.modules[name] is real
