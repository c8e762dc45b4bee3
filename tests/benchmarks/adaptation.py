"""What `evaluate.protocol: adapted-batchnorm` costs: one frame of a training step, beside one frame of a frozen embedding.

    python tests/benchmarks/adaptation.py [--out FILE]

Both by processor time of one core, for the demo's encoder and for a paper's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "platform"))

from results import ResultWriter, add_out_option

from facscale import methods
from facscale.inference import export
from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts

AUS = tuple(range(1, 13))
CASES = ((18, 16, 64, 64, 8), (34, 64, 224, 4, 2))  # depth, width, side of the image, frames of a batch, rounds


def measure_seconds(run: Callable[[], object], *, rounds: int) -> float:
    """Processor time of one call, after one that warms up."""
    run()
    began = time.process_time()
    for _ in range(rounds):
        run()
    return (time.process_time() - began) / rounds


def main() -> None:
    """Print milliseconds a frame."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_out_option(parser)
    torch.set_num_threads(1)
    columns = {"network": None, "adapting, ms a frame": 2, "embedding, ms a frame": 2, "ratio": 2}
    title = "Adapted batch norms beside a frozen encoder, processor time"
    with ResultWriter(parser.parse_args().out, title=title, columns=columns) as table:
        compare(table)


def compare(table: ResultWriter) -> None:
    """Measure each network both ways."""
    kind = methods.find_method("supervised")
    for depth, width, size, frames, rounds in CASES:
        facts = DataFacts(aus=AUS, label_weights=((1.0,) * len(AUS),) * 2, image_size=size)
        config = kind.Config(depth=depth, width=width, trainable="batchnorm")
        method = export.build_method("supervised", config, facts)
        batch = make_random_batch(kind.train_views(config), size=size, aus=len(AUS), samples=frames)
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained)

        def adapt(method=method, batch=batch, optimizer=optimizer) -> None:
            method.train()
            optimizer.zero_grad()
            method.classify(batch)["bce"].value.backward()
            optimizer.step()

        @torch.no_grad()
        def embed(method=method, batch=batch) -> None:
            method.eval().encoder(batch.face.images[:, 0, 0])

        adapted, frozen = (1000 * measure_seconds(run, rounds=rounds) / frames for run in (adapt, embed))
        name = f"ResNet-{depth}, width {width}, {size} pixels"
        print(f"{name}: {adapted:.2f} ms a frame adapting, {frozen:.2f} embedding, ratio {adapted / frozen:.2f}")
        table.add(name, adapted, frozen, adapted / frozen)


if __name__ == "__main__":
    main()
