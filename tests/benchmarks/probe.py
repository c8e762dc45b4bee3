"""How fast the linear probe is cross-validated, beside the same probe trained by a plain PyTorch loop.

    python tests/benchmarks/probe.py [--frames 142000] [--features 512] [--aus 12] [--folds 3] [--epochs 30] [--rounds 1] [--out FILE]

Both train and test one probe a fold on the same features of 41 people, from the same first weights, over the same
batches, each with the number of torch's threads that suits it: the one with which an epoch takes the least time. (With
all cores of a machine a plain loop of steps this small is several times slower than with one, and that would be no
comparison.) On a busy machine the ratio of processor time, all threads together, says more than that of the clock.
What else such an evaluation does (F1, predictions as a table and as a file) is printed last.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

sys.path[:0] = [str(Path(__file__).parents[2] / "platform")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402

from facscale.data.folds import Split, make_folds  # noqa: E402
from facscale.data.labels import compute_label_weights  # noqa: E402
from facscale.evaluate import Predictions, count_confusions, count_positives, find_frames  # noqa: E402
from facscale.evaluate.probe import fit_probes, predict_probabilities  # noqa: E402
from facscale.nn.heads import LinearProbe  # noqa: E402
from facscale.nn.losses import masked_bce  # noqa: E402
from facscale.spec.models import Probe  # noqa: E402

PEOPLE = 41
COLUMNS = {
    "round": 0,
    "program": None,
    "threads": 0,
    "s": 2,
    "us a step": 0,
    "processor time, s": 2,
    "us a step, processor time": 0,
}
Probes = dict[int, LinearProbe]  # by fold
Fit = Callable[..., Probes]


class Faces(NamedTuple):
    """What an encoder would have made of a labelled set."""

    features: np.ndarray  # [N, D]
    au: np.ndarray  # [N, n]
    identity: np.ndarray  # [N]


class Run(NamedTuple):
    """What one of the two did."""

    clock: float  # seconds of fitting
    processor: float  # the same of all threads together
    testing: float  # seconds of predicting
    probability: list[np.ndarray]  # by fold
    f1: np.ndarray  # [folds, n]


class Watch:
    """`with Watch() as watch:` takes both times."""

    def __enter__(self) -> Self:
        self.clock, self.processor = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.clock, self.processor = time.perf_counter() - self.clock, time.process_time() - self.processor


def make_faces(options: argparse.Namespace) -> Faces:
    """Features that hold the AUs, each person's own look, and noise; 2 % of the labels are missing."""
    random = np.random.default_rng(0)
    identity = np.sort(random.integers(PEOPLE, size=options.frames))
    look = random.normal(size=(PEOPLE, options.features)).astype(np.float32)
    features = random.standard_normal((options.frames, options.features), np.float32) + look[identity]
    evidence = features[:, : options.aus] + random.standard_normal((options.frames, options.aus), np.float32)
    au = (evidence > np.linspace(0.5, 3.0, options.aus)).astype(np.int8)
    au[random.random(au.shape) < 0.02] = -1
    return Faces(features, au, np.array([f"F{person:03d}" for person in range(PEOPLE)])[identity])


def fit_plainly(features: np.ndarray, *, au: np.ndarray, rows: Mapping[int, np.ndarray], probe: Probe) -> Probes:
    """As `fit_probes`, one after the other."""
    return {
        seed: fit_one_plainly(features[chosen], au=au[chosen], probe=probe, seed=seed) for seed, chosen in rows.items()
    }


def fit_one_plainly(features: np.ndarray, *, au: np.ndarray, probe: Probe, seed: int) -> LinearProbe:
    """The probe as a plain loop: autograd, nn.BatchNorm1d and torch.optim.Adam, the batches gathered by indexing."""
    x, y = torch.from_numpy(features), torch.from_numpy(au)
    weights = torch.from_numpy(compute_label_weights(au, weighting="class"))
    labelled = (y >= 0).any(dim=1)
    x, y = x[labelled], y[labelled]
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = LinearProbe(dim=x.shape[1], aus=y.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=probe.lr, weight_decay=probe.weight_decay)
    for _ in range(probe.epochs):
        for rows in torch.split(torch.randperm(len(x), generator=random), probe.batch_size):
            if len(rows) == 1:
                continue
            loss = masked_bce(model(x[rows]), au=y[rows], weights=weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def evaluated(fit: Fit, faces: Faces, *, split: Split, probe: Probe) -> Run:
    """Cross-validate it, the probes of all folds at once where `fit` can."""
    rows = {number: find_frames(fold.train, identity=faces.identity) for number, fold in enumerate(split)}
    with Watch() as fitting:
        models = fit(faces.features, au=faces.au, rows=rows, probe=probe)
    testing, probability, f1 = 0.0, [], []
    for number, fold in enumerate(split):
        test = find_frames(fold.test, identity=faces.identity)
        with Watch() as watch:
            probability.append(predict_probabilities(models[number], features=faces.features[test]))
        testing += watch.clock
        f1.append(count_confusions(probability=probability[-1], au=faces.au[test]).f1)
    return Run(fitting.clock, fitting.processor, testing, probability, np.stack(f1))


def choose_threads(fit: Fit, faces: Faces, *, probe: Probe) -> int:
    """The number of torch's threads with which `fit` takes the least time for an epoch of all frames."""
    cores = len(os.sched_getaffinity(0))
    seconds, everything = {}, {0: np.arange(len(faces.au))}
    for threads in sorted({1, 2, 4, cores // 2, cores} & set(range(1, cores + 1))):
        torch.set_num_threads(threads)
        with Watch() as watch:
            fit(faces.features, au=faces.au, rows=everything, probe=probe.model_copy(update={"epochs": 1}))
        seconds[threads] = watch.clock
    best = min(seconds, key=lambda threads: seconds[threads])
    times = ", ".join(f"{clock:.2f} s with {threads}" for threads, clock in seconds.items())
    print(f"{'facscale' if fit is fit_probes else 'plain loop'}: an epoch in {times}: {best} threads of torch are used")
    return best


def compare(faces: Faces, *, split: Split, probe: Probe, threads: tuple[int, int], table: ResultWriter) -> Run:
    """Print and write one round, and return ours; `threads` of the plain loop and of ours."""
    torch.set_num_threads(threads[0])
    theirs = evaluated(fit_plainly, faces, split=split, probe=probe)
    torch.set_num_threads(threads[1])
    ours = evaluated(fit_probes, faces, split=split, probe=probe)
    steps = probe.epochs * sum(
        -(-len(find_frames(fold.train, identity=faces.identity)) // probe.batch_size) for fold in split
    )
    print(f"{'':<12}{'seconds':>10}{'us a step':>12}{'processor seconds':>20}{'us a step':>12}")
    number = 1 + len(table.rows) // 2
    for (name, run), used in zip({"plain loop": theirs, "facscale": ours}.items(), threads, strict=True):
        clock, processor = 1e6 * run.clock / steps, 1e6 * run.processor / steps
        print(f"{name:<12}{run.clock:10.2f}{clock:12.0f}{run.processor:20.2f}{processor:12.0f}")
        table.add(number, name, used, run.clock, clock, run.processor, processor)
    print(f"{'ratio':<12}{theirs.clock / ours.clock:10.1f}{'':12}{theirs.processor / ours.processor:20.1f}")
    apart = max(np.abs(one - other).max() for one, other in zip(theirs.probability, ours.probability, strict=True))
    f1 = np.abs(theirs.f1 - ours.f1).max()
    print(f"largest difference: {apart:.1e} of a probability, {f1:.1e} of an F1 (mean F1 {np.nanmean(ours.f1):.3f})\n")
    return ours


def rest(faces: Faces, run: Run, *, split: Split) -> None:
    """Print what else an evaluation of this size takes."""
    tests = [find_frames(fold.test, identity=faces.identity) for fold in split]

    def joined() -> Predictions:
        pieces = [
            Predictions(
                "x", tuple(range(1, faces.au.shape[1] + 1)), probability, faces.au[test], faces.identity[test],
                np.repeat("T1", len(test)), test.astype(np.int32), np.zeros(len(test), np.int8), (fold.name,),
            )
            for fold, test, probability in zip(split, tests, run.probability, strict=True)
        ]  # fmt: skip
        return Predictions.concat(pieces)

    predictions = joined()
    data = predictions.to_parquet()
    parts: dict[str, Callable[[], Any]] = {
        "building the predictions": joined,
        "F1 by fold and AU": lambda: predictions.score(0.5),
        "predictions to Parquet": predictions.to_parquet,
        "Parquet to predictions": lambda: Predictions.from_parquet(data),
        "the video with most change": predictions.find_most_changing_video,
    }
    print(f"the rest, in seconds: {run.testing:.2f} predicting", end="")
    for name, part in parts.items():
        with Watch() as watch:
            part()
        print(f", {watch.clock:.2f} {name}", end="")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"frames": 142_000, "features": 512, "aus": 12, "folds": 3, "epochs": 30, "rounds": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    add_out_option(parser)
    options = parser.parse_args()
    faces = make_faces(options)
    split = make_folds(
        faces.identity, k=options.folds, seed=0, positives=count_positives(faces.au, identity=faces.identity)
    )
    print(f"{options.frames} frames; {len(os.sched_getaffinity(0))} cores; torch {torch.__version__}")
    for fit in (fit_plainly, fit_probes):  # what happens once in a process
        fit(faces.features, au=faces.au, rows={0: np.arange(1000)}, probe=Probe(epochs=1))
    probe = Probe(epochs=options.epochs)
    threads = (choose_threads(fit_plainly, faces, probe=probe), choose_threads(fit_probes, faces, probe=probe))
    title = f"Cross-validated probe: {options.frames:,} x {options.features} features, {options.aus} AUs, {options.folds} folds"
    with ResultWriter(options.out, title=title, columns=COLUMNS, threads=threads[1]) as table:
        for _ in range(options.rounds):
            ours = compare(faces, split=split, probe=probe, threads=threads, table=table)
    rest(faces, ours, split=split)


if __name__ == "__main__":
    main()
