"""The plan of a job: which trainings there are, in which order, and what is evaluated with them.

`build_plan` is a pure function: it needs neither torch's computations, nor Ray, and writes nothing. Check, profile, run,
sweep and verify all read the same plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from facscale.data import augment
from facscale.evaluate.protocol import LabelledDataset, TrainTestGroup, build_groups, select_training_split
from facscale.evaluate.scores import RowProtocol
from facscale.job.datasets import JobData
from facscale.job.inputs import fetch_input
from facscale.job.variants import NOT_IN_TRAINING_KEY, Variant, expand_stages, find_fold_stages, hash_values
from facscale.methods import DataFacts
from facscale.methods.supervised import Supervised
from facscale.names import slugify
from facscale.spec.models import Data, EpochBlock, Evaluate, Optimizer, Train
from facscale.train.task import TrainingTask

EVERYBODY = "everybody"  # in the title of a training on all people of a group
READING = {
    "image_size",
    "canonical_streams",
    "shuffle_block",
    "threads",
    "reader",
    "prefetch",
    "cache",
    "cache_gb",
    "max_bad",
}

DetectorKind = Literal["all", "folds", "none"]
DETECTORS = {"all": "learns from all labelled people", "folds": "averages the models of the folds", "none": ""}


@dataclass(frozen=True)
class TrainNode:
    """One training."""

    id: str  # the same for trainings that make the same weights under the same title
    title: str
    variant: Variant  # what is trained; its data.labelled are the sets of `group`
    evaluate: Evaluate  # whose folds and `subjects` select the training people
    group: TrainTestGroup | None = None  # labelled sets that it learns from; None: it learns without labels
    fold: int | None = None  # of `group`, whose training people are learned from; None: everybody
    inputs: Mapping[str, str] = field(default_factory=dict)  # "inputs.NAME" or "start" -> id of the training


@dataclass(frozen=True)
class EvalNode:
    """One evaluation: predictions for people whom the models have not seen."""

    variant: Variant  # whose row in the tables it fills
    group: TrainTestGroup
    protocol: RowProtocol
    models: tuple[str, ...]  # ids of trainings: one for each fold, or one for all folds
    is_additional: bool = False  # of a frozen encoder, beside the evaluation by the spec's protocol
    final: str = ""  # id of a training on everybody, for the detector alone; "": there is none

    @property
    def has_own_head(self) -> bool:
        """Whether the models predict AUs themselves; otherwise a probe is fitted on the frozen encoder."""
        return self.protocol != "linear-probe"

    @property
    def detector_kind(self) -> DetectorKind:
        """What its detector learns from: everybody, or the people of each fold; "none": it leaves no detector."""
        kind = self.variant.job.evaluate.detector
        if self.is_additional:
            return "none"
        if kind == "auto":
            return "folds" if self.has_own_head else "all"
        return kind

    @property
    def trainings(self) -> tuple[str, ...]:
        """Ids of all trainings that it uses, each once."""
        return tuple(dict.fromkeys([*self.models, *filter(None, [self.final])]))

    def model_of(self, fold: int) -> str:
        """Id of the training that is evaluated in a fold."""
        return self.models[fold] if len(self.models) > 1 else self.models[0]

    def table_title(self, dataset: LabelledDataset) -> str:
        """Title of the F1 table of a tested set. The rows of a table follow the spec's protocol, or all an additional one."""
        title = self.group.table_title(dataset)
        return f"{title}, encoder frozen" if self.is_additional else title


@dataclass(frozen=True)
class VariantPlan:
    """A row of the job's tables, with one seed."""

    variant: Variant
    representative: str  # id of the training whose weights are measured and exported: the only one, or the first fold's
    evaluations: tuple[EvalNode, ...]

    @property
    def trainings(self) -> tuple[str, ...]:
        """Ids of the trainings that it uses directly, each once."""
        models = (model for evaluation in self.evaluations for model in evaluation.trainings)
        return tuple(dict.fromkeys([self.representative, *models]))


@dataclass(frozen=True)
class Plan:
    """All trainings and evaluations of a job."""

    trainings: Mapping[str, TrainNode]  # by id; each follows those that it depends on
    variants: tuple[VariantPlan, ...]

    def collect_upstream(self, ids: Iterable[str]) -> list[TrainNode]:
        """The trainings `ids` and all that they depend on; each follows those that it depends on."""
        needed = set(ids)
        for node in reversed(list(self.trainings.values())):
            if node.id in needed:
                needed |= set(node.inputs.values())
        return [node for node in self.trainings.values() if node.id in needed]

    def find_shared_stages(self, variant_plan: VariantPlan) -> list[TrainNode]:
        """The stages of a variant that are the same in every fold, and in every trial of a sweep."""
        upstream = self.collect_upstream(variant_plan.trainings)
        return [node for node in upstream if node.fold is None and node.id not in variant_plan.trainings]


def build_plan(variants: Sequence[Variant], data: JobData) -> Plan:
    """Plan every variant (with one seed each: `variants.expand_seeds`) on the data of the job."""
    builder = _PlanBuilder(data)
    plans = [builder.add_variant(variant) for variant in variants]
    return Plan(builder.trainings, tuple(plans))


class _PlanBuilder:
    """Collects trainings; the same training is added once, whichever variants need it."""

    def __init__(self, data: JobData) -> None:
        self._data = data
        self.trainings: dict[str, TrainNode] = {}

    def add_variant(self, variant: Variant) -> VariantPlan:
        """A variant that learns from labels is trained in each fold of each group, else once for all of them."""
        stages, fold_stages = expand_stages(variant), find_fold_stages(variant)
        shared = self._add_shared_stages({name: stages[name] for name in stages if name not in fold_stages})
        of_fold = {name: stages[name] for name in stages if name in fold_stages}
        groups = build_groups(variant.job, self._data.labelled, transfer=self._data.transfer)
        if variant.learns_from_labels:
            evaluations = [self._add_folds(variant, group, shared, of_fold) for group in groups]
            if not evaluations:
                raise ValueError(f"{variant.name} learns from labels, and there are none")  # the spec is checked before
            return VariantPlan(variant, evaluations[0].models[0], tuple(evaluations))
        pretrained = self._add(
            title=variant.title, variant=variant, evaluate=variant.job.evaluate, inputs=_select(variant, shared)
        )
        probes = (probe for group in groups for probe in self._add_probes(variant, group, pretrained))
        return VariantPlan(variant, pretrained, tuple(probes))

    def _add_shared_stages(self, stages: Mapping[str, Variant]) -> dict[str, str]:
        """Add the stages that are the same in every fold; the ids of their trainings by stage."""
        ids: dict[str, str] = {}
        for name, stage in stages.items():
            group = None
            if stage.learns_from_labels:  # from other sets than the variant's own: from everybody in them
                group = TrainTestGroup(tuple(self._data.open_stage_set(url) for url in stage.job.data.urls("labelled")))
            ids[name] = self._add(
                title=stage.title, variant=stage, evaluate=stage.job.evaluate, group=group, inputs=_select(stage, ids)
            )
        return ids

    def _add_folds(
        self, variant: Variant, group: TrainTestGroup, shared: Mapping[str, str], stages: Mapping[str, Variant]
    ) -> EvalNode:
        """Add the trainings of a variant that learns from labels, one for each fold, with the `stages` of each fold.

        With `evaluate.detector: all`, one on everybody follows.
        """
        models = []
        has_final = variant.job.evaluate.detector == "all"
        for fold in [*group.folds, *([None] if has_final else [])]:
            title, ids = name_fold(variant, group, fold), dict(shared)
            add = partial(self._add, evaluate=variant.job.evaluate, group=group, fold=fold)
            for name, stage in stages.items():
                own = restrict_to_group(stage, group)
                ids[name] = add(title=f"{title} {name}", variant=own, inputs=_select(stage, ids))
            models.append(add(title=title, variant=restrict_to_group(variant, group), inputs=_select(variant, ids)))
        final = models.pop() if has_final else ""
        return EvalNode(variant, group, variant.protocol, tuple(models), final=final)

    def _add_probes(self, variant: Variant, group: TrainTestGroup, pretrained: str) -> list[EvalNode]:
        """Evaluate a pre-trained encoder by the spec's protocol, and frozen in any case, which costs little."""
        frozen = EvalNode(variant, group, "linear-probe", (pretrained,))
        if variant.protocol == "linear-probe":
            return [frozen]
        adapted = make_batchnorm_probe(variant)
        own, inputs = restrict_to_group(adapted, group), {"inputs.pretrained": pretrained}
        add = partial(self._add, variant=own, evaluate=variant.job.evaluate, group=group, inputs=inputs)
        models = tuple(add(title=name_fold(adapted, group, fold), fold=fold) for fold in group.folds)
        has_final = variant.job.evaluate.detector == "all"
        final = add(title=name_fold(adapted, group, None), fold=None) if has_final else ""
        return [
            EvalNode(variant, group, variant.protocol, models, final=final),
            replace(frozen, is_additional=True),
        ]

    def _add(
        self,
        *,
        title: str,
        variant: Variant,
        evaluate: Evaluate,
        group: TrainTestGroup | None = None,
        fold: int | None = None,
        inputs: Mapping[str, str],
    ) -> str:
        """Add a training unless it is there; returns its id."""
        spec = variant.job.model_dump(mode="json", exclude=NOT_IN_TRAINING_KEY)
        sets = [dataset.url for dataset in group.sets] if group else None
        config = variant.config.model_dump(mode="json")
        node_id = hash_values([title, spec, config, sets, fold, evaluate.subjects, evaluate.seed, dict(inputs)])
        node = TrainNode(node_id, title, variant, evaluate, group, fold, dict(inputs))
        self.trainings.setdefault(node_id, node)
        return node_id


def make_task(node: TrainNode, exports: Mapping[str, bytes], *, identities: int) -> TrainingTask:
    """The task of a training. `exports`: of its inputs, by id; `identities`: people of the job's unlabelled data.

    Files that the spec names as inputs are read now. Raises SpecError where one cannot be.
    """
    facts, subjects = DataFacts(identities=identities), None
    if node.group is not None:
        split = select_training_split(node.group.sets, fold=node.fold, evaluate=node.evaluate)
        facts, subjects = split.facts, split.subjects if node.fold is not None else None
    exported = {place: exports[node_id] for place, node_id in node.inputs.items()}
    exported |= {place: fetch_input(source) for place, source in node.variant.job.dependencies.items() if source.url}
    start = exported.pop("start", None)
    inputs = {place.removeprefix("inputs."): export for place, export in exported.items()}
    return TrainingTask(
        node.variant.job, node.variant.config, facts, inputs, start=start, subjects=subjects, name=node.title
    )


def name_detector(node: EvalNode) -> str:
    """The name of a detector's registered model: facscale-DATA-METHOD."""
    return f"facscale-{slugify(node.group.name)}-{slugify(node.variant.job.method.name)}"


def name_fold(variant: Variant, group: TrainTestGroup, fold: int | None) -> str:
    """Title of the training of one fold, or of the one on everybody."""
    return f"{variant.title} {group.name} {EVERYBODY if fold is None else group.fold_name(fold)}"


def restrict_to_group(variant: Variant, group: TrainTestGroup) -> Variant:
    """The variant with the labelled sets of one group alone."""
    data = variant.job.data.model_copy(update={"labelled": tuple(dataset.url for dataset in group.sets)})
    return replace(variant, job=variant.job.model_copy(update={"data": data}))


def make_batchnorm_probe(variant: Variant) -> Variant:
    """The probe in which the encoder's BatchNorm layers learn too, as a method of its own (CLP, section IV.A).

    It learns from all training people of a fold. Frames are not augmented, apart from the place of the crop, which has the
    size of the tests' centre crop: the paper states no augmentation. BatchNorm's statistics are those of the batches of all
    workers.
    """
    job, evaluate = variant.job, variant.job.evaluate
    adaptation = evaluate.adaptation
    train = Train(
        batch_size=adaptation.batch_size,
        epochs=adaptation.epochs,
        optimizer=Optimizer(name="adam", lr=adaptation.lr, weight_decay=adaptation.weight_decay),
        sync_batchnorm=True,
        probe_every=0,
    )
    data = Data(
        **job.data.model_dump(include=READING),
        labelled=job.data.labelled,
        epoch=EpochBlock(samples_per="frame"),
        augment=augment.eval_config(job.data.augment),
    )
    method = {"method": type(job.method)(name="supervised"), "inputs": {}, "stages": {}, "start": None}
    return replace(
        variant,
        job=job.model_copy(update={"data": data, "train": train, **method}),
        method=Supervised,
        config=Supervised.Config(trainable="batchnorm", weighting=evaluate.probe.weighting),
    )


def _select(variant: Variant, stages: Mapping[str, str]) -> dict[str, str]:
    """Which trainings a variant takes, by where the spec names them."""
    return {place: stages[source.stage] for place, source in variant.job.dependencies.items() if source.stage}
