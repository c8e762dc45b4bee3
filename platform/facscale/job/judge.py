"""From a variant to what it predicts: train it as its kind demands, test it on people it has never seen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from torch import Tensor, nn

from facscale.data.labels import spread
from facscale.data.views import Batch
from facscale.evaluate import frames_of
from facscale.evaluate.expression import Expressions
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.probe import fit_probe
from facscale.evaluate.probe import predict as probability_of
from facscale.inference import export
from facscale.inference.embed import Embeddings, Embeds, OfFace, embed
from facscale.job.inputs import fetch
from facscale.job.labelled import Group, Labelled, learned
from facscale.job.lanes import Lanes
from facscale.job.variants import Variant, of_fold, stages
from facscale.methods import DataFacts, Method
from facscale.nn.classifier import LinearProbe
from facscale.spec import Job
from facscale.train.task import Task
from facscale.train.trainer import storage
from facscale.train.worker import urls

Train = Callable[[Task, str], bytes]  # a task and what to call it -> the exported method
Said = tuple[Embeddings, np.ndarray]  # frames of some people, and the probability of each AU [N, n]
Says = Callable[[Labelled, Collection[str]], Said]


class Logits(Embeds):
    """A labelled method as something to embed with: the samples that it judges -> AU logits."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self.views = method.judged(method.config)
        self.dim = len(method.facts.aus)

    def forward(self, batch: Batch) -> Tensor:
        """[B, n]."""
        return self.method.predict(batch)


class Probed(Embeds):
    """A frozen encoder with a probe on it, as something to embed with: a face -> AU logits."""

    def __init__(self, encoder: nn.Module, probe: LinearProbe) -> None:
        super().__init__()
        self.face, self.probe = OfFace(encoder), probe
        self.views, self.dim = self.face.views, len(probe[1].weight)  # type: ignore[arg-type]

    def forward(self, batch: Batch) -> Tensor:
        """[B, n]."""
        logits: Tensor = self.probe(self.face(batch))
        return logits


@dataclass(frozen=True)
class Judge:
    """Trains and tests one variant; what it is built on is trained first, and once where that tells no test labels."""

    variant: Variant
    train: Train
    lanes: Lanes
    identities: int = 0  # people of the unlabelled data
    given: Mapping[str, bytes] = field(default_factory=dict)  # exported methods that are there, by argument

    @cached_property
    def stages(self) -> dict[str, Variant]:
        """`variants.stages` of the variant: read once, for each fold asks."""
        return stages(self.variant)

    @cached_property
    def of_fold(self) -> frozenset[str]:
        """`variants.of_fold` of the variant."""
        return of_fold(self.variant)

    @cached_property
    def once(self) -> dict[str, bytes]:
        """The stages that are the same in every fold, trained; those that read other labelled sets, on all of their people."""
        found: dict[str, bytes] = {}
        for name, stage in self.stages.items():
            if name in self.of_fold:
                continue
            facts = DataFacts(identities=self.identities)
            if stage.learns_from_labels:
                evaluate = stage.job.evaluate
                others = [Labelled.open(url, evaluate=evaluate, whole=True) for url in urls(stage.job, "labelled")]
                facts = learned(others, evaluate=evaluate).facts
            found[name] = self.train(task(stage, facts=facts, trained=found), stage.title)
        return found

    @cached_property
    def pretrained(self) -> bytes:
        """The exported method of a variant that learns without labels."""
        facts = DataFacts(identities=self.identities)
        return self.train(task(self.variant, facts=facts, trained=self.once), self.variant.title)

    def folds(self, on: Group) -> list[bytes]:
        """The exported methods of a variant that learns from labels, one trained on each fold's people."""
        trained = self.once  # before the folds, which go side by side
        return self.lanes.map(partial(self.fold, on, trained=trained), on.folds)

    def fold(self, on: Group, fold: int, *, trained: Mapping[str, bytes]) -> bytes:
        """The exported method of one fold; `trained`: what `once` holds."""
        title, found = fold_title(self.variant, on, fold), dict(trained)
        subjects, facts = learned(on.sets, fold=fold, evaluate=self.variant.job.evaluate)
        for name, stage in self.stages.items():
            if name in self.of_fold:
                mine = task(reading(stage, on), facts=facts, trained=found)
                found[name] = self.train(replace(mine, subjects=subjects), f"{title} {name}")
        mine = task(reading(self.variant, on), facts=facts, trained=found)
        return self.train(replace(mine, subjects=subjects, inputs={**mine.inputs, **self.given}), title)

    def tested(self, folds: Sequence[bytes], *, on: Group) -> dict[str, Predictions]:
        """What `folds` made say, each of people that it has not seen; by table."""

        def asked(fold: int) -> Says:
            model = Logits(export.load(folds[fold]))

            def says(data: Labelled, people: Collection[str]) -> Said:
                found = embedded(model, job=self.variant.job, on=data, subjects=people)
                return found, 1 / (1 + np.exp(-found.features))

            return says

        return self._told(asked, on=on)

    def probed(self, exported: bytes, *, on: Group) -> dict[str, Predictions]:
        """What probes on the frozen encoder of `exported` say, one trained on each fold's people, by the spec's protocol; by table."""
        if self.variant.job.evaluate.protocol == "adapted-batchnorm":
            adapted = Judge(adapting(self.variant), self.train, self.lanes, given={"pretrained": exported})
            return adapted.tested(adapted.folds(on), on=on)
        seen = self._seen(exported, (*on.sets, *on.transfer))

        def asked(fold: int) -> Says:
            probe = self._probe(seen, on=on, fold=fold)

            def says(data: Labelled, people: Collection[str]) -> Said:
                found = of_people(seen[data.url], people)
                return found, probability_of(probe, features=found.features)

            return says

        return self._told(asked, on=on)

    def first(self, exported: bytes, *, on: Group) -> Embeds:
        """What tells the AUs of the first fold's test people: its own method, or a probe on the frozen encoder."""
        method = export.load(exported)
        if self.variant.learns_from_labels:
            return Logits(method)
        return Probed(method.encoder, self._probe(self._seen(exported, on.sets), on=on, fold=0))

    def _seen(self, exported: bytes, sets: Sequence[Labelled]) -> dict[str, Embeddings]:
        """The encoder's features of all frames, by data set URL."""
        encoder = OfFace(export.load(exported).encoder)
        return {data.url: embedded(encoder, job=self.variant.job, on=data) for data in sets}

    def _probe(self, seen: Mapping[str, Embeddings], *, on: Group, fold: int) -> LinearProbe:
        """Trained on a fold's people."""
        evaluate = self.variant.job.evaluate
        parts = [of_people(seen[data.url], data.split[fold].train) for data in on.sets]
        au = [spread(part.au, given=part.aus, wanted=on.aus) for part in parts]
        features = np.concatenate([part.features for part in parts])
        return fit_probe(features, au=np.concatenate(au), probe=evaluate.probe, seed=evaluate.seed + fold)

    def _told(self, asked: Callable[[int], Says], *, on: Group) -> dict[str, Predictions]:
        """What each fold says of whom it tests, of the AUs that are both learned and labelled there; by table."""
        pieces: dict[str, list[Predictions]] = {}
        for fold in on.folds:
            says = asked(fold)
            for data, people in on.tests(fold):
                found, probability = says(data, people)
                both = tuple(au for au in data.aus if au in on.aus)
                piece = Predictions(
                    self.variant.name, both, probability[:, [on.aus.index(au) for au in both]].astype(np.float32),
                    found.au[:, [data.aus.index(au) for au in both]], found.identity, found.video, found.frame,
                    fold=np.zeros(len(found), np.int8), folds=(on.sets[0].split[fold].name,), source=data.split.source,
                )  # fmt: skip
                pieces.setdefault(on.titled(data), []).append(piece)
        return {title: Predictions.joined(found) for title, found in pieces.items()}


def of_people(seen: Embeddings, people: Collection[str]) -> Embeddings:
    """Their frames alone."""
    return seen.chosen(frames_of(people, identity=seen.identity))


def task(of: Variant, *, facts: DataFacts, trained: Mapping[str, bytes]) -> Task:
    """A variant's training, on stages that are trained and on files that are read now."""
    given = {
        place: trained[source.stage] if source.stage else fetch(source) for place, source in of.job.built_on.items()
    }
    start = given.pop("start", None)
    inputs = {place.removeprefix("inputs."): exported for place, exported in given.items()}
    return Task(of.job, of.config, facts, inputs, start=start)


def reading(of: Variant, on: Group) -> Variant:
    """The variant on the sets of one group alone."""
    data = of.job.data.model_copy(update={"labelled": tuple(part.url for part in on.sets)})
    return replace(of, job=of.job.model_copy(update={"data": data}))


def fold_title(variant: Variant, on: Group, fold: int) -> str:
    """What the training of one fold is called."""
    return f"{variant.title} {on.name} {on.sets[0].split[fold].name}"


def adapting(variant: Variant) -> Variant:
    """The probe in which the encoder's BatchNorm layers learn too, as a method of its own (CLP, section IV.A)."""
    from facscale.methods.supervised import Supervised

    probe = variant.job.evaluate.probe
    optimizer = {"name": "adam", "lr": probe.lr, "weight_decay": probe.weight_decay}
    train = {"batch_size": probe.batch_size, "epochs": probe.epochs, "optimizer": optimizer}
    data = variant.job.data.model_copy(update={"per_track": "all"})
    job = variant.job.model_copy(update={"data": data, "train": type(variant.job.train).model_validate(train)})
    of_the_method = {"method": type(job.method)(name="supervised"), "inputs": {}, "stages": {}, "start": None}
    job = job.model_copy(update=of_the_method)
    return replace(variant, job=job, method=Supervised, config=Supervised.Config(trainable="batchnorm"))


def embedded(
    model: Embeds, *, job: Job, on: Labelled | Expressions, subjects: Collection[str] | None = None
) -> Embeddings:
    """Of the frames of a labelled data set (of these people), kept beside the runs."""
    return embed(
        model, on.url, image_size=job.data.image_size, spec=job.data.augment, cache_dir=f"{storage(job)}/embeddings",
        workers=job.cluster.most_workers, cpus=job.cluster.cpus_per_worker, gpus=job.cluster.gpus_per_worker,
        max_bad=job.data.max_bad, subjects=subjects,
    )  # fmt: skip
