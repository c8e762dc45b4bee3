"""Hyper-parameters that make any method tiny, by key: for tests that train all methods and jobs."""

from __future__ import annotations

from typing import Any

from facscale.methods import MethodConfig

TINY_OPTIONS = {
    "depth": 18,
    "width": 8,
    "hidden": 8,
    "embedding": 8,
    "queue_size": 24,
    "cycle_queue_size": 24,
    "support": 8,
    "projection": 8,
    "bottleneck": 4,
    "block_length": 0.1,
    "breadth": 0.1,
    "latent": 8,
    "pool": 2,
    "patience": 1,
    "patch_width": 16,
    "levels": 2,
    "resnet_width": 4,
}


def get_tiny_options(config: type[MethodConfig]) -> dict[str, Any]:
    """Return those of the options that a method has; FAN's `pool` is a word, and not of this kind."""
    fields = config.model_fields
    return {key: value for key, value in TINY_OPTIONS.items() if key in fields and fields[key].default != "mean"}
