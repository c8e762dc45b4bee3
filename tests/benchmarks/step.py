"""What a training step costs beside plain PyTorch and beside lightly, on the same network and batch, as ratios.

    pip install --no-deps --target /tmp/lightly lightly      # a folder of its own: it wants other versions than ours
    python tests/benchmarks/step.py [--lightly /tmp/lightly] [--depth 18] [--size 96] [--batch 32] [--rounds 5] [--out FILE]

MoCo and SimSiam, each by four hands: a plain loop (the network, the loss, SGD, nothing else); lightly's heads, loss,
memory bank and momentum update; and facscale's loop with its method and DeepSpeed at ZeRO stages 0 and 1. All train the
same ResNet on the same batch of two views, which is in memory and augmented already, so that the step alone is measured.
They take turns, a few steps each; a ratio is that of neighbouring measurements, and the median of the rounds is printed
with its spread: whatever else the machine does falls on all alike. On a busy machine the ratio of processor time says
more than that of the clock.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "platform"), str(HERE.parent)]

import torch  # noqa: E402
from results import ResultWriter, add_out_option  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.functional import cosine_similarity, cross_entropy, normalize  # noqa: E402

from facscale.data.views import Batch  # noqa: E402
from facscale.inference.export import build_method_for_job  # noqa: E402
from facscale.methods import DataFacts, find_method  # noqa: E402
from facscale.nn import ResNet  # noqa: E402
from facscale.spec import Job  # noqa: E402
from facscale.testing import make_random_batch  # noqa: E402
from facscale.train.engine import Engine  # noqa: E402
from facscale.train.local import join_process_group  # noqa: E402
from facscale.train.loop import take_steps  # noqa: E402
from facscale.train.schedule import Schedule  # noqa: E402
from facscale.train.state import TrainState  # noqa: E402

QUEUE, DIM, TEMPERATURE, MOMENTUM = 4096, 128, 0.07, 0.999
PROJECTION, BOTTLENECK = 512, 128
COLUMNS = {
    "method": None,
    "program": None,
    "ms a step": 1,
    "clock, of plain": 2,
    "smallest": 2,
    "largest": 2,
    "processor time, of plain": 2,
}
Step = Callable[[], object]


def optimise(modules: list[nn.Module]) -> torch.optim.SGD:
    """The optimizer that all use."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.SGD(parameters, lr=0.03, momentum=0.9, weight_decay=1e-4)


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of it."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def make_projector(dim: int) -> nn.Sequential:
    """SimSiam's projector: three layers with BatchNorm."""
    sizes = [(dim, PROJECTION), (PROJECTION, PROJECTION), (PROJECTION, PROJECTION)]
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(sizes):
        is_last = number == len(sizes) - 1
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=not is_last)]
        layers += [] if is_last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def plain_moco(network: ResNet, views: tuple[Tensor, Tensor]) -> Step:
    """MoCo as a page of PyTorch."""
    query = nn.Sequential(copy.deepcopy(network), nn.Linear(network.dim, DIM))
    key = copy.deepcopy(query).requires_grad_(False)
    optimizer, place = optimise([query]), itertools.count()
    queue = normalize(torch.randn(QUEUE, DIM), dim=1)
    averages, sources = list(key.parameters()), list(query.parameters())

    def step() -> None:
        q = normalize(query(views[0]), dim=1)
        with torch.no_grad():
            k = normalize(key(views[1]), dim=1)
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T.clone()], 1) / TEMPERATURE
        update(optimizer, cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64)))
        with torch.no_grad():
            first = next(place) * len(k) % QUEUE
            queue[first : first + len(k)] = k
            torch._foreach_lerp_(averages, sources, 1 - MOMENTUM)

    return step


def plain_simsiam(network: ResNet, views: tuple[Tensor, Tensor]) -> Step:
    """SimSiam as a page of PyTorch."""
    encoder, projector = copy.deepcopy(network), make_projector(network.dim)
    predictor = nn.Sequential(
        nn.Linear(PROJECTION, BOTTLENECK, bias=False),
        nn.BatchNorm1d(BOTTLENECK),
        nn.ReLU(inplace=True),
        nn.Linear(BOTTLENECK, PROJECTION),
    )
    optimizer = optimise([encoder, projector, predictor])

    def step() -> None:
        z = [projector(encoder(view)) for view in views]
        p = [predictor(value) for value in z]
        pairs = ((p[0], z[1]), (p[1], z[0]))
        update(optimizer, -sum(cosine_similarity(a, b.detach(), dim=1).mean() / 2 for a, b in pairs))

    return step


def lightly_moco(network: ResNet, views: tuple[Tensor, Tensor]) -> Step:
    """MoCo from lightly's parts, as in its documentation."""
    from lightly.loss import NTXentLoss
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    query = nn.Sequential(copy.deepcopy(network), nn.Linear(network.dim, DIM))
    key = copy.deepcopy(query)
    deactivate_requires_grad(key)
    criterion, optimizer = NTXentLoss(TEMPERATURE, memory_bank_size=(QUEUE, DIM)), optimise([query])

    def step() -> None:
        update_momentum(query, key, m=MOMENTUM)
        q = query(views[0])
        with torch.no_grad():
            k = key(views[1])
        update(optimizer, criterion(q, k))

    return step


def lightly_simsiam(network: ResNet, views: tuple[Tensor, Tensor]) -> Step:
    """SimSiam from lightly's parts, as in its documentation."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

    encoder = copy.deepcopy(network)
    projector = SimSiamProjectionHead(network.dim, PROJECTION, PROJECTION)
    predictor = SimSiamPredictionHead(PROJECTION, BOTTLENECK, PROJECTION)
    criterion, optimizer = NegativeCosineSimilarity(), optimise([encoder, projector, predictor])

    def step() -> None:
        z = [projector(encoder(view)) for view in views]
        p = [predictor(value) for value in z]
        update(optimizer, 0.5 * (criterion(p[0], z[1].detach()) + criterion(p[1], z[0].detach())))

    return step


def ours(name: str, options: argparse.Namespace, batch: Batch, *, stage: int) -> Step:
    """The loop of a training, whose batches are in memory and augmented."""
    settings = {
        "moco": {"queue_size": QUEUE, "embedding": DIM, "temperature": TEMPERATURE, "momentum": MOMENTUM},
        "simsiam": {"projection": PROJECTION, "bottleneck": BOTTLENECK},
    }[name]
    job = Job.model_validate(
        {
            "method": {"name": name, "depth": options.depth, **settings},
            "data": {"image_size": options.size},
            "train": {
                "batch_size": options.batch,
                "epochs": 1e6,
                "optimizer": {"name": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4},
                "channels_last": False,  # as the others
            },
            "cluster": {"gpus_per_worker": 0},
            "deepspeed": {"zero_optimization": {"stage": stage}},
        }
    )
    config = find_method(name).Config.model_validate({"depth": options.depth, **settings})
    torch.manual_seed(0)
    method = build_method_for_job(job, config, DataFacts(), {})
    if name == "moco":
        method.queue.keys.copy_(normalize(torch.randn(QUEUE, DIM), dim=1))
        method.queue.filled.fill_(QUEUE)
    engines = [Engine(method, root, job=job, world=1) for root in method.trainable_roots()]
    state = TrainState(job, Schedule(job, 10_000), method, engines, lambda given: given, torch.device("cpu"))
    steps: Iterator[TrainState] = take_steps(state, itertools.repeat(batch))
    return lambda: next(steps)


def measure(step: Step, *, steps: int) -> tuple[float, float]:
    """Seconds of a step: by the clock, and of this process's processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    return (time.perf_counter() - clock) / steps, (time.process_time() - processor) / steps


def compare(name: str, contestants: dict[str, Step], *, rounds: int, steps: int, table: ResultWriter) -> None:
    """Print and write each contestant's time as a multiple of the first one's."""
    for step in contestants.values():
        step()  # allocates
        step()
    times: dict[str, list[tuple[float, float]]] = {title: [] for title in contestants}
    for _ in range(rounds):
        for title, step in contestants.items():
            times[title].append(measure(step, steps=steps))
    base = next(iter(times.values()))
    print(f"\n{name:<22}{'ms a step':>10}{'clock, of plain (min..max)':>32}{'processor time':>18}")
    for title, values in times.items():
        ratios = [own[0] / plain[0] for own, plain in zip(values, base, strict=True)]
        processor = statistics.median(own[1] / plain[1] for own, plain in zip(values, base, strict=True))
        milliseconds = 1000 * statistics.median(clock for clock, _ in values)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        print(f"{title:<22}{milliseconds:10.1f}{spread:>32}{processor:18.2f}", flush=True)
        table.add(name, title, milliseconds, statistics.median(ratios), min(ratios), max(ratios), processor)


def main() -> None:
    """Compare both methods."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lightly", type=Path, help="the folder where lightly is installed")
    defaults = {"depth": 18, "size": 96, "batch": 32, "rounds": 5, "steps": 2, "threads": 1}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    add_out_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    join_process_group(has_gpu=False)
    rival = "not measured: --lightly names no folder"
    if options.lightly:
        sys.path.append(str(options.lightly))
        import lightly

        rival = lightly.__version__
    print(
        f"ResNet-{options.depth}, batch {options.batch} x 2 views of {options.size} px; {options.threads} threads of "
        f"{os.cpu_count()} cores; torch {torch.__version__}, lightly {rival}"
    )
    title = f"A training step, ResNet-{options.depth}, {options.batch} pairs of {options.size} pixels"
    with ResultWriter(options.out, title=title, columns=COLUMNS) as table:
        compare_methods(options, table)


def compare_methods(options: argparse.Namespace, table: ResultWriter) -> None:
    """Compare the hands that take a step of each method."""
    torch.manual_seed(0)
    network = ResNet(options.depth)
    for name, plain, theirs in (
        ("moco", plain_moco, lightly_moco),
        ("simsiam", plain_simsiam, lightly_simsiam),
    ):
        views = find_method(name).train_views(find_method(name).Config())
        batch = make_random_batch(views, size=options.size, aus=0, samples=options.batch)
        pair = tuple(images.contiguous() for images in batch.face.images[:, 0].unbind(1))
        contestants = {"plain PyTorch": plain(network, pair)}
        if options.lightly:
            contestants["lightly"] = theirs(network, pair)
        for stage in (0, 1):
            contestants[f"facscale, ZeRO {stage}"] = ours(name, options, batch, stage=stage)
        compare(name, contestants, rounds=options.rounds, steps=options.steps, table=table)


if __name__ == "__main__":
    main()
