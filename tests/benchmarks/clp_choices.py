"""Choices that CLP's paper leaves open, tried on the demo's rendered faces: how much does the F1 of a probe depend on each?

    facscale demo --folder demo --stop     after a first `facscale demo --folder demo`, whose data sets are used
    FACSCALE_DATA=demo/data python tests/benchmarks/clp_choices.py [--seeds 3] [--only shared "T 0.2"] [--epochs 30] [--out FILE]

Every row is jobs/demo.yaml with one change, trained without Ray in this process (four minutes of a core each). A linear
probe on the frozen encoder is cross-validated on frames of the labelled set, people apart. Printed are the mean F1 x 100
of the seeds, and the difference to the first row with its 95 % interval: Student's t over the seeds, which are paired, as
each begins with the same weights and samples in every row.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "tests")]

from results import ResultWriter, add_out_option  # noqa: E402
from scipy.stats import t as student  # noqa: E402

from crossval import cross_validate  # noqa: E402
from facscale.data import Dataset, augment  # noqa: E402
from facscale.data.folds import make_folds  # noqa: E402
from facscale.evaluate import count_positives  # noqa: E402
from facscale.inference.export import load_export  # noqa: E402
from facscale.methods import DataFacts, configure  # noqa: E402
from facscale.spec import read_spec  # noqa: E402
from facscale.train.local import LocalTrainer  # noqa: E402
from facscale.train.online_probe import read_spread_frames  # noqa: E402
from facscale.train.task import TrainingTask  # noqa: E402

CHOICES: dict[str, list[str]] = {
    "as the demo": [],
    "shared": ["method.clip_augmentation=shared"],
    "T 0.2": ["method.temperature=0.2"],
    "T 0.5": ["method.temperature=0.5"],
    "no jitter": ["data.augment={brightness: 0, contrast: 0, saturation: 0, rotation: 3, crop: [0.95, 1.0]}"],
    "strong jitter": [
        "data.augment={brightness: 0.8, contrast: 0.8, saturation: 0.8, hue: 0.2, rotation: 3, crop: [0.95, 1.0]}"
    ],
    "jobs/clp.yaml's crops": ["data.augment={rotation: 10, crop: [0.8, 1.0]}"],
}
FIXED = ["train.probe_every=0", "cluster.workers=1", "cluster.gpus_per_worker=0", "train.checkpoint_every=100000"]
PROBE_FRAMES = 3000
CHUNK = 200
F1 = "F1 x 100, mean"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--only", nargs="+", default=list(CHOICES), choices=list(CHOICES), metavar="ROW")
    add_out_option(parser)
    options = parser.parse_args()
    columns = {"row": None, **{f"seed {seed}": 1 for seed in range(options.seeds)}, F1: 1, "difference, 95 %": None}
    with ResultWriter(options.out, title="Choices that CLP's paper leaves open", columns=columns) as table:
        compare(options, table)


def compare(options: argparse.Namespace, table: ResultWriter) -> None:
    """Train and judge each row with each seed."""
    reference: list[float] = []
    print(f"{'row':22}  F1 x 100 of the seeds, mean; difference to the first row with its 95 % interval")
    for row in options.only:
        with tempfile.TemporaryDirectory() as runs:
            os.environ["FACSCALE_RUNS"] = runs
            scores = [score(CHOICES[row], seed=seed, epochs=options.epochs) for seed in range(options.seeds)]
        reference = reference or scores
        seeds = "  ".join(f"{value:.1f}" for value in scores)
        difference = format_difference(scores, reference) if scores is not reference else ""
        print(f"{row:22}  {seeds}, {statistics.mean(scores):.1f}; {difference}", flush=True)
        mean = statistics.mean(scores)
        table.add(row, *scores, (mean, statistics.stdev(scores)) if len(scores) > 1 else mean, difference or None)


def score(overrides: Sequence[str], *, seed: int, epochs: float) -> float:
    """Train one row with one seed, and return 100 times the mean F1 of a probe on its encoder."""
    document = read_spec(ROOT / "jobs" / "demo.yaml", [*FIXED, *overrides, f"seed={seed}", f"train.epochs={epochs}"])
    job, _, config = configure(document)
    artifact = LocalTrainer().fit(TrainingTask(job, config, DataFacts()), name=f"seed-{seed}")
    dataset = Dataset(job.data.urls("labelled")[0])
    images, au, identity = read_spread_frames(dataset, count=PROBE_FRAMES)
    encoder = load_export(artifact.export).encoder.eval()
    parameters = torch.from_numpy(augment.eval_params(job.data.augment))
    features = []
    with torch.no_grad():
        for chunk in torch.from_numpy(images).split(CHUNK):
            faces = augment.apply(chunk, parameters.expand(len(chunk), -1), size=job.data.image_size)
            features.append(encoder(faces).numpy())
    frames_by_person = count_positives(au, identity=identity)
    split = make_folds(frames_by_person, k=job.evaluate.folds, seed=job.evaluate.seed, positives=frames_by_person)
    table = cross_validate(
        np.concatenate(features), au=au, identity=identity, aus=dataset.manifest.au, split=split, name="probe"
    )
    return 100 * float(next(iter(table.rows)).mean)


def format_difference(scores: Sequence[float], reference: Sequence[float]) -> str:
    """Mean of the paired differences with its 95 % interval by Student's t; a single seed has none."""
    differences = [score - base for score, base in zip(scores, reference, strict=True)]
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f}"
    half = student.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


if __name__ == "__main__":
    main()
