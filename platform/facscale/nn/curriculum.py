"""From easy samples to hard ones: only a window of each batch is trained, and it moves on when nothing more is learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

SHARE, STEP = 0.5, 0.1  # of the batch that is trained; how far the window moves


class Curriculum(nn.Module):
    """The window of a batch's samples, ordered by their losses, that is trained: at first the lower half.

    After `patience` validations without a lower loss it moves up by a tenth of the batch, up to `windows` - 1 times.
    Source: TCAE, section 4.1 (50, 10-60 and 20-70 per cent); FAb-Net. Its state is saved with the method.
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
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], *, each: bool = False
    ) -> dict[str, Tensor]:
        """The mean of each loss [N] over the chosen samples: those in the window by their weighted sum.

        `each`: every loss has an order of its own. In eval mode all samples count.
        """
        if not self.training:
            return {name: values.mean() for name, values in losses.items()}
        total = torch.stack([weights[name] * values.detach() for name, values in losses.items()]).sum(0)
        return {
            name: values[self._chosen(values.detach() if each else total)].mean() for name, values in losses.items()
        }

    def after_validation(self, loss: float) -> None:
        """Move on if `loss` has not fallen for long enough."""
        if loss < float(self.best):
            self.best.fill_(loss)
            self.waited.zero_()
            return
        self.waited.add_(1)
        if int(self.waited) >= self.patience and int(self.window) < self.windows - 1:
            self.window.add_(1)
            self.waited.zero_()
            self.best.fill_(torch.inf)

    def _chosen(self, order: Tensor) -> Tensor:
        first = round(len(order) * STEP * int(self.window))
        count = max(1, round(len(order) * SHARE))
        return order.argsort()[first : first + count]
