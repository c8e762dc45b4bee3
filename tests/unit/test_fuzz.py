"""Inputs that once broke a reader, and sound ones: read, or refused in words."""

from __future__ import annotations

import pytest

from fuzz import fuzz

FILES = sorted(path for path in fuzz.CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input_that_broke_a_reader_no_longer_does(path, monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    assert not fuzz.find_defect(fuzz.TARGETS[path.parent.name], path.read_bytes())


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_sound_files_are_read(name, monkeypatch):
    monkeypatch.setenv("FACSCALE_DATA", "s3://faces")
    for data in fuzz.TARGETS[name].seeds()[:3]:
        fuzz.TARGETS[name].read(data)


def test_a_defect_is_seen():
    def fail(data):
        raise KeyError(data)

    assert "KeyError" in fuzz.find_defect(fuzz.Target(list, fail), b"x")
