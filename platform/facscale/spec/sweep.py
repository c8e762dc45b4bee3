"""The schema of a `sweep:` block: which keys of the spec are searched, how, and by which metric trials are compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from facscale.spec.block import Block

Scalar = bool | int | float | str
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
SEARCHABLE = ("method", "stages", "data", "train", "deepspeed", "seed")  # blocks that affect the weights


class Span(Block):
    """A range of numbers from `low` to `high`, both included; of integers where both ends are integers."""

    low: int | float
    high: int | float
    log: bool = False  # log-uniform

    @property
    def is_integer(self) -> bool:
        """Whether the range holds integers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _check_bounds(self) -> Span:
        if not self.low < self.high:
            raise ValueError("low must be smaller than high")
        if self.log and self.low <= 0:
            raise ValueError("a range with log needs a low above 0")
        return self


Domain = Span | tuple[Scalar, ...]


class Sweep(Block):
    """A search with Ray Tune over keys of the spec; the best trial is then evaluated beside the spec as written.

    A trial is one training. Its objective is measured while it runs, on people of the first fold's training part: test
    people of the folds have no influence on the search, and those of the first fold are never seen.
    """

    space: dict[str, Domain | None]  # dotted key (method.margin) to a list, or low and high; null: not searched
    search: Literal["optuna", "random", "grid", "pbt"] = "optuna"  # pbt: values change during a trial
    trials: PositiveInt = 24  # ignored by grid, which runs every point
    objective: str = "online/probe/f1"  # a metric of the training; without labels: online/effective_rank, ...
    goal: Literal["max", "min"] = "max"
    early_stopping: Literal["asha", "none"] = "asha"  # asha: the better third continues at each rung
    grace: Share = 0.2  # share of a training before which no trial is stopped; PBT changes values at this interval
    keep: Share = 1 / 3  # share of the trials that continues at a rung; PBT: share that is replaced
    collapsed: NonNegativeFloat = 1.5  # a trial ends when its effective rank falls below this; 0: never
    concurrent: NonNegativeInt = 0  # trials at the same time; 0: as many as fit on the cluster
    seed: NonNegativeInt = 0  # of the search

    @property
    def active_space(self) -> dict[str, Domain]:
        """The searched keys with their domains, without those that are null."""
        return {key: values for key, values in self.space.items() if values is not None}

    @model_validator(mode="after")
    def _check_space(self) -> Sweep:
        if not self.active_space:
            raise ValueError("space names no key to search")
        for key, values in self.active_space.items():
            if key.split(".")[0] not in SEARCHABLE:
                raise ValueError(f"{key} does not affect the training; search keys of {', '.join(SEARCHABLE)}")
            if self.search == "grid" and isinstance(values, Span):
                raise ValueError(f"a grid needs a list of values for {key}")
            if isinstance(values, tuple) and len(values) < 2:
                raise ValueError(f"{key} needs two values or more to choose from")
        return self
