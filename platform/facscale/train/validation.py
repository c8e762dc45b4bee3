"""Validation: losses, F1 and images on people who are set aside from training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from facscale.data.views import Batch
from facscale.evaluate.f1 import count_confusions, nanmean
from facscale.methods.base import Losses
from facscale.nn.distributed import all_gather
from facscale.train.state import TrainState

SAMPLES_SHOWN = 8


class Validation:
    """Evaluates the same batches each time, in eval mode, without gradients."""

    def __init__(self, state: TrainState, batches: Sequence[Batch], *, labelled: Sequence[Batch] = ()) -> None:
        """`batches`: this worker's share, as decoded; `labelled`: likewise, batches on which the method's F1 is measured."""
        self._state, self._batches, self._labelled = state, batches, labelled

    def losses(self) -> dict[str, float]:
        """The mean of every loss over all workers, and their weighted sum as "total". Collective."""
        of_batches: list[Losses] = []
        with self._evaluating():
            for batch in self._batches:
                prepared = self._state.prepare(batch)
                phases = (getattr(self._state.method, phase)(prepared) for phase in self._state.method.phases())
                of_batches.append({name: loss for losses in phases for name, loss in losses.items()})
        names = list(of_batches[0])
        values = torch.stack([torch.stack([losses[name].value.float() for name in names]) for losses in of_batches])
        means = dict(zip(names, all_gather(values.mean(0)[None]).mean(0).tolist(), strict=True))
        return means | {"total": sum(means[name] * of_batches[0][name].weight for name in names)}

    def f1(self) -> dict[str, float]:
        """Mean F1 of the AUs that a method which learns from labels finds, over all workers, as "f1". Collective."""
        if not self._labelled:
            return {}
        with self._evaluating():
            prepared = [self._state.prepare(batch) for batch in self._labelled]
            logits = torch.cat([self._state.method.predict(batch) for batch in prepared])
        au = torch.cat([next(iter(batch.values())).au[:, 0] for batch in prepared])
        probability = all_gather(logits.float().sigmoid()).cpu().numpy()
        counts = count_confusions(
            probability=probability, au=all_gather(au).cpu().numpy(), threshold=self._state.job.evaluate.threshold
        )
        f1 = float(nanmean(counts.f1))
        return {"f1": f1} if math.isfinite(f1) else {}

    def images(self) -> dict[str, np.ndarray]:
        """The method's columns for a few samples: [n, H, W, 3] images in [0, 1] or [n, H, W, 2] displacements in pixels."""
        few = Batch({name: faces.select(slice(SAMPLES_SHOWN)) for name, faces in self._batches[0].items()})
        with self._evaluating():
            columns = self._state.method.visualize(self._state.prepare(few))
        return {name: column.float().permute(0, 2, 3, 1).cpu().numpy() for name, column in columns.items()}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """In eval mode, with the same random numbers each time."""
        state = self._state
        torch.manual_seed(state.job.seed)  # training sets its own before each step
        state.method.eval()
        try:
            with torch.no_grad(), state.autocast():
                yield
        finally:
            state.method.train()
