"""The outcome of one trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from facscale.spec.sweep import Scalar, Sweep


@dataclass(frozen=True)
class TrialOutcome:
    """One trial, whether it still runs or not."""

    trial: str  # its id
    values: Mapping[str, Scalar]  # by dotted key
    history: Sequence[tuple[int, float]] = ()  # per cent of the training done, and the objective then
    stop_reason: str = ""  # why its training ended by itself: collapsed, diverged
    error: str = ""
    place: str = ""  # name of the training that a job with these values looks for
    training: str = ""  # name of the trial's own training
    step: int = 0  # of its last report
    has_ended: bool = False  # for good: a sweep that is resumed does not try it again

    @property
    def objective(self) -> float:
        """The last objective; nan before the first."""
        return self.history[-1][1] if self.history else math.nan

    @property
    def percent(self) -> int:
        """Per cent of its training that is done."""
        return self.history[-1][0] if self.history else 0

    @property
    def is_complete(self) -> bool:
        """Whether it was trained to the end, and neither collapsed nor failed."""
        return self.percent == 100 and not self.stop_reason and not self.error

    @property
    def title(self) -> str:
        """As in "margin=0.05 queue_size=1024"."""
        return " ".join(f"{shorten_key(key)}={format_value(value)}" for key, value in self.values.items())

    @property
    def state(self) -> str:
        """failed, collapsed, diverged, done, or "stopped at 40 %"."""
        if self.error:
            return "failed"
        return self.stop_reason or ("done" if self.percent == 100 else f"stopped at {self.percent} %")

    def objective_at(self, percent: int) -> float:
        """The last objective until `percent` of the training; nan before the first."""
        return next((objective for done, objective in reversed(self.history) if done <= percent), math.nan)


def shorten_key(key: str) -> str:
    """The last part of a dotted key: method.margin becomes margin."""
    return key.rpartition(".")[2]


def format_value(value: Scalar) -> str:
    """A value with four digits, enough to tell trials apart."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def name_objective(sweep: Sweep) -> str:
    """The objective with its scale: F1 is shown times 100, as in all tables."""
    return f"{sweep.objective} x 100" if _is_f1(sweep) else sweep.objective


def scale_objective(value: float, sweep: Sweep) -> float:
    """The objective as it is shown: F1 times 100."""
    return 100 * value if _is_f1(sweep) else value


def format_objective(outcome: TrialOutcome, sweep: Sweep) -> str:
    """The last objective as it is shown; "" before the first."""
    if not outcome.history:
        return ""
    value = scale_objective(outcome.objective, sweep)
    return f"{value:.1f}" if _is_f1(sweep) else f"{value:.4g}"


def _is_f1(sweep: Sweep) -> bool:
    return sweep.objective.rpartition("/")[2] == "f1"
