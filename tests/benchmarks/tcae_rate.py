"""TCAE's losses as the paper weighs them and as its code does (ten times as much), at the learning rate that both give.

SGD without weight decay makes the same steps with ten times the losses as with ten times the rate, so the code's losses
at 0.001 are the paper's at 0.01. Both rates train on pairs of rendered frames, and are compared on people that they have
not seen: the error of the reconstructed target as a share of the source's own, and the lengths of the displacements.

    python tests/benchmarks/tcae_rate.py --steps 300 --seeds 3 [--out FILE]
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from results import ResultWriter, add_out_option
from torch import Tensor

from facscale.data.views import Batch, Faces
from facscale.methods import DataFacts, find_method
from facscale.methods.base import sum_losses
from facscale.nn.displacement import warp
from facscale.spec.pipelines import Crop
from facscale.synthetic.ground_truth import CLIPS, FRAMES, load_ground_truth

COLUMNS = {"rate": None, "seed": 0, "steps": 0, "error, of the source's": 4, "AU length": 4, "pose length": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001, 0.01])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--people", type=int, default=24, help="a quarter of them are tested")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "facscale-benchmarks")
    add_out_option(parser)
    options = parser.parse_args()
    title = "TCAE's losses at two learning rates; the paper's lengths are 0.008 and 0.044"
    with ResultWriter(options.out, title=title, columns=COLUMNS) as table:
        compare(options, table)


def compare(options: argparse.Namespace, table: ResultWriter) -> None:
    """Train with each rate and seed."""
    faces = load_clips(people=options.people, size=options.size, cache=options.cache)
    tested = faces[: len(faces) // 4]
    print(f"{'rate':>6}  seed  steps  error / source's   AU length  pose length   (paper: 0.008, 0.044)")
    for rate in options.rates:
        finals = []
        for seed in range(options.seeds):
            for step, measures in train(faces[len(tested) :], tested, rate=rate, seed=seed, options=options):
                print(
                    f"{rate:6g}  {seed:4}  {step:5}  " + "  ".join(f"{value:14.4f}" for value in measures), flush=True
                )
                table.add(rate, seed, step, *measures)
            finals.append(measures[0])
        spread = statistics.stdev(finals) if len(finals) > 1 else math.nan
        print(f"{rate:6g}: {statistics.mean(finals):.4f} ± {spread:.4f} after {options.steps} steps", flush=True)


def load_clips(*, people: int, size: int, cache: Path) -> Tensor:
    """Rendered clips [people * CLIPS, FRAMES, 3, size, size] in [0, 1], person by person."""
    truth = load_ground_truth(people=people, size=size, crop=Crop(), cache=cache)
    images = torch.from_numpy(truth.images).permute(0, 3, 1, 2).float() / 255
    assert len(images) == people * CLIPS * FRAMES
    return images.unflatten(0, (people * CLIPS, FRAMES))


def draw_pairs(clips: Tensor, *, count: int, random: np.random.Generator) -> Batch:
    """Two different frames of each of `count` clips."""
    rows = random.integers(len(clips), size=count)
    frames = np.stack([random.permutation(clips.shape[1])[:2] for _ in range(count)])
    pairs = torch.stack([clips[row, pair] for row, pair in zip(rows, torch.from_numpy(frames), strict=True)])
    return Batch(pair=Faces(pairs[:, :, None], torch.from_numpy(rows), torch.empty(0)))


def train(clips: Tensor, tested: Tensor, *, rate: float, seed: int, options: argparse.Namespace):
    """Train TCAE with the paper's weights; yields (step, measures) a few times."""
    torch.manual_seed(seed)
    kind = find_method("tcae")
    method = kind(kind.Config(), DataFacts(image_size=options.size)).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=rate, momentum=0.9)
    random = np.random.default_rng(seed)
    held_out = draw_pairs(tested, count=256, random=np.random.default_rng(0))
    for step in range(1, options.steps + 1):
        optimizer.zero_grad()
        sum_losses(method.twin_cycles(draw_pairs(clips, count=options.batch, random=random))).backward()
        optimizer.step()
        if step % max(1, options.steps // 3) == 0:
            yield step, measure(method.eval(), held_out)
            method.train()


def compute_left_error(source: Tensor, target: Tensor, displacements: Tensor) -> float:
    """The error of the target as rebuilt by displacements (`nn.displacement`), as a share of the source's own."""
    return ((warp(source, displacements) - target).abs().mean() / (source - target).abs().mean()).item()


@torch.no_grad()
def measure(method, batch: Batch) -> tuple[float, float, float]:
    """The share of the source's error that is left, and the mean lengths of AU and pose displacements."""
    source, target = batch.pair.images[:, :, 0].unbind(1)
    twins = method.encoder.embed_twins
    motion = method._predict_displacements(twins(source), twins(target))
    left = compute_left_error(source, target, motion.combined)
    return left, motion.au.norm(dim=1).mean().item(), motion.pose.norm(dim=1).mean().item()


if __name__ == "__main__":
    main()
