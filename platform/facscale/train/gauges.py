"""Prometheus gauges of a training, which Ray exports on each node as `ray_facscale_...`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from functools import lru_cache

from ray.util.metrics import Gauge

from facscale.train.state import TrainState

TAGS = ("training", "method")  # Prometheus keeps `job` for itself
GAUGES = {
    "samples_per_second": "Samples that all workers together train on in a second, since this process began",
    "step": "Optimizer steps done",
    "steps": "Optimizer steps of the whole training",
    "epoch": "Epochs done",
    "data_wait_share": "Share of the time in which training waited for data, since the last report: 0 to 1",
    "step_seconds": "Seconds of a step, the median of the latest ones",
    "skipped": "Row groups and frames that could not be read",
    "loss": "A loss of the last micro-batch, by name",
}


@lru_cache(maxsize=1)
def register_gauges() -> dict[str, Gauge]:
    """The gauges by name, registered with Ray once in each process."""
    return {
        name: Gauge(f"facscale_{name}", description=text, tag_keys=(*TAGS, "name") if name == "loss" else TAGS)
        for name, text in GAUGES.items()
    }


class GaugeExporter:
    """Exports the state of one training; its gauges are tagged with the name of the training and its method."""

    def __init__(self, *, training: str, method: str) -> None:
        self._tags = {"training": training, "method": method}
        self._since, self._waited_s = time.monotonic(), 0.0

    def export(self, state: TrainState, values: Mapping[str, float]) -> None:
        """Set the gauges; `values`: `metrics.collect_step_metrics` of the same step."""
        now = time.monotonic()
        numbers = {
            **{name: values[name] for name in ("samples_per_second", "epoch", "skipped")},
            "step": float(state.step),
            "steps": float(state.schedule.steps),
            "step_seconds": statistics.median(state.step_seconds),
            "data_wait_share": (state.data_wait_s - self._waited_s) / max(now - self._since, 1e-9),
        }
        self._since, self._waited_s = now, state.data_wait_s
        for name, value in numbers.items():
            register_gauges()[name].set(value, tags=self._tags)
        for name, value in values.items():
            if name.startswith("loss/"):
                register_gauges()["loss"].set(value, tags={**self._tags, "name": name.removeprefix("loss/")})
