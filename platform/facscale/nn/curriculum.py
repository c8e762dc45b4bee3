"""Curriculum from easy samples to hard ones: a window of each batch is trained, and moves up when the loss stalls."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

WINDOW_SIZE, WINDOW_STEP = 0.5, 0.1  # shares of the batch: how much of it is trained, how far the window moves


class Curriculum(nn.Module):
    """Selects the samples to train: a window of the batch, ordered by loss. At first it is the lower half.

    After `patience` validations without a lower loss it moves up by a tenth of the batch, up to `windows` - 1 times.
    Source: TCAE, section 4.1 (0-50, 10-60 and 20-70 per cent); FAb-Net. Its state is saved with the method.
    """

    window: Tensor
    best: Tensor
    waited: Tensor

    def __init__(self, *, windows: int, patience: int) -> None:
        super().__init__()
        self.windows, self.patience = windows, patience
        self.register_buffer("window", torch.zeros((), dtype=torch.int64))
        self.register_buffer("best", torch.tensor(torch.inf))
        self.register_buffer("waited", torch.zeros((), dtype=torch.int64))

    def select(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], *, per_loss: bool = False
    ) -> dict[str, Tensor]:
        """Return the mean of each loss [N] over the samples in the window.

        Samples are ordered by the weighted sum of their losses, or with `per_loss` separately by each loss. In eval
        mode all samples count.
        """
        if not self.training:
            return {name: values.mean() for name, values in losses.items()}
        total = torch.stack([weights[name] * values.detach() for name, values in losses.items()]).sum(0)
        return {
            name: values[self._window_rows(values.detach() if per_loss else total)].mean()
            for name, values in losses.items()
        }

    def after_validation(self, loss: float) -> None:
        """Move the window up if `loss` has not fallen for `patience` validations."""
        if loss < float(self.best):
            self.best.fill_(loss)
            self.waited.zero_()
            return
        self.waited.add_(1)
        if int(self.waited) >= self.patience and int(self.window) < self.windows - 1:
            self.window.add_(1)
            self.waited.zero_()
            self.best.fill_(torch.inf)

    def _window_rows(self, losses: Tensor) -> Tensor:
        first = round(len(losses) * WINDOW_STEP * int(self.window))
        count = max(1, round(len(losses) * WINDOW_SIZE))
        return losses.argsort()[first : first + count]
