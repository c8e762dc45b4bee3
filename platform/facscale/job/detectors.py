"""The detector that each judged row of a job leaves behind: built, calibrated, described, logged and registered."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from facscale.data import Dataset, augment
from facscale.data.derivation import hash_identity
from facscale.data.labels import IntensityLabels
from facscale.data.tracks import find_frame_step
from facscale.evaluate.bootstrap import Interval
from facscale.evaluate.calibration import AUCalibration, CalibrationResult, calibrate
from facscale.evaluate.intensity import IntensityScores
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.scores import MethodScores
from facscale.inference.detector import (
    WEIGHTS_FILE,
    AUCalibrationCard,
    CardInterval,
    Detector,
    DetectorCard,
    Member,
    Preprocessing,
    ProbedMember,
    SupervisedMember,
    load_detector_bytes,
    save_detector,
)
from facscale.inference.embed import Embeddings
from facscale.inference.export import load_export
from facscale.inference.models import FrameEncoder
from facscale.job.card import get_versions, to_plain
from facscale.job.evaluator import embed_sets, fit_fold_intensities, fit_fold_probes
from facscale.job.plan import DETECTORS, EvalNode, name_detector
from facscale.methods import Method, find_owner
from facscale.names import sanitize_filename
from facscale.nn.calibration import Calibration
from facscale.report.bundle import Report
from facscale.report.reliability import plot_reliability
from facscale.spec import Job
from facscale.spec.pipelines import Crop, DetectorBlock
from facscale.track.tracker import RunLogger

INTENDED_USE = (
    "Measures facial action units of people who agree to it, in research. Not for deciding on people, and not for inferring "
    "what they feel: action units are movements."
)


@dataclass(frozen=True)
class TrainedDetector:
    """A detector with what its calibration was measured to be."""

    detector: Detector
    calibration: CalibrationResult
    scores: dict[str, float]  # mean F1 in [0, 1] of the row's tables, by title


def build_detector(
    node: EvalNode,
    exports: Mapping[str, bytes],
    predictions: Mapping[str, Predictions],
    *,
    agreement: Mapping[str, IntensityScores],
    facts: Mapping[str, Any],
) -> TrainedDetector:
    """Build the detector of an evaluation, calibrated on its out-of-fold predictions.

    exports: of `node.trainings`, by id; predictions and agreement: of the evaluation, by title of the table; facts: of the
    run, for the card. Raises ValueError for a method that needs what a face outside of data sets lacks.
    """
    job, group = node.variant.job, node.group
    own = [table for dataset in group.sets if (table := predictions.get(node.table_title(dataset)))]
    tables = own or list(predictions.values())  # where all own people were learned from: those of other sets
    result = calibrate(tables, aus=group.aus, seed=job.evaluate.seed)
    members, intensity_aus = _make_members(node, exports)
    scores = {title: table.score(job.evaluate.threshold) for title, table in predictions.items()}
    detector = Detector(
        members,
        aus=group.aus,
        preprocessing=read_preprocessing(Dataset(group.sets[0].url), job=job),
        thresholds=torch.from_numpy(result.thresholds),
        calibration=make_calibration(result),
        intensity_aus=intensity_aus,
        card=_make_card(node, result, scores=scores, agreement=agreement) | dict(facts),
    )
    return TrainedDetector(detector, result, {title: float(row.mean) for title, row in scores.items()})


def read_preprocessing(dataset: Dataset, *, job: Job) -> Preprocessing:
    """How the faces of a data set were made, and which part of them a job's networks are tested on."""
    manifest = dataset.manifest
    recipe = manifest.recipe if isinstance(manifest.recipe.get("version"), int) else {}  # only facscale's says how
    margin = manifest.margin
    size = {"size": round(manifest.image_size / (1 + 2 * margin)), "margin": margin}
    detector = dict(recipe.get("detector") or {})
    for old in ("detect_every", "shortest_track"):  # in frames, in data sets of earlier releases
        detector.pop(old, None)
    every = find_frame_step(dataset) if manifest.fps else 0
    return Preprocessing(
        detector=DetectorBlock.model_validate(detector),
        crop=Crop.model_validate({**(recipe.get("crop") or {}), **size}),
        is_known=bool(recipe.get("detector")),
        eval_crop=augment.get_eval_crop(job.data.augment),
        image_size=job.data.image_size,
        fps=manifest.fps / every if every else 0.0,
    )


def make_calibration(result: CalibrationResult) -> Calibration:
    """The module that applies fitted curves."""
    curves = [item.curve for item in result.aus]
    calibration = Calibration(aus=len(curves), knots=max(2, *(len(curve.knots) for curve in curves)))
    for number, curve in enumerate(curves):
        calibration.scale[number], calibration.bias[number] = curve.scale, curve.bias
        calibration.is_isotonic[number] = curve.kind == "isotonic"
        knots, values = (torch.from_numpy(line).float() for line in (curve.knots, curve.values))
        calibration.knots[number], calibration.values[number] = knots[-1], values[-1]
        calibration.knots[number, : len(knots)], calibration.values[number, : len(values)] = knots, values
    return calibration


def report_calibration(result: CalibrationResult, *, title: str, about: str, prefix: str) -> Report:
    """The reliability diagram, and the numbers before and after."""
    figure = plot_reliability(result, title=about)
    metrics = {prefix + name: value for name, value in result.to_metrics().items()}
    return Report(figures={f"reliability_{sanitize_filename(title)}": figure}, metrics=metrics)


def log_detector(
    trained: TrainedDetector, run: RunLogger, *, name: str, artifact: str, tags: Mapping[str, str], about: str
) -> None:
    """Keep a detector with a run as the file `artifact`, and register it as a version of the model `name`.

    The same detector is uploaded and registered once, however often its job runs.
    """
    from facscale.track.detector import log_detector_model  # pandas, which a plan needs not

    data = save_detector(trained.detector)
    load_detector_bytes(data)  # what cannot be read again is not registered
    method = trained.detector.recipes[0].method.method
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(artifact).name
        file.write_bytes(data)
        run.log_artifact(file, artifact)
        model = Path(artifact).stem
        log_detector_model(
            run,
            weights=file,
            aus=trained.detector.aus,
            intensity_aus=trained.detector.intensity_aus,
            plugin=find_owner(method),
            name=model,
        )
    run.register_model(name, scores=trained.scores, tags=tags, description=about, model=model)


def name_artifact(node: EvalNode, *, is_only: bool) -> str:
    """The file of a detector among the artifacts of its run."""
    return WEIGHTS_FILE if is_only else f"detector_{sanitize_filename(node.group.name)}.safetensors"


def _make_members(node: EvalNode, exports: Mapping[str, bytes]) -> tuple[list[Member], tuple[int, ...]]:
    """The networks of a detector, and the AUs whose intensities they estimate."""
    labels = {dataset.url: IntensityLabels.load(Dataset(dataset.url)) for dataset in node.group.sets}
    rated = {au for dataset in node.group.sets for au in labels[dataset.url].select_aus(dataset.aus)}
    intensity_aus = tuple(au for au in node.group.aus if au in rated)
    if node.has_own_head:
        keys = [node.final] if node.final else list(dict.fromkeys(node.models))
        return [SupervisedMember(load_export(exports[key])) for key in keys], intensity_aus
    method = load_export(exports[node.models[0]])
    embeddings = embed_sets(FrameEncoder(method.encoder), node.group.sets, job=node.variant.job)
    folds: Sequence[int | None] = [None] if node.detector_kind == "all" else list(node.group.folds)
    return [_make_probed(method, embeddings, node, folds, labels if rated else {})], intensity_aus


def _make_probed(
    method: Method,
    embeddings: Mapping[str, Embeddings],
    node: EvalNode,
    folds: Sequence[int | None],
    labels: Mapping[str, IntensityLabels],
) -> ProbedMember:
    probes = fit_fold_probes(embeddings, node, folds=folds)
    rated = fit_fold_intensities(embeddings, labels, node, folds=folds) if labels else []
    return ProbedMember(method, probes, [probe for probe in rated if probe is not None])


def _make_card(
    node: EvalNode,
    result: CalibrationResult,
    *,
    scores: Mapping[str, MethodScores],
    agreement: Mapping[str, IntensityScores],
) -> DetectorCard:
    """Plain values that say what a detector has learned from, and how well it did on people whom it had not seen."""
    manifests = {dataset.url: Dataset(dataset.url).manifest for dataset in node.group.sets}
    people = sorted({hash_identity(name) for dataset in node.group.sets for name in set(dataset.identity.tolist())})
    return {
        "name": name_detector(node),
        "row": node.variant.name,
        "method": node.variant.job.method.name,
        "seed": node.variant.job.seed,
        "protocol": node.protocol,
        "learned": DETECTORS[node.detector_kind],
        "data": [
            {
                "name": manifest.name,
                "fingerprint": manifest.fingerprint,
                "people": manifest.counts["identities"],
                "frames": manifest.counts["labelled_frames"],
                "licence": str(manifest.recipe.get("licence") or "not stated"),
                "consent": str(manifest.recipe.get("consent") or "not stated"),
            }
            for manifest in manifests.values()
        ],
        "people": people,
        "f1": {f"AU{au}": _describe_interval(interval) for au, interval in result.f1.items()},
        "mean_f1": _describe_interval(result.mean_f1),
        "f1_about": (
            "cross-validated over people, at thresholds and with calibration that were fitted on other people; 95 % "
            "intervals over people. The published F1 of the run is at a fixed threshold."
        ),
        "tables": {title: to_plain_number(row.mean) for title, row in scores.items()},
        "calibration": {f"AU{item.au}": _describe_calibration(item) for item in result.aus},
        "intensity": {
            title: {
                measure: {f"AU{au}": _describe_interval(line) for au, line in zip(row.aus, lines, strict=True)}
                for measure, lines in row.by_au.items()
            }
            for title, row in agreement.items()
        },
        "intended_use": INTENDED_USE,
        "versions": get_versions(),
    }


def _describe_interval(interval: Interval) -> CardInterval:
    value, low, high = map(to_plain_number, interval)
    return {"value": value, "low": low, "high": high}


def _describe_calibration(item: AUCalibration) -> AUCalibrationCard:
    return {
        "kind": item.curve.kind,
        "threshold": item.threshold,
        "ece_before": to_plain_number(item.before.bins.ece),
        "ece_after": to_plain_number(item.after.bins.ece),
        "log_loss_before": to_plain_number(item.before.log_loss),
        "log_loss_after": to_plain_number(item.after.log_loss),
        "frames": item.frames,
        "positives": item.positives,
        "people": item.people,
    }


def to_plain_number(value: float) -> float | None:
    """A float; None for nan, which JSON lacks."""
    (plain,) = to_plain([value])  # type: ignore[arg-type]
    return plain
