"""What a training reports while it runs: to MLflow, to a progress bar, and as curves when it has ended."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Self

from facscale.progress import Progress, print_line
from facscale.report import figures
from facscale.track.tracker import RunLogger
from facscale.train.events import (
    CheckpointPassedOver,
    Event,
    NonFiniteStepsCounted,
    SampleImages,
    SamplesSkipped,
    StepMetrics,
    StepProgress,
    TrainingResumed,
    WorkersLost,
)

REPORT_S = 30.0
Curves = dict[str, tuple[list[float], list[float]]]


class StartReporter:
    """Prints a line every REPORT_S in which a training has no workers that train yet, or none again.

    They start, or wait for nodes, other jobs, or a compiler, and nothing else would be printed. For the block of a `with`.
    """

    def __init__(self, title: str, *, every_s: float = REPORT_S) -> None:
        self._title, self._every_s = title, every_s
        self._is_waiting, self._has_ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._report, name="start", daemon=True)

    def __enter__(self) -> Self:
        self._is_waiting.set()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._has_ended.set()
        self._is_waiting.set()  # so that the thread sees it

    def receive(self, event: Event) -> None:
        """Note whether the training has workers that train."""
        if isinstance(event, WorkersLost):
            self._is_waiting.set()
        elif isinstance(event, StepProgress):
            self._is_waiting.clear()

    def _report(self) -> None:
        while self._is_waiting.wait() and not self._has_ended.is_set():
            began = time.monotonic()
            while not self._has_ended.wait(self._every_s) and self._is_waiting.is_set():
                print_line(f"{self._title}: waiting for workers to start, {time.monotonic() - began:.0f} s so far")


class TrainingRecorder:
    """`receive` takes the events of one training; `finish` draws its curves."""

    def __init__(self, run: RunLogger, *, title: str) -> None:
        self._run, self.title = run, title
        self._bar: Progress | None = None
        self._series: dict[str, dict[int, float]] = defaultdict(dict)
        self.errors: list[str] = []

    def receive(self, event: Event) -> None:
        """Record one event; kinds that it does not know are left out."""
        match event:
            case StepMetrics(step, values):
                self._record_metrics(values, step=step)
            case StepProgress(step, steps, note):
                self._bar = self._bar or Progress(self.title, total=steps, unit="steps")
                self._bar.update(step, note=note)
            case SampleImages(step, columns):
                if columns:
                    sheet = figures.plot_sample_sheet(dict(columns), title=f"{self.title}: step {step}")
                    self._run.log_figure(sheet, f"pictures/step{step:07d}")
            case NonFiniteStepsCounted(step, count):
                subject = f"{count} steps" if count > 1 else "a step"
                print_line(f"{self.title}: {subject} until step {step} had losses or gradients that are not finite")
            case WorkersLost(reason) | CheckpointPassedOver(reason):
                print_line(f"{self.title}: {reason}")
            case TrainingResumed(step, workers):
                plural = "s" if workers > 1 else ""
                print_line(f"{self.title}: resumes from step {step} with {workers} worker{plural}")
            case SamplesSkipped(rank, errors):
                self.errors += [f"worker {rank}: {error}" for error in errors]

    def finish(self) -> None:
        """Log the curves, and the list of everything that could not be read."""
        if losses := self._collect_curves("loss/"):
            self._run.log_figure(figures.plot_curves(losses, title=f"{self.title}: losses"), "losses")
        if diagnostics := self._collect_curves("online/"):
            panels = figures.plot_panels(diagnostics, title=f"{self.title}: online probe")
            self._run.log_figure(panels, "online_probe")
        if self.errors:
            self._run.log_text("\n".join(self.errors) + "\n", "skipped.txt")

    def _record_metrics(self, values: Mapping[str, float], *, step: int) -> None:
        self._run.log_metrics(dict(values), step=step)
        for name, value in values.items():
            self._series[name][step] = value

    def _collect_curves(self, prefix: str) -> Curves:
        return {
            name.removeprefix(prefix): ([float(step) for step in sorted(points)], [points[s] for s in sorted(points)])
            for name, points in self._series.items()
            if name.startswith(prefix)
        }
