"""From a variant to its rows of F1: train it as its kind demands, test it on people it has never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from facscale.data.folds import Fold, some
from facscale.data.views import Batch
from facscale.evaluate import Counts, Row, count, cross_validate, frames_of
from facscale.evaluate.embed import Embeddings, Embeds, OfFace, embed
from facscale.job.labelled import Labelled
from facscale.job.lanes import Lanes
from facscale.job.variants import Variant
from facscale.methods import DataFacts, Method, export
from facscale.spec import Job
from facscale.train.launch import storage
from facscale.train.worker import Task

Train = Callable[[Task, str], bytes]  # a task and what to call it -> the exported method


class Predictions(Embeds):
    """A labelled method as something to embed with: the samples that it judges -> AU logits."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.views = method.judged(method.config)
        self.dim = len(method.facts.aus)

    def forward(self, batch: Batch) -> Tensor:
        """[B, n]."""
        return self.method.predict(batch)


@dataclass(frozen=True)
class Judge:
    """Trains and tests the variants of one job, under one name in the storage."""

    train: Train
    lanes: Lanes

    def pretrained(self, variant: Variant, *, facts: DataFacts, inputs: dict[str, bytes]) -> bytes:
        """The exported method of a variant that learns without labels."""
        return self.train(Task(variant.job, variant.config, facts, inputs), variant.title)

    def probed(self, variant: Variant, exported: bytes, *, on: Labelled) -> Row:
        """F1 of a frozen encoder, by the spec's protocol."""
        if variant.job.evaluate.protocol == "adapted-batchnorm":
            adapted = adapting(variant)
            return self.tested(adapted, self.folds(adapted, on=on, inputs={"pretrained": exported}), on=on)
        evaluate = variant.job.evaluate
        found = embedded(OfFace(export.load(exported).encoder), job=variant.job, on=on)
        table = cross_validate(
            found.features, au=found.au, identity=found.identity, aus=on.aus, split=on.split, name=variant.name,
            probe=evaluate.probe, threshold=evaluate.threshold, seed=evaluate.seed,
        )  # fmt: skip
        return table.rows[0]

    def folds(self, variant: Variant, *, on: Labelled, inputs: dict[str, bytes]) -> list[bytes]:
        """The exported methods of a variant that learns from labels, one trained on each fold's people."""
        job = variant.job.model_copy(update={"data": variant.job.data.model_copy(update={"labelled": (on.url,)})})

        def trained(fold: Fold) -> bytes:
            train = some(fold.train, count=job.evaluate.subjects, seed=job.evaluate.seed)
            few = replace(fold, train=train)
            task = Task(job, variant.config, on.facts(few), inputs, subjects=few.train)
            return self.train(task, fold_title(variant, on, fold))

        return self.lanes.map(trained, on.split)

    def tested(self, variant: Variant, folds: Sequence[bytes], *, on: Labelled) -> Row:
        """F1 of what `folds` made, each on the people that it has not seen."""
        counts = []
        for fold, exported in zip(on.split, folds, strict=True):
            found = embedded(Predictions(export.load(exported)), job=variant.job, on=on)
            test = frames_of(fold.test, identity=found.identity)
            probability = 1 / (1 + np.exp(-found.features[test]))
            counts.append(count(probability=probability, au=found.au[test], threshold=variant.job.evaluate.threshold))
        names = [fold.name for fold in on.split]
        return Row.counted(variant.name, aus=on.aus, counts=Counts.stack(counts), folds=names, source=on.split.source)


def fold_title(variant: Variant, on: Labelled, fold: Fold) -> str:
    """What the training of one fold is called."""
    return f"{variant.title} {on.name} {fold.name}"


def adapting(variant: Variant) -> Variant:
    """The probe in which the encoder's BatchNorm layers learn too, as a method of its own (CLP, section IV.A)."""
    from facscale.methods.supervised import Supervised

    probe = variant.job.evaluate.probe
    optimizer = {"name": "adam", "lr": probe.lr, "weight_decay": probe.weight_decay}
    train = {"batch_size": probe.batch_size, "epochs": probe.epochs, "optimizer": optimizer}
    data = variant.job.data.model_copy(update={"per_track": "all"})
    job = variant.job.model_copy(update={"data": data, "train": type(variant.job.train).model_validate(train)})
    job = job.model_copy(update={"method": type(job.method)(name="supervised")})
    return replace(variant, job=job, method=Supervised, config=Supervised.Config(trainable="batchnorm"))


def embedded(model: Embeds, *, job: Job, on: Labelled) -> Embeddings:
    """Of all frames of a labelled data set, kept beside the runs."""
    return embed(
        model, on.url, image_size=job.data.image_size, spec=job.data.augment, cache_dir=f"{storage(job)}/embeddings",
        workers=job.cluster.most_workers, cpus=job.cluster.cpus_per_worker, gpus=job.cluster.gpus_per_worker, max_bad=job.data.max_bad,
    )  # fmt: skip
