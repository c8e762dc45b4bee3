"""The sweep as it goes: a table for whoever watches, a nested run in MLflow for every trial."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from ray import tune
from rich.live import Live
from rich.table import Table

from facscale.job.record import Recorder
from facscale.job.story import Story
from facscale.spec.sweep import Sweep
from facscale.sweep.outcome import Outcome, short, shown
from facscale.sweep.trial import Search
from facscale.track.tracker import Run
from facscale.train.mailbox import Reader

SILENT = {"progress"}  # the table says it
_now: list[Watch] = []


def current() -> Watch:
    """The one of this process: Ray Tune pickles its callbacks, and a restored sweep is watched by whoever restored it."""
    return _now[-1]


class Watch(tune.Callback):
    """Told by Ray Tune how trials stand, and by the trials themselves what their trainings record."""

    def __init__(self, story: Story, sweep: Sweep) -> None:
        self.story, self.sweep, self.lanes = story, sweep, story.lanes.count
        self.search: Search | None = None
        self.reader = Reader(self.receive)
        self.trials: dict[str, Outcome] = {}
        self.done: set[str] = set()
        self._runs: dict[str, tuple[Run, Recorder]] = {}
        self._lock = threading.Lock()
        self._live = Live(console=story.console, auto_refresh=False) if sys.stdout.isatty() else None

    def __reduce__(self) -> tuple[Any, ...]:
        return current, ()

    def __enter__(self) -> Self:
        _now.append(self)
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _now.remove(self)
        self.reader.close()
        if self._live:
            self._live.stop()
        for trial in list(self._runs):
            self.close(trial, "KILLED" if error else "FINISHED")

    def receive(self, kind: str, *, trial: str, values: dict[str, Any], of: str, record: dict[str, Any]) -> None:
        """A record of a trial's training."""
        with self._lock:
            if kind != "trial" or trial in self.done:
                return
            self.seen(trial, values)
            _, recorder = self._runs.get(trial) or self.begun(trial)
            if of not in SILENT:
                recorder.receive(of, **record)

    def seen(self, trial: str, values: dict[str, Any]) -> Outcome:
        """The trial as it is known; PBT may have given it other values."""
        found = self.trials.get(trial) or Outcome(trial, values)
        self.trials[trial] = replace(found, values=values)
        return self.trials[trial]

    def begun(self, trial: str) -> tuple[Run, Recorder]:
        """A trial's run in MLflow."""
        assert self.search is not None
        row = self.search.variant(self.trials[trial].values)
        number = list(self.trials).index(trial) + 1
        tags = {**self.story.tags(row), "row": "trial", "trial": trial}
        run = self.story.tracker.child(
            f"{self.story.key}/trial/{trial}", f"trial {number}: {self.trials[trial].title}", tags
        )
        self.story.describe(row, run)
        self._runs[trial] = run, Recorder(run, title=f"trial {number}")
        return self._runs[trial]

    def close(self, trial: str, status: Any) -> None:
        """A trial's run ends."""
        run, recorder = self._runs.pop(trial)
        known = self.trials[trial]
        if math.isfinite(known.objective):
            run.metrics({"objective": known.objective, "percent": known.percent})
        run.tags({"state": known.state})
        recorder.finish()
        run.close(status)

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:
        with self._lock:
            known = self.seen(trial.trial_id, trial.config)
            course = {**dict(known.course), int(result["percent"]): float(result["objective"])}
            self.trials[trial.trial_id] = replace(
                known, course=tuple(sorted(course.items())), ended=result["ended"],
                place=result["place"], training=result["training"],
            )  # fmt: skip
        self.draw()

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        self.over(trial, "FINISHED")

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        with self._lock:
            error = str(trial.get_error() or "failed").strip().splitlines()[-1]
            self.trials[trial.trial_id] = replace(self.seen(trial.trial_id, trial.config), error=error)
        self.over(trial, "FAILED")

    def over(self, trial: Any, status: str) -> None:
        """A trial will not go on."""
        self.reader.deliver()
        with self._lock:
            known = self.seen(trial.trial_id, trial.config)
            self.done.add(trial.trial_id)
            if trial.trial_id in self._runs:
                self.close(trial.trial_id, status)
        self.draw()
        if not self._live:
            why = f" ({known.error})" if known.error else ""
            objective = f"{self.sweep.objective} {known.objective:.4g}" if known.course else "no objective yet"
            self.story.say(f"trial {len(self.done)} {known.title}: {objective}, {known.state}{why}")

    def draw(self) -> None:
        """The table, on a terminal."""
        if self._live:
            self._live.update(table(list(self.trials.values()), self.sweep, done=self.done), refresh=True)


def table(outcomes: Sequence[Outcome], sweep: Sweep, *, done: set[str] | None = None, best: str = "") -> Table:
    """All trials, the best first; `done`: those that will not go on."""
    keys = list(sweep.searched)
    found = Table(title=f"{len(outcomes)} trials, by {sweep.objective} ({sweep.goal})", title_justify="left")
    found.add_column("")
    for name in (*map(short, keys), "objective", "of the training", "state"):
        found.add_column(name, justify="right")
    sign = -1 if sweep.goal == "max" else 1
    for one in sorted(outcomes, key=lambda one: (not one.whole, sign * one.objective if one.course else math.inf)):
        running = done is not None and one.trial not in done
        cells = [shown(one.values.get(key, "")) for key in keys]
        objective = f"{one.objective:.4g}" if one.course else ""
        style = "bold" if one.trial == best else "red" if one.error or one.ended else ""
        found.add_row(
            "best" if one.trial == best else "",
            *cells,
            objective,
            f"{one.percent} %",
            "running" if running else one.state,
            style=style,
        )
    return found
