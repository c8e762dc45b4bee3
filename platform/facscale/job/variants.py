"""The rows of a job's table: the job itself, and its baselines as patches over it. Also the stages before each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facscale.methods import Method, configure
from facscale.spec import Document, Job, SpecError, merge
from facscale.train.task import Task
from facscale.train.worker import urls

NOT_OF_THE_WEIGHTS = {"cluster", "track", "name", "evaluate", "seeds", "sweep"}


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

    @property
    def built_on(self) -> list[str]:
        """The stages that it takes."""
        return [source.stage for source in self.job.built_on.values() if source.stage]

    def said(self) -> dict[str, Any]:
        """Everything that its file says about what it computes, resolved: not where, nor who is told."""
        spec = self.job.model_dump(mode="json", exclude={"cluster", "track", "name"})
        return spec | {"method": self.config.model_dump(mode="json") | {"name": self.job.method.name}}


def cluster_name(job: Job) -> str:
    """What the user calls the cluster that runs this: `cluster.name`, else the variable FACSCALE_CLUSTER, else nothing."""
    return job.cluster.name or os.environ.get("FACSCALE_CLUSTER", "")


def run_key(variants: Sequence[Variant], *, fingerprints: Sequence[str], cluster: str = "") -> str:
    """12 hexadecimal digits that are the same for the same job on the same data: then it is the same run in MLflow.

    On a `cluster` that has a name it is that cluster's run: two named clusters stand side by side.
    """
    return digest([[variant.said() for variant in variants], list(fingerprints), *filter(None, [cluster])])


def training_key(task: Task, *, fingerprints: Sequence[str]) -> str:
    """12 hexadecimal digits over all that decides the weights of one training: then it is the same training."""
    spec = task.job.model_dump(mode="json", exclude=NOT_OF_THE_WEIGHTS)
    given = {**task.inputs, "start": task.start} if task.start else task.inputs
    inputs = {name: hashlib.sha256(exported).hexdigest() for name, exported in given.items()}
    subjects = None if task.subjects is None else {url: sorted(people) for url, people in task.subjects.items()}
    return digest([spec, task.config.model_dump(mode="json"), asdict(task.facts), inputs, subjects, list(fingerprints)])


def digest(facts: list[Any]) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def variant(document: Document, *, name: str) -> Variant:
    """Raises SpecError for whatever is wrong with it."""
    return Variant(name, document, *configure(document))


def rows(document: Document, *, name: str) -> list[Variant]:
    """The job first, then its baselines in written order. Raises SpecError for whatever is wrong with one."""
    main = variant(document, name=name)
    wanted = [row for row, patch in main.job.evaluate.baselines.items() if patch is not None]
    found = [main, *(variant(document.patched(("evaluate", "baselines", row)), name=row) for row in wanted)]
    for row in found:
        refuse_a_blind(row)
        of_fold(row)
    return found


def refuse_a_blind(row: Variant) -> None:
    """Raises SpecError for a method without an encoder."""
    if not row.method.sees:
        where = row.document.origin(("method", "name"))
        raise SpecError(
            f"{where}: {row.job.method.name} looks at no image; name it under stages, not as what is judged"
        )


def repeated(of: Variant) -> list[Variant]:
    """A row for each of its seeds."""
    seeds = range(of.job.seed, of.job.seed + of.job.seeds)
    return [variant(merge(of.document, Document({"seed": seed}, {})), name=of.name) for seed in seeds]


def stages(of: Variant) -> dict[str, Variant]:
    """What is trained before it, by name, in order: what it is built on, and what that is; each knows those before itself."""
    found: dict[str, Variant] = {}
    for stage in of.job.stages:
        patched = of.document.patched(("stages", stage))
        earlier = {name: patched.data["stages"][name] for name in found}
        found[stage] = variant(Document({**patched.data, "stages": earlier}, patched.origins), name=stage)
    needed = set(of.built_on)
    for name in reversed(found):
        needed |= set(found[name].built_on) if name in needed else set()
    return {name: stage for name, stage in found.items() if name in needed}


def of_fold(row: Variant) -> frozenset[str]:
    """The stages that see the labels of the row's own data sets: they are trained anew in each fold, on its people.

    Raises SpecError where they would tell test people's labels: a row that is trained once for all folds is built on
    one, or a stage reads some of the row's labelled sets beside others.
    """
    found: set[str] = set()
    own = set(urls(row.job, "labelled"))
    for name, stage in stages(row).items():
        read = set(urls(stage.job, "labelled")) if stage.learns_from_labels else set()
        where = row.document.origin(("stages", name))
        if read & own and read != own:
            raise SpecError(f"{where}: stages.{name} reads some of data.labelled; let it read all of them, or others")
        if read & own or found & set(stage.built_on):
            found.add(name)
    leaks = found & set(row.built_on)
    if leaks and not row.learns_from_labels:
        raise SpecError(
            f"{row.document.origin(('method', 'name'))}: {row.job.method.name} is trained once for all folds, but "
            f'"{min(leaks)}", which it is built on, learns from labels: also from those of the people to be tested'
        )
    return frozenset(found)
