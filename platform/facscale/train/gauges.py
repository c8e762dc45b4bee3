"""What a training tells Prometheus: gauges that Ray exports on each node, as `ray_facscale_...`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from functools import lru_cache

from ray.util.metrics import Gauge

from facscale.train.loop import Run

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
def gauges() -> dict[str, Gauge]:
    """Registered with Ray once in each process."""
    return {
        name: Gauge(f"facscale_{name}", description=text, tag_keys=(*TAGS, "name") if name == "loss" else TAGS)
        for name, text in GAUGES.items()
    }


class Exporter:
    """Exports how one training goes; its gauges are tagged with the row that is trained, and its method."""

    def __init__(self, *, training: str, method: str) -> None:
        self._tags = {"training": training, "method": method}
        self._since, self._waited = time.monotonic(), 0.0

    def tell(self, run: Run, values: Mapping[str, float]) -> None:
        """`values`: what MLflow is told after the same step (`figures.of_step`)."""
        now = time.monotonic()
        figures = {
            **{name: values[name] for name in ("samples_per_second", "epoch", "skipped")},
            "step": float(run.step),
            "steps": float(run.plan.steps),
            "step_seconds": statistics.median(run.seconds),
            "data_wait_share": (run.waited - self._waited) / max(now - self._since, 1e-9),
        }
        self._since, self._waited = now, run.waited
        for name, value in figures.items():
            gauges()[name].set(value, tags=self._tags)
        for name, value in values.items():
            if name.startswith("loss/"):
                gauges()["loss"].set(value, tags={**self._tags, "name": name.removeprefix("loss/")})
