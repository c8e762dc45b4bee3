"""What a training reports while it runs: to MLflow, to a progress bar, and as curves when it has ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

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

Curves = dict[str, tuple[list[float], list[float]]]


class TrainingRecorder:
    """`receive` takes the events of one training; `finish` draws its curves."""

    def __init__(self, run: RunLogger, *, title: str) -> None:
        self._run, self._title = run, title
        self._bar: Progress | None = None
        self._series: dict[str, dict[int, float]] = defaultdict(dict)
        self.errors: list[str] = []

    def receive(self, event: Event) -> None:
        """Record one event; kinds that it does not know are left out."""
        match event:
            case StepMetrics(step, values):
                self._record_metrics(values, step=step)
            case StepProgress(step, steps, note):
                self._bar = self._bar or Progress(self._title, total=steps, unit="steps")
                self._bar.update(step, note=note)
            case SampleImages(step, columns):
                if columns:
                    sheet = figures.plot_sample_sheet(dict(columns), title=f"{self._title}: step {step}")
                    self._run.log_figure(sheet, f"pictures/step{step:07d}")
            case NonFiniteStepsCounted(step, count):
                subject = f"{count} steps" if count > 1 else "a step"
                print_line(f"{self._title}: {subject} until step {step} had losses or gradients that are not finite")
            case WorkersLost(reason) | CheckpointPassedOver(reason):
                print_line(f"{self._title}: {reason}")
            case TrainingResumed(step, workers):
                plural = "s" if workers > 1 else ""
                print_line(f"{self._title}: resumes from step {step} with {workers} worker{plural}")
            case SamplesSkipped(rank, errors):
                self.errors += [f"worker {rank}: {error}" for error in errors]

    def finish(self) -> None:
        """Log the curves, and the list of everything that could not be read."""
        if losses := self._collect_curves("loss/"):
            self._run.log_figure(figures.plot_curves(losses, title=f"{self._title}: losses"), "losses")
        if diagnostics := self._collect_curves("online/"):
            panels = figures.plot_panels(diagnostics, title=f"{self._title}: online probe")
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
