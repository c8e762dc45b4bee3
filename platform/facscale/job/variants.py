"""The rows of a job's table: the job itself, and its baselines as patches over it. Also the stages before each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facscale.methods import Method, configure
from facscale.spec import Document, Job, merge
from facscale.train.worker import Task

NOT_OF_THE_WEIGHTS = {"cluster", "track", "name", "evaluate", "seeds"}


@dataclass(frozen=True)
class Variant:
    """One training with all that it needs said."""

    name: str  # of the row
    document: Document
    job: Job
    method: type[Method]
    config: Any  # the method's own

    @property
    def title(self) -> str:
        """The row's name; with the seed, where there are several."""
        return self.name if self.job.seeds == 1 else f"{self.name} seed {self.job.seed}"

    @property
    def learns_from_labels(self) -> bool:
        """Whether it is trained anew in each fold."""
        return self.method.learns_from_labels(self.config)

    def said(self) -> dict[str, Any]:
        """Everything that its file says about what it computes, resolved: not where, nor who is told."""
        spec = self.job.model_dump(mode="json", exclude={"cluster", "track", "name"})
        return spec | {"method": self.config.model_dump(mode="json") | {"name": self.job.method.name}}


def run_key(variants: Sequence[Variant], *, fingerprints: Sequence[str]) -> str:
    """12 hexadecimal digits that are the same for the same job on the same data: then it is the same run in MLflow."""
    return digest([[variant.said() for variant in variants], list(fingerprints)])


def training_key(task: Task, *, fingerprints: Sequence[str]) -> str:
    """12 hexadecimal digits over all that decides the weights of one training: then it is the same training."""
    spec = task.job.model_dump(mode="json", exclude=NOT_OF_THE_WEIGHTS)
    inputs = {name: hashlib.sha256(exported).hexdigest() for name, exported in task.inputs.items()}
    subjects = None if task.subjects is None else sorted(task.subjects)
    return digest([spec, task.config.model_dump(mode="json"), asdict(task.facts), inputs, subjects, list(fingerprints)])


def digest(facts: list[Any]) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def variant(document: Document, *, name: str) -> Variant:
    """Raises SpecError for whatever is wrong with it."""
    return Variant(name, document, *configure(document))


def rows(document: Document, *, name: str) -> list[Variant]:
    """The job first, then its baselines in written order."""
    main = variant(document, name=name)
    wanted = [row for row, patch in main.job.evaluate.baselines.items() if patch is not None]
    return [main, *(variant(document.patched(("evaluate", "baselines", row)), name=row) for row in wanted)]


def repeated(of: Variant) -> list[Variant]:
    """A row for each of its seeds."""
    seeds = range(of.job.seed, of.job.seed + of.job.seeds)
    return [variant(merge(of.document, Document({"seed": seed}, {})), name=of.name) for seed in seeds]


def stages(of: Variant) -> dict[str, Variant]:
    """What is trained before it, by name."""
    return {stage: variant(of.document.patched(("stages", stage)), name=stage) for stage in of.job.stages}
