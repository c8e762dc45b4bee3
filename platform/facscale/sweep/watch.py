"""A running sweep: a table for the terminal, and a nested run in MLflow for every trial."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple, Self

from ray import tune
from rich.live import Live
from rich.table import Table

from facscale.compat.ray_tune import forget_pickled_error
from facscale.data.storage import Folder
from facscale.job.context import JobContext
from facscale.job.recorder import TrainingRecorder
from facscale.spec.sweep import Sweep
from facscale.sweep.outcome import TrialOutcome, format_objective, format_value, name_objective, shorten_key
from facscale.sweep.record import write_record
from facscale.sweep.trial import IDENTITY, Search, TrialEvent
from facscale.track.tracker import RunLogger
from facscale.train.events import StepProgress
from facscale.train.ray.event_queue import EventDispatcher

_watches: list[SweepWatch] = []


def get_current_watch() -> SweepWatch:
    """The watch of this process: Ray Tune pickles its callbacks, and a restored sweep is watched by who restored it."""
    return _watches[-1]


class Snapshot(NamedTuple):
    """The outcomes of all trials after so many changes."""

    number: int
    outcomes: tuple[TrialOutcome, ...]


class SweepWatch(tune.Callback):
    """Follows trials: Ray Tune reports their state, and the trials themselves send the events of their trainings."""

    def __init__(self, context: JobContext, sweep: Sweep) -> None:
        self.context, self.sweep = context, sweep
        self.search: Search | None = None
        self.dispatcher = EventDispatcher(self.receive)
        self.outcomes: dict[str, TrialOutcome] = {}  # by name of the trial, in the order in which they began
        self.finished: set[str] = set()  # in this process or before it
        self._names: dict[str, str] = {}  # of trials, by Ray Tune's id
        self._folder: Folder | None = None
        self._runs: dict[str, tuple[RunLogger, TrainingRecorder]] = {}
        self._lock = threading.Lock()  # of all of the above
        self._changes = 0  # of the outcomes that are to be recorded
        self._writing = threading.Lock()  # of the record in the store, and the number of changes that it has
        self._recorded = 0
        self._live = Live(console=context.console, auto_refresh=False) if sys.stdout.isatty() else None

    def __reduce__(self) -> tuple[Any, ...]:
        return get_current_watch, ()

    def __enter__(self) -> Self:
        _watches.append(self)
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _watches.remove(self)
        self.dispatcher.close()
        if self._live:
            self._live.stop()
        for trial in list(self._runs):
            self._close_run(trial, "KILLED" if error else "FINISHED")

    def resume(self, folder: Folder, outcomes: Sequence[TrialOutcome]) -> None:
        """Take over the trials of before, and keep the record of all of them in `folder` from now on."""
        self._folder = folder
        self.outcomes = {outcome.trial: outcome for outcome in outcomes}
        self.finished = {outcome.trial for outcome in outcomes if outcome.has_ended}

    def begin_trial(self, outcome: TrialOutcome, *, trial_id: str) -> None:
        """Record a trial that Ray Tune, which knows it as `trial_id`, is about to start."""
        with self._lock:
            self._names[trial_id] = outcome.trial
            self.outcomes[outcome.trial] = outcome
            snapshot = self._take_snapshot()
        self._write_record(snapshot)

    def receive(self, event: TrialEvent) -> None:
        """Record an event of a trial's training; the table shows progress."""
        with self._lock:
            name = self._names.get(event.trial, event.trial)  # PBT's trials lose the name of before
            if name in self.finished:
                return
            self._update(name, dict(event.values))
            _, recorder = self._runs.get(name) or self._start_run(name)
            if not isinstance(event.event, StepProgress):
                recorder.receive(event.event)

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:
        with self._lock:
            outcome = self._update(self._names[trial.trial_id], read_values(trial))
            history = {**dict(outcome.history), int(result["percent"]): float(result["objective"])}
            self.outcomes[outcome.trial] = replace(
                outcome,
                history=tuple(sorted(history.items())),
                stop_reason=result["ended"],
                place=result["place"],
                training=result["training"],
                step=int(result["step"]),
            )
            snapshot = self._take_snapshot()
        self._write_record(snapshot)
        self._draw()

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        self._finish(trial, "FINISHED")

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        with self._lock:
            error = str(trial.get_error() or "failed").strip().splitlines()[-1]
            name = self._names[trial.trial_id]
            self.outcomes[name] = replace(self._update(name, read_values(trial)), error=error)
        forget_pickled_error(trial)
        self._finish(trial, "FAILED")

    def _update(self, trial: str, values: dict[str, Any]) -> TrialOutcome:
        """The outcome of a trial so far, with its present values: PBT changes them."""
        outcome = self.outcomes.get(trial) or TrialOutcome(trial, values)
        self.outcomes[trial] = replace(outcome, values=values)
        return self.outcomes[trial]

    def _start_run(self, trial: str) -> tuple[RunLogger, TrainingRecorder]:
        """Start a trial's run in MLflow."""
        assert self.search is not None
        outcome, context = self.outcomes[trial], self.context
        variant = self.search.build_variant(outcome.values)
        number = list(self.outcomes).index(trial) + 1
        tags = {**context.make_tags(variant), "row": "trial", "trial": trial}
        run = context.tracker.start_child(f"{context.key}/trial/{trial}", f"trial {number}: {outcome.title}", tags)
        context.describe_run(variant, run)
        self._runs[trial] = run, TrainingRecorder(run, title=f"trial {number}")
        return self._runs[trial]

    def _close_run(self, trial: str, status: Any) -> None:
        """End a trial's run in MLflow."""
        run, recorder = self._runs.pop(trial)
        outcome = self.outcomes[trial]
        if math.isfinite(outcome.objective):
            run.log_metrics({"objective": outcome.objective, "percent": outcome.percent})
        run.set_tags({"state": outcome.state})
        recorder.finish()
        run.close(status)

    def _finish(self, trial: Any, status: str) -> None:
        """Record that a trial has ended."""
        self.dispatcher.drain()
        with self._lock:
            name = self._names[trial.trial_id]
            outcome = self._update(name, read_values(trial))
            self.outcomes[name] = outcome = replace(outcome, has_ended=not outcome.error)
            self.finished.add(name)
            snapshot = self._take_snapshot()
        self._write_record(snapshot)
        with self._lock:
            if name in self._runs:
                self._close_run(name, status)
        self._draw()
        if not self._live:
            reason = f" ({outcome.error})" if outcome.error else ""
            value = format_objective(outcome, self.sweep)
            objective = f"{name_objective(self.sweep)} {value}" if value else "no objective yet"
            line = f"trial {len(self.finished)} {outcome.title}: {objective}, {outcome.state}{reason}"
            self.context.console.print(line)

    def _take_snapshot(self) -> Snapshot:
        """What is known of all trials now; the caller holds the lock."""
        self._changes += 1
        return Snapshot(self._changes, tuple(self.outcomes.values()))

    def _write_record(self, snapshot: Snapshot) -> None:
        """Write a snapshot to the folder of the sweep, unless a later one is there; a slow store delays no event."""
        assert self._folder is not None
        with self._writing:
            if snapshot.number > self._recorded:
                write_record(self._folder, snapshot.outcomes)
                self._recorded = snapshot.number

    def _draw(self) -> None:
        """Redraw the table, on a terminal."""
        if self._live:
            table = build_trial_table(list(self.outcomes.values()), self.sweep, finished=self.finished)
            self._live.update(table, refresh=True)


def read_values(trial: Any) -> dict[str, Any]:
    """The values of one of Ray Tune's trials, as they are at present: PBT changes them."""
    return {key: value for key, value in trial.config.items() if key != IDENTITY}


def build_trial_table(
    outcomes: Sequence[TrialOutcome], sweep: Sweep, *, finished: set[str] | None = None, best: str = ""
) -> Table:
    """All trials, the best first; `finished`: names of those that have ended (without: all), `best`: the one to mark."""
    keys = list(sweep.active_space)
    table = Table(title=f"{len(outcomes)} trials, by {name_objective(sweep)} ({sweep.goal})", title_justify="left")
    table.add_column("")
    for name in (*map(shorten_key, keys), "objective", "of the training", "state"):
        table.add_column(name, justify="right")
    sign = -1 if sweep.goal == "max" else 1

    def rank(outcome: TrialOutcome) -> tuple[bool, float]:
        return not outcome.is_complete, sign * outcome.objective if outcome.history else math.inf

    for outcome in sorted(outcomes, key=rank):
        is_running = finished is not None and outcome.trial not in finished
        table.add_row(
            "best" if outcome.trial == best else "",
            *(format_value(outcome.values.get(key, "")) for key in keys),
            format_objective(outcome, sweep),
            f"{outcome.percent} %",
            "running" if is_running else outcome.state,
            style="bold" if outcome.trial == best else "red" if outcome.error or outcome.stop_reason else "",
        )
    return table
