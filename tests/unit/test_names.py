"""Where caches lie."""

from __future__ import annotations

from pathlib import Path

from facscale.names import expand_cache


def test_a_cache_follows_the_users_own_folder(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/anna")
    assert expand_cache("~/.cache/facscale/shards") == Path("/home/anna/.cache/facscale/shards")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/anna")
    assert expand_cache("~/.cache/facscale/shards") == Path("/scratch/anna/facscale/shards")
    assert expand_cache("~/other") == Path("/home/anna/other")
    assert expand_cache("/data/shards") == Path("/data/shards")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # invalid by the standard
    assert expand_cache("~/.cache/facscale/shards") == Path("/home/anna/.cache/facscale/shards")
