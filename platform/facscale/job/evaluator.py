"""Evaluation: what models predict for people whom they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np

from facscale.data import Dataset
from facscale.data.labels import IntensityLabels, reindex_labels
from facscale.evaluate.expression import (
    ConfusionMatrix,
    ExpressionDataset,
    evaluate_expression_probe,
    fit_expression_probe,
)
from facscale.evaluate.intensity import IntensityPredictions, fit_intensity_probes, predict_intensities
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.probe import fit_probes, predict_probabilities
from facscale.evaluate.protocol import LabelledDataset
from facscale.evaluate.subjects import find_frames
from facscale.inference.embed import Embeddings, embed_dataset
from facscale.inference.export import load_export
from facscale.inference.models import FrameEncoder, FrameModel, IntensityModel, ProbedEncoder, SupervisedModel
from facscale.job.plan import EvalNode, name_fold
from facscale.nn.heads import LinearProbe
from facscale.progress import print_line
from facscale.spec import Job
from facscale.train.trainer import storage_url

FoldOutput = tuple[Embeddings, np.ndarray]  # the frames of some people, and the probability of each AU [N, n]
FoldPredictor = Callable[[LabelledDataset, Collection[str]], FoldOutput]


class Evaluator:
    """Carries out the evaluations of a plan, with exported models from wherever they are."""

    def predict(self, node: EvalNode, exports: Mapping[str, bytes]) -> dict[str, Predictions]:
        """Out-of-fold predictions of a node, by the title of their table. `exports`: of `node.models`, by id."""
        return predict_out_of_fold(node, self._make_fold_predictors(node, exports))

    def predict_intensities(self, node: EvalNode, exports: Mapping[str, bytes]) -> dict[str, IntensityPredictions]:
        """Out-of-fold intensities of a node, by the title of their table. `exports`: of `node.models`, by id.

        On a frozen encoder a probe is trained on each fold's people. Empty where no set that is learned from has
        intensities, and for models with a head for occurrences alone.
        """
        methods = {key: load_export(exports[key]) for key in dict.fromkeys(node.models)}
        if node.has_own_head and not all(method.predicts_intensities(method.config) for method in methods.values()):
            return {}
        sets = {dataset.url: dataset for dataset in (*node.group.sets, *node.group.transfer)}
        labels = {url: IntensityLabels.load(Dataset(url)) for url in sets}
        if not any(labels[dataset.url].is_labelled.any() for dataset in node.group.sets):
            return {}
        if node.has_own_head:

            def make_own(fold: int) -> FoldPredictor:
                return partial(embed_people, IntensityModel(methods[node.model_of(fold)]), job=node.variant.job)

            return predict_intensities_out_of_fold(node, labels, make_own)
        encoder = FrameEncoder(methods[node.models[0]].encoder)
        embeddings = embed_sets(encoder, tuple(sets.values()), job=node.variant.job)
        folds = list(node.group.folds)
        probes = dict(zip(folds, fit_fold_intensities(embeddings, labels, node, folds=folds), strict=True))
        return predict_intensities_out_of_fold(node, labels, partial(make_intensity_predictor, embeddings, probes))

    def build_first_model(self, node: EvalNode, export: bytes) -> FrameModel:
        """What predicts the AUs of the first fold's test people: a method itself, or a probe on the frozen encoder.

        `export`: the first of `node.models`.
        """
        method = load_export(export)
        if node.has_own_head:
            return SupervisedModel(method)
        embeddings = embed_sets(FrameEncoder(method.encoder), node.group.sets, job=node.variant.job)
        return ProbedEncoder(method.encoder, *fit_fold_probes(embeddings, node, folds=[0]))

    def _make_fold_predictors(self, node: EvalNode, exports: Mapping[str, bytes]) -> Callable[[int], FoldPredictor]:
        job = node.variant.job
        if node.has_own_head:

            def make_own(fold: int) -> FoldPredictor:
                model = SupervisedModel(load_export(exports[node.model_of(fold)]))

                def predict(dataset: LabelledDataset, people: Collection[str]) -> FoldOutput:
                    output = embed_frames(model, dataset, job=job, subjects=people)
                    return output, 1 / (1 + np.exp(-output.features))

                return predict

            return make_own

        encoder = FrameEncoder(load_export(exports[node.models[0]]).encoder)
        embeddings = embed_sets(encoder, (*node.group.sets, *node.group.transfer), job=job)

        folds = list(node.group.folds)
        probes = dict(zip(folds, fit_fold_probes(embeddings, node, folds=folds), strict=True))

        def make_probe(fold: int) -> FoldPredictor:
            probe = probes[fold]

            def predict(dataset: LabelledDataset, people: Collection[str]) -> FoldOutput:
                frames = select_people(embeddings[dataset.url], people)
                return frames, predict_probabilities(probe, features=frames.features)

            return predict

        return make_probe


def predict_out_of_fold(node: EvalNode, make_predictor: Callable[[int], FoldPredictor]) -> dict[str, Predictions]:
    """Predict each fold's test people, for the AUs that are both learned and labelled there; by title of the table."""
    group, parts = node.group, dict[str, list[Predictions]]()
    for fold in group.folds:
        predict = make_predictor(fold)
        for dataset, people in group.test_parts(fold):
            frames, probability = predict(dataset, people)
            aus = tuple(au for au in dataset.aus if au in group.aus)
            predictions = Predictions(
                node.variant.name,
                aus,
                probability[:, [group.aus.index(au) for au in aus]].astype(np.float32),
                frames.au[:, [dataset.aus.index(au) for au in aus]],
                frames.identity,
                frames.video,
                frames.frame,
                fold=np.zeros(len(frames), np.int8),
                folds=(group.fold_name(fold),),
                source=dataset.split.source,
                protocol=node.protocol,
            )
            parts.setdefault(node.table_title(dataset), []).append(predictions)
    return {title: Predictions.concat(folds) for title, folds in parts.items()}


def predict_intensities_out_of_fold(
    node: EvalNode, labels: Mapping[str, IntensityLabels], make_predictor: Callable[[int], FoldPredictor | None]
) -> dict[str, IntensityPredictions]:
    """Predict the intensities of each fold's test people, for AUs that both sides have; by title of the table.

    labels: by data set URL. A fold for which `make_predictor` returns None is left out.
    """
    group, parts = node.group, dict[str, list[IntensityPredictions]]()
    learned = {au for dataset in group.sets for au in labels[dataset.url].select_aus(dataset.aus)}
    for fold in group.folds:
        predict = make_predictor(fold)
        if predict is None:
            continue
        for dataset, people in group.test_parts(fold):
            aus = tuple(au for au in labels[dataset.url].select_aus(dataset.aus) if au in learned)
            if not aus:
                continue
            frames, predicted = predict(dataset, people)
            intensity = find_intensities(labels[dataset.url], frames)
            predictions = IntensityPredictions(
                node.variant.name,
                aus,
                predicted[:, [group.aus.index(au) for au in aus]].astype(np.float32),
                intensity[:, [dataset.aus.index(au) for au in aus]],
                frames.identity,
                frames.video,
                frames.frame,
                fold=np.zeros(len(frames), np.int8),
                folds=(group.fold_name(fold),),
                protocol=node.protocol,
            )
            parts.setdefault(node.table_title(dataset), []).append(predictions)
    return {title: IntensityPredictions.concat(folds) for title, folds in parts.items()}


def make_intensity_predictor(
    embeddings: Mapping[str, Embeddings], probes: Mapping[int, LinearProbe | None], fold: int
) -> FoldPredictor | None:
    """Predict intensities by the probe of a fold; None where there is none."""
    probe = probes[fold]
    if probe is None:
        return None

    def predict(dataset: LabelledDataset, people: Collection[str]) -> FoldOutput:
        frames = select_people(embeddings[dataset.url], people)
        return frames, predict_intensities(probe, features=frames.features)

    return predict


def fit_fold_intensities(
    embeddings: Mapping[str, Embeddings],
    labels: Mapping[str, IntensityLabels],
    node: EvalNode,
    *,
    folds: Sequence[int | None],
) -> list[LinearProbe | None]:
    """Fit a probe for intensities as `fit_fold_probes` does; `embeddings` and `labels`: by data set URL.

    None, and a line in the terminal, where fewer than two frames of a fold's training people have an intensity.
    """
    evaluate, group = node.variant.job.evaluate, node.group
    intensity = np.concatenate(
        [
            reindex_labels(
                find_intensities(labels[dataset.url], embeddings[dataset.url]), given=dataset.aus, wanted=group.aus
            )
            for dataset in group.sets
        ]
    )
    features, rows = gather_training_rows(embeddings, node, folds=folds)
    fitting = {seed: chosen for seed, chosen in rows.items() if (intensity[chosen] >= 0).any(axis=1).sum() >= 2}
    for fold, seed in zip(folds, rows, strict=True):
        if seed not in fitting:
            print_line(f"{name_fold(node.variant, group, fold)}: no intensities among its training people; left out")
    probes = fit_intensity_probes(features, intensity=intensity, rows=fitting, probe=evaluate.probe) if fitting else {}
    return [probes.get(seed) for seed in rows]


def find_intensities(labels: IntensityLabels, frames: Embeddings) -> np.ndarray:
    """The intensities [N, n] of embedded frames."""
    return labels.find(identity=frames.identity, video=frames.video, frame=frames.frame)


def embed_people(model: FrameModel, dataset: LabelledDataset, people: Collection[str], *, job: Job) -> FoldOutput:
    """The frames of some people, and what a model predicts for them."""
    frames = embed_frames(model, dataset, job=job, subjects=people)
    return frames, frames.features


def fit_fold_probes(
    embeddings: Mapping[str, Embeddings], node: EvalNode, *, folds: Sequence[int | None]
) -> list[LinearProbe]:
    """Fit a linear probe on the training people of each fold; None: on everybody. `embeddings`: by data set URL."""
    parts = [embeddings[dataset.url] for dataset in node.group.sets]
    au = np.concatenate([reindex_labels(part.au, given=part.aus, wanted=node.group.aus) for part in parts])
    features, rows = gather_training_rows(embeddings, node, folds=folds)
    return list(fit_probes(features, au=au, rows=rows, probe=node.variant.job.evaluate.probe).values())


def gather_training_rows(
    embeddings: Mapping[str, Embeddings], node: EvalNode, *, folds: Sequence[int | None]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The features [N, D] of all sets that are learned from, and the rows of each fold's training people by its seed."""
    parts = [embeddings[dataset.url] for dataset in node.group.sets]
    features = parts[0].features if len(parts) == 1 else np.concatenate([part.features for part in parts])
    firsts = np.cumsum([0, *map(len, parts[:-1])])

    def find_rows(fold: int | None) -> np.ndarray:
        if fold is None:
            return np.arange(len(features))
        chosen = [
            first + find_frames(dataset.split[fold].train, identity=part.identity)
            for first, part, dataset in zip(firsts, parts, node.group.sets, strict=True)
        ]
        return np.concatenate(chosen)

    return features, {node.variant.job.evaluate.seed + (fold or 0): find_rows(fold) for fold in folds}


def evaluate_expressions(
    export: bytes, datasets: Sequence[ExpressionDataset], *, job: Job
) -> dict[str, ConfusionMatrix]:
    """Test probes on the frozen encoder of an exported method on each set's test part; by name of the set.

    A method that is trained in each fold is tested with the encoder of its first fold, as in all measures beyond F1. The
    encoder stays frozen whatever `evaluate.protocol` is for AUs.
    """
    matrices = {}
    for dataset in datasets:
        frames = embed_frames(FrameEncoder(load_export(export).encoder), dataset, job=job)
        rows = dataset.find_rows(identity=frames.identity, video=frames.video, frame=frames.frame)
        expression, is_test = dataset.expression[rows], dataset.test[rows]
        probe = fit_expression_probe(
            frames.features[~is_test],
            expression=expression[~is_test],
            classes=len(dataset.classes),
            probe=job.evaluate.probe,
            seed=job.evaluate.seed,
        )
        matrices[dataset.name] = evaluate_expression_probe(
            probe, features=frames.features[is_test], expression=expression[is_test], classes=dataset.classes
        )
    return matrices


def embed_sets(model: FrameModel, sets: Sequence[LabelledDataset], *, job: Job) -> dict[str, Embeddings]:
    """Embeddings of all frames of several sets, by data set URL."""
    return {dataset.url: embed_frames(model, dataset, job=job) for dataset in sets}


def embed_frames(
    model: FrameModel,
    dataset: LabelledDataset | ExpressionDataset,
    *,
    job: Job,
    subjects: Collection[str] | None = None,
) -> Embeddings:
    """Outputs of a model for the frames of a data set (of `subjects`), cached beside the job's trainings."""
    return embed_dataset(
        model,
        dataset.url,
        image_size=job.data.image_size,
        spec=job.data.augment,
        cache_dir=f"{storage_url(job)}/embeddings",
        workers=job.cluster.max_workers,
        cpus=job.cluster.cpus_per_worker,
        gpus=job.cluster.gpus_per_worker,
        max_bad=job.data.max_bad,
        subjects=subjects,
    )


def select_people(embeddings: Embeddings, people: Collection[str]) -> Embeddings:
    """The frames of some people."""
    return embeddings.select(find_frames(people, identity=embeddings.identity))


def name_tests(node: EvalNode) -> dict[str, tuple[str, str]]:
    """What was learned from and what was tested, by title of the table."""
    return {node.table_title(dataset): (node.group.name, dataset.name) for dataset, _ in node.group.test_parts(0)}
