"""Can TCAE learn the true movements at all? It fits a few pairs of rendered frames, and its displacements meet the truth.

    python tests/benchmarks/tcae_overfit.py [--pairs 16] [--steps 300] [--out FILE]

Its full schedule has 82,000 steps, which no CPU does. A few pairs take a few hundred steps with Adam, all of them in each
step and without the curriculum. Shown are the error of the rebuilt target as a share of the source's own, and Pearson's
correlation of the displacements (AUs, pose, both) with the true ones where only AUs move, only the head, or both.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
from results import ResultWriter, add_out_option
from tcae_rate import compute_left_error

from facscale.evaluate.disentangle import compare_flow, predict_motion, to_tensor
from facscale.methods import DataFacts, find_method
from facscale.methods.tcae import TCAE
from facscale.spec.pipelines import Crop
from facscale.synthetic.ground_truth import GroundTruth, load_ground_truth

MOVED = {"AUs": ("au", "au"), "pose": ("pose", "pose"), "both": ("all", "all")}  # displacement, and what truly moves
REPORTS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "facscale-benchmarks")
    add_out_option(parser)
    options = parser.parse_args()
    truth = load_ground_truth(people=options.pairs, size=options.size, crop=Crop(), cache=options.cache)
    every = len(truth.source) // options.pairs
    truth = select_pairs(truth, np.arange(0, options.pairs * every, every))  # one of each person
    columns = {"steps": None, "error, of the source's": 2, **{f"correlation, {name}": 2 for name in MOVED}}
    with ResultWriter(
        options.out, title=f"TCAE fits {options.pairs} pairs of rendered frames", columns=columns
    ) as table:
        for step, measures in fit(truth, steps=options.steps, rate=options.rate, size=options.size):
            table.add(step, *measures)
            print(
                step,
                *(f"{name} {value:.2f}" for name, value in zip(list(columns)[1:], measures, strict=True)),
                flush=True,
            )


def select_pairs(truth: GroundTruth, pairs: np.ndarray) -> GroundTruth:
    """Keep some pairs, and all frames."""
    return dataclasses.replace(
        truth,
        source=truth.source[pairs],
        target=truth.target[pairs],
        origin={kind: flow[pairs] for kind, flow in truth.origin.items()},
        valid={kind: mask[pairs] for kind, mask in truth.valid.items()},
    )


def fit(truth: GroundTruth, *, steps: int, rate: float, size: int):
    """Train on all pairs in each step; yields (step, measures) a few times."""
    torch.manual_seed(0)
    kind = find_method("tcae")
    method = kind(kind.Config(), DataFacts(image_size=size)).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=rate)
    source, target = (to_tensor(truth.images[frames], "cpu") for frames in (truth.source, truth.target))
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        errors = method.compute_errors(source, target)
        sum(method.weights[name] * error.mean() for name, error in errors.items()).backward()
        optimizer.step()
        if step % max(1, steps // REPORTS) == 0:
            yield step, measure(method, truth)


@torch.no_grad()
def measure(method: TCAE, truth: GroundTruth) -> list[float]:
    """The share of the source's error that is left, and the correlations."""
    motions = predict_motion(method, truth, device="cpu")
    source, target = (to_tensor(truth.images[frames], "cpu") for frames in (truth.source, truth.target))
    shifts = torch.from_numpy(motions["all"]).permute(0, 3, 1, 2) * 2 / (source.shape[-1] - 1)
    flows = (
        compare_flow(motions[name], truth.origin[kind], valid=truth.valid[kind])["correlation"]
        for name, kind in MOVED.values()
    )
    return [compute_left_error(source, target, shifts), *flows]


if __name__ == "__main__":
    main()
