"""What a trained method is worth beyond F1: measured once, and kept beside the runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import ray
import torch

from facscale.data import Dataset, augment
from facscale.data.augment import Augmenter
from facscale.data.stream import Stream
from facscale.data.views import Frames
from facscale.evaluate.diagnostics import effective_rank
from facscale.evaluate.disentangle import disentanglement
from facscale.evaluate.identity import identity_accuracy
from facscale.evaluate.lengths import lengths
from facscale.inference import export
from facscale.inference.embed import OfFace
from facscale.inference.retrieval import recall
from facscale.job.judge import embedded
from facscale.job.labelled import Labelled
from facscale.job.variants import digest
from facscale.methods import Method
from facscale.spec import Job
from facscale.spec.pipelines import Crop
from facscale.synthetic.truth import Truth, truth
from facscale.train.trainer import storage
from facscale.train.worker import people, urls

VERSION = 1  # rises when the same export is measured otherwise
TRUTH = Path("~/.cache/facscale/truth").expanduser()
RANKED = 10_000  # frames of the effective rank, at most
PAIRS = 64  # looked at together


@dataclass(frozen=True)
class Measures:
    """Figures by name, as the tracker takes them, and the lengths of movements, one a pair (`evaluate.lengths`)."""

    values: dict[str, float]
    lengths: dict[str, list[float]]


def measure(exported: bytes, *, job: Job, on: Sequence[Labelled], fingerprints: Sequence[str]) -> Measures:
    """Of an exported method; from the storage where it was measured before. `on`: the first set alone is looked at."""
    spec = {
        "evaluate": job.evaluate.model_dump(mode="json", exclude={"baselines"}),
        "crop": list(job.data.augment.crop),
    }
    parts = [job.data.validation, job.data.test, job.seed]
    key = digest([VERSION, hashlib.sha256(exported).hexdigest(), spec, parts, list(fingerprints)])
    store, folder = fsspec.core.url_to_fs(f"{storage(job)}/measures")
    place = f"{folder}/{key}.json"
    if store.exists(place):
        return Measures(**json.loads(store.cat_file(place)))
    values = of_frames(exported, job=job, on=on[0]) if on else {}
    ask = ray.remote(on_a_worker).options(num_cpus=job.cluster.cpus_per_worker, num_gpus=job.cluster.gpus_per_worker)
    known = ray.put(known_faces(job, on)) if job.evaluate.rendered_people else None
    moved = ray.get(ask.remote(exported, known, job))
    found = Measures(values | moved.values, moved.lengths)
    store.makedirs(folder, exist_ok=True)
    store.pipe_file(place, json.dumps(asdict(found)).encode())
    return found


def of_frames(exported: bytes, *, job: Job, on: Labelled) -> dict[str, float]:
    """Identity leakage, effective rank and recall of the encoder's embedding of labelled frames."""
    found = embedded(OfFace(export.load(exported).encoder), job=job, on=on)
    some = np.random.default_rng(0).permutation(len(found))[:RANKED]
    values = {
        "identity/accuracy": identity_accuracy(found.features, identity=found.identity, video=found.video),
        "effective_rank": effective_rank(torch.from_numpy(found.features[np.sort(some)])),
        **recall(found.features, au=found.au, identity=found.identity),
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def on_a_worker(exported: bytes, known: Truth | None, job: Job) -> Measures:
    """What wants the accelerator: rendered faces with known truth, and pairs of frames of people who were not trained on."""
    device = torch.device("cuda" if job.cluster.gpus_per_worker else "cpu")
    method = export.load(exported).to(device)
    values = disentanglement(method, known, device=device) if known else {}
    far = movement_lengths(method, job=job, device=device)
    values |= {f"movement/{name}/length": float(np.mean(of_pairs)) for name, of_pairs in far.items()}
    return Measures(values, {name: of_pairs.tolist() for name, of_pairs in far.items()})


def known_faces(job: Job, on: Sequence[Labelled]) -> Truth:
    """Rendered faces as the encoder sees those of the labelled data: their crop, and the centre crop of evaluation."""
    recipe: dict[str, Any] = Dataset(on[0].url).manifest.recipe.get("crop", {}) if on else {}
    crop, side = Crop.model_validate(recipe), float(augment.still(job.data.augment)[6])
    seen = crop.model_copy(
        update={"eyes_distance": crop.eyes_distance / side, "eyes_y": 0.5 + (crop.eyes_y - 0.5) / side}
    )
    return truth(people=job.evaluate.rendered_people, size=job.data.image_size, crop=seen, cache=TRUTH)


def movement_lengths(method: Method, *, job: Job, device: torch.device) -> dict[str, np.ndarray]:
    """`evaluate.lengths` over `evaluate.pairs` pairs of test people, or of all where none are set aside."""
    datasets = [Dataset(url) for url in urls(job, "unlabelled")]
    tells = method.movements(*torch.zeros(2, 1, 3, job.data.image_size, job.data.image_size, device=device))
    if not (tells and datasets and job.evaluate.pairs):
        return {}
    spec = job.data.model_copy(update={"augment": augment.plain(job.data.augment), "per_track": "all"})
    tested = people(job, datasets, part="test" if job.data.test else "train")
    stream = Stream(datasets, {"pair": Frames(count=2)}, spec=spec, batch_size=PAIRS, seed=job.seed, subjects=tested)
    prepare = Augmenter(size=job.data.image_size)
    with closing(stream.batches()) as batches:
        return lengths(method, (prepare(batch.to(device)) for batch in batches), pairs=job.evaluate.pairs)
