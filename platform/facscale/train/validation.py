"""What a method loses, and shows, on people whom it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from facscale.data.views import Batch
from facscale.evaluate.f1 import count, mean
from facscale.methods.base import Losses
from facscale.nn.workers import gathered
from facscale.train.loop import Run

SHOWN = 8  # samples of a sheet


class Validation:
    """The same batches each time, in eval mode, without gradient."""

    def __init__(self, run: Run, batches: Sequence[Batch], *, judged: Sequence[Batch] = ()) -> None:
        """`batches`: this worker's share, as decoded; `judged`: likewise, what the method tells the AUs of."""
        self._run, self._batches, self._judged = run, batches, judged

    def losses(self) -> dict[str, float]:
        """The mean of every loss over all workers, and their weighted sum as "total". Collective."""
        found: list[Losses] = []
        with self._watching():
            for batch in self._batches:
                prepared = self._run.prepare(batch)
                phases = (getattr(self._run.method, phase)(prepared) for phase in self._run.method.phases())
                found.append({name: loss for losses in phases for name, loss in losses.items()})
        names = list(found[0])
        values = torch.tensor([[float(one[name].value) for name in names] for one in found], device=self._run.device)
        means = dict(zip(names, gathered(values.mean(0)[None]).mean(0).tolist(), strict=True))
        return means | {"total": sum(means[name] * found[0][name].weight for name in names)}

    def f1(self) -> dict[str, float]:
        """Mean F1 of the AUs that a method which learns from labels finds, over all workers, as "f1". Collective."""
        if not self._judged:
            return {}
        with self._watching():
            prepared = [self._run.prepare(batch) for batch in self._judged]
            logits = torch.cat([self._run.method.predict(batch) for batch in prepared])
        au = torch.cat([next(iter(batch.values())).au[:, 0] for batch in prepared])
        probability = gathered(logits.float().sigmoid()).cpu().numpy()
        found = count(
            probability=probability, au=gathered(au).cpu().numpy(), threshold=self._run.job.evaluate.threshold
        )
        f1 = float(mean(found.f1))
        return {"f1": f1} if math.isfinite(f1) else {}

    def pictures(self) -> dict[str, np.ndarray]:
        """The method's columns for a few samples: [n, H, W, 3] images in [0, 1] or [n, H, W, 2] displacements in pixels."""
        few = Batch({name: faces.chosen(slice(SHOWN)) for name, faces in self._batches[0].items()})
        with self._watching():
            columns = self._run.method.pictures(self._run.prepare(few))
        return {name: column.float().permute(0, 2, 3, 1).cpu().numpy() for name, column in columns.items()}

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """In eval mode, with the same random numbers each time."""
        run = self._run
        torch.manual_seed(run.job.seed)  # training sets its own before each step
        run.method.eval()
        try:
            with torch.no_grad(), run.autocast():
                yield
        finally:
            run.method.train()
