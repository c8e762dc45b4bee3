"""The variants that a job compares: the job itself, its baselines as patches over it, and the stages that each depends on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facscale.evaluate.scores import RowProtocol
from facscale.methods import Method, configure
from facscale.names import slugify
from facscale.spec import Document, Job, SpecError, merge
from facscale.spec.renamed import restore_old_names
from facscale.train.task import TrainingTask

NOT_IN_TRAINING_KEY = {"cluster", "track", "name", "evaluate", "seeds", "sweep"}  # blocks that no weight depends on


@dataclass(frozen=True)
class Variant:
    """A method with its resolved config: one row of the job's table, or a stage that a row depends on."""

    name: str  # of the row or stage
    document: Document
    job: Job
    method: type[Method]
    config: Any  # the method's own

    @property
    def title(self) -> str:
        """The name, with the seed where there are several."""
        return self.name if self.job.seeds == 1 else f"{self.name} seed {self.job.seed}"

    @property
    def learns_from_labels(self) -> bool:
        """Whether it is trained anew in each fold."""
        return self.method.learns_from_labels(self.config)

    @property
    def protocol(self) -> RowProtocol:
        """How its rows in the tables come to their predictions."""
        return "end-to-end" if self.learns_from_labels else self.job.evaluate.protocol

    @property
    def stage_names(self) -> list[str]:
        """Names of the stages that it takes directly."""
        return [source.stage for source in self.job.dependencies.values() if source.stage]

    def resolved_config(self) -> dict[str, Any]:
        """All that decides its results: the spec with every default, without the cluster, the tracker and the name."""
        spec = self.job.model_dump(mode="json", exclude={"cluster", "track", "name"})
        return spec | {"method": self.config.model_dump(mode="json") | {"name": self.job.method.name}}


def get_cluster_name(job: Job) -> str:
    """What the user calls the cluster: `cluster.name`, else the variable FACSCALE_CLUSTER, else nothing."""
    return job.cluster.name or os.environ.get("FACSCALE_CLUSTER", "")


def make_run_key(variants: Sequence[Variant], *, fingerprints: Sequence[str], cluster: str = "") -> str:
    """12 hexadecimal digits that identify the run of a job in MLflow: the same for the same job on the same data.

    A `cluster` with a name is part of it: the same job on two named clusters makes two runs. So is the spec's `name`.
    """
    configs = [restore_old_names(variant.resolved_config()) for variant in variants]
    names = [{"name": name}] if (name := variants[0].job.name) else []
    return hash_values([configs, list(fingerprints), *filter(None, [cluster]), *names])


def make_training_key(task: TrainingTask, *, fingerprints: Sequence[str]) -> str:
    """12 hexadecimal digits over all that decides the weights of one training: the same training has the same key."""
    spec = restore_old_names(task.job.model_dump(mode="json", exclude=NOT_IN_TRAINING_KEY))
    exports = {**task.inputs, "start": task.start} if task.start else task.inputs
    inputs = {name: hashlib.sha256(export).hexdigest() for name, export in exports.items()}
    subjects = None if task.subjects is None else {url: sorted(people) for url, people in task.subjects.items()}
    config = task.config.model_dump(mode="json")
    return hash_values([spec, config, asdict(task.facts), inputs, subjects, list(fingerprints)])


def name_training(task: TrainingTask, *, fingerprints: Sequence[str]) -> str:
    """The folder of a training under the job's storage."""
    return f"{slugify(task.name)}-{make_training_key(task, fingerprints=fingerprints)}"


def hash_values(values: list[Any]) -> str:
    """12 hexadecimal digits of a SHA-256 over plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def build_variant(document: Document, *, name: str) -> Variant:
    """Resolve a document. Raises SpecError for anything that is wrong with it."""
    return Variant(name, document, *configure(document))


def expand_variants(document: Document, *, name: str) -> list[Variant]:
    """The job's own variant, then its baselines in written order. Raises SpecError."""
    main = build_variant(document, name=name)
    baselines = [baseline for baseline, patch in main.job.evaluate.baselines.items() if patch is not None]
    variants = [main]
    variants += [build_variant(document.apply_patch(("evaluate", "baselines", row)), name=row) for row in baselines]
    for variant in variants:
        require_image_encoder(variant)
        find_fold_stages(variant)
    return variants


def require_image_encoder(variant: Variant) -> None:
    """Raise SpecError for a method without an image encoder."""
    if not variant.method.has_image_encoder:
        where = variant.document.source_location(("method", "name"))
        raise SpecError(
            f"{where}: {variant.job.method.name} has no image encoder, so it cannot be evaluated; name it under stages"
        )


def expand_seeds(variant: Variant) -> list[Variant]:
    """One variant for each of its seeds."""
    seeds = range(variant.job.seed, variant.job.seed + variant.job.seeds)
    documents = [merge(variant.document, Document({"seed": seed}, {})) for seed in seeds]
    return [build_variant(document, name=variant.name) for document in documents]


def expand_stages(variant: Variant) -> dict[str, Variant]:
    """The stages that `variant` depends on, directly or through others, by name; each follows those that it depends on."""
    stages: dict[str, Variant] = {}
    for name in variant.job.stages:
        patched = variant.document.apply_patch(("stages", name))
        earlier = {stage: patched.data["stages"][stage] for stage in stages}
        stages[name] = build_variant(Document({**patched.data, "stages": earlier}, patched.locations), name=name)
    needed = set(variant.stage_names)
    for name in reversed(stages):
        needed |= set(stages[name].stage_names) if name in needed else set()
    return {name: stage for name, stage in stages.items() if name in needed}


def find_fold_stages(variant: Variant) -> frozenset[str]:
    """The stages that see labels of the variant's own data sets: each fold trains them anew, on its training people.

    Raises SpecError where labels of test people would leak: a variant that is trained once for all folds depends on such
    a stage, or a stage reads only some of the variant's labelled sets, or some of them beside others.
    """
    fold_stages: set[str] = set()
    own = set(variant.job.data.urls("labelled"))
    for name, stage in expand_stages(variant).items():
        read = set(stage.job.data.urls("labelled")) if stage.learns_from_labels else set()
        where = variant.document.source_location(("stages", name))
        if read & own and read != own:
            raise SpecError(f"{where}: stages.{name} reads some of data.labelled; let it read all of them, or others")
        if read & own or fold_stages & set(stage.stage_names):
            fold_stages.add(name)
    leaks = fold_stages & set(variant.stage_names)
    if leaks and not variant.learns_from_labels:
        where = variant.document.source_location(("method", "name"))
        raise SpecError(
            f"{where}: {variant.job.method.name} is trained once for all folds, but the stage "
            f'"{min(leaks)}", on which it depends, learns from labels, also from those of the people to be tested'
        )
    return frozenset(fold_stages)
