"""What a `sweep:` block may say: which keys of the spec are searched, how, and by what the trials are judged."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from facscale.spec.block import Block

Scalar = bool | int | float | str
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
SEARCHED = ("method", "stages", "data", "train", "deepspeed", "seed")  # blocks that decide the weights


class Span(Block):
    """Numbers from `low` to `high`, both included; whole ones where both ends are whole."""

    low: int | float
    high: int | float
    log: bool = False  # evenly spread over orders of magnitude

    @property
    def whole(self) -> bool:
        """Whether only integers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @model_validator(mode="after")
    def _has_an_inside(self) -> Span:
        if not self.low < self.high:
            raise ValueError("low must be smaller than high")
        if self.log and self.low <= 0:
            raise ValueError("a range with log must begin above 0")
        return self


Domain = Span | tuple[Scalar, ...]


class Sweep(Block):
    """A search with Ray Tune over keys of the spec it stands in; then the best trial is judged beside the spec as written.

    A trial is one training. It is judged while it runs, on people of the first fold's training part: the folds' own
    test people decide nothing, and those of the first fold are never seen.
    """

    space: dict[str, Domain | None]  # by key, as in method.margin: a list, or low and high; null: not searched
    search: Literal["optuna", "random", "grid", "pbt"] = "optuna"  # pbt: values change while a trial trains
    trials: PositiveInt = 24  # a grid has as many as it has points
    objective: str = "online/probe/f1"  # a metric of the training; without labels: online/effective_rank, ...
    goal: Literal["max", "min"] = "max"
    early_stopping: Literal["asha", "none"] = "asha"  # asha: at each rung the better third goes on
    grace: Share = 0.2  # share of a training before which nobody is stopped, and after which PBT changes values
    keep: Share = 1 / 3  # share of the trials that passes a rung; PBT: share that is replaced
    collapsed: NonNegativeFloat = 1.5  # a trial whose effective rank falls below this ends at once; 0: never
    concurrent: NonNegativeInt = 0  # trials side by side; 0: as many as the cluster holds
    seed: NonNegativeInt = 0  # of the search

    @property
    def searched(self) -> dict[str, Domain]:
        """By dotted key, without those that are null."""
        return {key: values for key, values in self.space.items() if values is not None}

    @model_validator(mode="after")
    def _can_be_searched(self) -> Sweep:
        if not self.searched:
            raise ValueError("space names no key to search")
        for key, values in self.searched.items():
            if key.split(".")[0] not in SEARCHED:
                raise ValueError(f"{key} does not decide what is trained; search keys of {', '.join(SEARCHED)}")
            if self.search == "grid" and isinstance(values, Span):
                raise ValueError(f"a grid needs a list of values for {key}")
            if isinstance(values, tuple) and len(values) < 2:
                raise ValueError(f"{key} has nothing to choose from; give two values or more")
        return self
