"""What a training tells while it runs: to MLflow, to a progress bar, and to the figures at its end."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from facscale.progress import Progress, say
from facscale.report import figures
from facscale.track.tracker import Run

Series = dict[str, tuple[list[float], list[float]]]


class Recorder:
    """`receive` takes the records of one training (`train.mailbox`); `finish` draws its curves."""

    def __init__(self, tracker: Run, *, title: str) -> None:
        self._tracker, self._title = tracker, title
        self._bar: Progress | None = None
        self._series: dict[str, dict[int, float]] = defaultdict(dict)
        self.faults: list[str] = []

    def receive(self, kind: str, **record: Any) -> None:
        """One record; each kind has its method."""
        getattr(self, f"_{kind}")(**record)

    def finish(self) -> None:
        """Log the figures, and the list of everything that could not be read."""
        losses = self._curves("loss/")
        if losses:
            self._tracker.figure(figures.curves(losses, title=f"{self._title}: losses"), "losses")
        online = self._curves("online/")
        if online:
            self._tracker.figure(figures.panels(online, title=f"{self._title}: online probe"), "online_probe")
        if self.faults:
            self._tracker.text("\n".join(self.faults) + "\n", "skipped.txt")

    def _metrics(self, *, step: int, values: dict[str, float]) -> None:
        self._tracker.metrics(values, step=step)
        for name, value in values.items():
            self._series[name][step] = value

    def _progress(self, *, step: int, steps: int, note: str) -> None:
        self._bar = self._bar or Progress(self._title, total=steps, unit="steps")
        self._bar.to(step, note=note)

    def _pictures(self, *, step: int, columns: dict[str, np.ndarray]) -> None:
        if columns:
            self._tracker.figure(
                figures.sheet(columns, title=f"{self._title}: step {step}"), f"pictures/step{step:07d}"
            )

    def _lost(self, *, note: str) -> None:
        say(f"{self._title}: {note}")

    def _resumed(self, *, step: int, workers: int) -> None:
        say(f"{self._title}: goes on from step {step} with {workers} worker{'s' if workers > 1 else ''}")

    def _skipped(self, *, rank: int, faults: list[str]) -> None:
        self.faults += [f"worker {rank}: {fault}" for fault in faults]

    def _curves(self, prefix: str) -> Series:
        found = {name.removeprefix(prefix): points for name, points in self._series.items() if name.startswith(prefix)}
        return {
            name: ([float(step) for step in sorted(points)], [points[step] for step in sorted(points)])
            for name, points in found.items()
        }
