"""Measures of a trained method beyond F1, taken once and kept beside the runs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch

from facscale.data import Dataset, augment
from facscale.data.augment import Augmenter
from facscale.data.storage import Folder
from facscale.data.stream import Stream
from facscale.data.views import RandomFrames
from facscale.evaluate.diagnostics import effective_rank
from facscale.evaluate.disentangle import measure_disentanglement
from facscale.evaluate.identity import identity_accuracy
from facscale.evaluate.motion import measure_motion
from facscale.evaluate.protocol import LabelledDataset
from facscale.inference.export import load_export
from facscale.inference.models import FrameEncoder
from facscale.inference.retrieval import recall_at_k
from facscale.job.evaluator import embed_frames
from facscale.job.variants import hash_values
from facscale.methods import Method
from facscale.names import expand_cache
from facscale.spec import Job
from facscale.spec.models import EpochBlock
from facscale.spec.pipelines import Crop
from facscale.spec.renamed import restore_old_names
from facscale.train.setup import select_unlabelled_people
from facscale.train.trainer import storage_url

if TYPE_CHECKING:  # the renderer takes a second, which jobs without rendered faces do not wait for
    from facscale.synthetic.ground_truth import GroundTruth

VERSION = 1  # rises when the same export is measured otherwise
TRUTH_CACHE = expand_cache("~/.cache/facscale/truth")
RANK_FRAMES = 10_000  # for the effective rank, at most
PAIR_BATCH = 64
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measures:
    """Metrics by name, and the lengths of movements, one for each pair of frames (`evaluate.motion`)."""

    values: dict[str, float]
    lengths: dict[str, list[float]]


def measure(export: bytes, *, job: Job, labelled: Sequence[LabelledDataset], fingerprints: Sequence[str]) -> Measures:
    """Measure an exported method, or read what was measured before. Of the labelled sets only the first is used."""
    evaluate = {"evaluate": job.evaluate.model_dump(mode="json", exclude={"baselines"})}
    spec = {**restore_old_names(evaluate), "crop": list(job.data.augment.crop)}
    if job.data.augment.eval_crop:
        spec["eval_crop"] = job.data.augment.eval_crop
    parts = [job.data.validation, job.data.test, job.seed]
    key = hash_values([VERSION, hashlib.sha256(export).hexdigest(), spec, parts, list(fingerprints)])
    folder = Folder(f"{storage_url(job)}/measures")
    if (earlier := read_measures(folder, f"{key}.json")) is not None:
        return earlier
    method = load_export(export)
    values = measure_frames(method, labelled[0], job=job) if labelled else {}
    if job.evaluate.rendered_people or has_motion_pairs(method, job=job):
        cluster = job.cluster
        options = {"num_cpus": cluster.cpus_per_worker, "num_gpus": cluster.gpus_per_worker}
        truth = ray.put(render_ground_truth(job, labelled)) if job.evaluate.rendered_people else None
        on_device = ray.get(ray.remote(measure_on_device).options(**options).remote(export, truth, job))
        measures = Measures(values | on_device.values, on_device.lengths)
    else:  # a worker would start for nothing
        measures = Measures(values, {})
    folder.write(f"{key}.json", json.dumps(asdict(measures)).encode())
    return measures


def read_measures(folder: Folder, name: str) -> Measures | None:
    """What was measured before; None where nothing was, or where the file is damaged, so that it is measured again."""
    try:
        values = json.loads(folder.read(name))
        return Measures(dict(values["values"]), dict(values["lengths"]))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        log.warning("%s/%s is damaged: it is measured again", folder.url, name)
        return None


def measure_frames(method: Method, dataset: LabelledDataset, *, job: Job) -> dict[str, float]:
    """Identity leakage, effective rank and recall of the encoder's embedding of labelled frames."""
    embeddings = embed_frames(FrameEncoder(method.encoder), dataset, job=job)
    sample = np.random.default_rng(0).permutation(len(embeddings))[:RANK_FRAMES]
    features, identity = embeddings.features, embeddings.identity
    values = {
        "identity/accuracy": identity_accuracy(features, identity=identity, video=embeddings.video),
        "effective_rank": effective_rank(torch.from_numpy(features[np.sort(sample)])),
        **recall_at_k(features, au=embeddings.au, identity=identity),
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def measure_on_device(export: bytes, truth: GroundTruth | None, job: Job) -> Measures:
    """What needs the accelerator: rendered faces with known truth, and pairs of frames of people who were not trained on."""
    device = torch.device("cuda" if job.cluster.gpus_per_worker else "cpu")
    method = load_export(export).to(device)
    values = measure_disentanglement(method, truth, device=device) if truth else {}
    lengths = measure_pairs(method, job=job, device=device)
    values |= {f"movement/{name}/length": float(np.mean(of_pairs)) for name, of_pairs in lengths.items()}
    return Measures(values, {name: of_pairs.tolist() for name, of_pairs in lengths.items()})


def render_ground_truth(job: Job, labelled: Sequence[LabelledDataset]) -> GroundTruth:
    """Rendered faces as the encoder sees those of the labelled data: with their crop, and the centre crop of evaluation."""
    recipe: dict[str, Any] = Dataset(labelled[0].url).manifest.recipe.get("crop", {}) if labelled else {}
    crop, side = Crop.model_validate(recipe), augment.get_eval_crop(job.data.augment)
    visible = crop.model_copy(
        update={
            "eyes_distance": crop.eyes_distance / side,
            "eyes_y": 0.5 + (crop.eyes_y - 0.5) / side,
            "margin": 0.0,
        }
    )
    from facscale.synthetic.ground_truth import load_ground_truth

    return load_ground_truth(
        people=job.evaluate.rendered_people, size=job.data.image_size, crop=visible, cache=TRUTH_CACHE
    )


def has_motion_pairs(method: Method, *, job: Job) -> bool:
    """Whether a method predicts motion between two frames, and the job has pairs of frames to measure it on."""
    if not (job.data.urls("unlabelled") and job.evaluate.pairs):
        return False
    blank = torch.zeros(2, 1, 3, job.data.image_size, job.data.image_size, device=next(method.parameters()).device)
    return bool(method.predict_motion(*blank))


def measure_pairs(method: Method, *, job: Job, device: torch.device) -> dict[str, np.ndarray]:
    """`evaluate.motion` on `evaluate.pairs` pairs of frames of test people, or of all people where none are set aside."""
    if not has_motion_pairs(method, job=job):
        return {}
    datasets = [Dataset(url) for url in job.data.urls("unlabelled")]
    epoch = EpochBlock(samples_per="frame")
    spec = job.data.model_copy(update={"augment": augment.eval_config(job.data.augment), "epoch": epoch})
    people = select_unlabelled_people(job, datasets, part="test" if job.data.test else "train")
    views = {"pair": RandomFrames(count=2)}
    stream = Stream(datasets, views, spec=spec, batch_size=PAIR_BATCH, seed=job.seed, subjects=people, is_short=True)
    prepare = Augmenter(size=job.data.image_size)
    with closing(stream.batches()) as batches:
        return measure_motion(method, (prepare(batch.to(device)) for batch in batches), pairs=job.evaluate.pairs)
