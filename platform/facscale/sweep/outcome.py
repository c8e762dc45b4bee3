"""What came of one trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facscale.spec.sweep import Scalar


@dataclass(frozen=True)
class Outcome:
    """One trial, over or not."""

    trial: str  # its id
    values: Mapping[str, Scalar]  # by dotted key
    course: Sequence[tuple[int, float]] = ()  # per cent of the training done, and the objective then
    ended: str = ""  # why its training ended by itself: collapsed, diverged
    error: str = ""
    place: str = ""  # where a training with these values is looked for
    training: str = ""  # where this one lies

    @classmethod
    def of(cls, result: Any) -> Outcome:
        """From Ray Tune's result."""
        last, table = result.metrics or {}, result.metrics_dataframe
        told = table is not None and "percent" in table  # a trial that has not reported has a table without columns
        rows = zip(table["percent"], table["objective"], strict=True) if told else []
        course = {int(percent): float(objective) for percent, objective in rows}
        return cls(
            str(last.get("trial_id", "")), dict(result.config or {}), tuple(sorted(course.items())),
            str(last.get("ended", "")), _first_line(result.error), str(last.get("place", "")), str(last.get("training", "")),
        )  # fmt: skip

    @property
    def objective(self) -> float:
        """The last one; nan before the first."""
        return self.course[-1][1] if self.course else math.nan

    @property
    def percent(self) -> int:
        """How far its training came."""
        return self.course[-1][0] if self.course else 0

    @property
    def whole(self) -> bool:
        """Whether it reached its end with weights that are worth something."""
        return self.percent == 100 and not self.ended and not self.error

    @property
    def title(self) -> str:
        """As in "margin=0.05 queue_size=1024"."""
        return " ".join(f"{short(key)}={shown(value)}" for key, value in self.values.items())

    @property
    def state(self) -> str:
        """In a word."""
        return (
            "failed"
            if self.error
            else self.ended or ("done" if self.percent == 100 else f"stopped at {self.percent} %")
        )

    def at(self, percent: int) -> float:
        """The last objective until then; nan before the first."""
        return next((value for done, value in reversed(self.course) if done <= percent), math.nan)


def short(key: str) -> str:
    """method.margin as margin."""
    return key.rpartition(".")[2]


def shown(value: Scalar) -> str:
    """Four digits are enough to tell trials apart."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first_line(error: Exception | None) -> str:
    return "" if error is None else (str(error).strip().splitlines() or [type(error).__name__])[-1]
