"""Curriculum from easy samples to hard ones: a window of each batch is trained, and moves up when the loss stalls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from facscale.nn.distributed import all_gather_with_gradient
from facscale.nn.host import HostState

WINDOW_SIZE, WINDOW_STEP = 5, 1  # tenths of the batch: how much of it is trained, how far the window moves
RATE_FACTOR, RATE_THRESHOLD = 0.1, 1e-4  # torch's ReduceLROnPlateau: factor, relative fall that counts as progress


class Curriculum(HostState):
    """Selects the samples to train: a window of the batch, ordered by loss. At first it is the lower half.

    The batch is that of all workers together (with `train.accumulate`, a micro-batch), so that their number changes
    nothing. After more than `patience` validations in a row without a lower loss, the window moves up by a tenth of the
    batch, up to `windows` - 1 times; thereafter such a stall lowers the learning rate tenfold (`rate`) once the stalls
    themselves have brought no lower loss more than `rate_patience` times in a row (None: never). Sources: TCAE, section
    4.1 (0-50, 10-60 and 20-70 per cent); the published code of FAb-Net and TCAE (patience 15, five windows, and
    ReduceLROnPlateau with patience 10, which is stepped at stalls only). Its state is saved with the method.
    """

    window: Tensor
    best: Tensor
    waited: Tensor
    rate: Tensor  # factor of the learning rate
    rate_best: Tensor
    rate_waited: Tensor

    def __init__(
        self,
        *,
        windows: int,
        patience: int,
        rate_patience: int | None = None,
        validated: Literal["all", "window"] = "all",
    ) -> None:
        """`validated`: samples that `select` takes in eval mode: all, or those in the window."""
        super().__init__()
        self.windows, self.patience, self.rate_patience, self.validated = windows, patience, rate_patience, validated
        self.register_host_buffer("window", 0)
        self.register_host_buffer("best", torch.inf)
        self.register_host_buffer("waited", 0)
        self.register_host_buffer("rate", 1.0)
        self.register_host_buffer("rate_best", torch.inf)
        self.register_host_buffer("rate_waited", 0)
        self.register_load_state_dict_pre_hook(_add_missing_rate)  # type: ignore[no-untyped-call]

    def select(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], *, per_loss: bool = False
    ) -> dict[str, Tensor]:
        """Return the mean of each loss [N] over the samples in the window, of all workers' samples: the same on each.

        Samples are ordered by the weighted sum of their losses, or with `per_loss` separately by each loss. In eval mode
        all samples of this worker count, unless `validated` is "window".
        """
        if not self.training and self.validated == "all":
            return {name: values.mean() for name, values in losses.items()}
        everything = all_gather_with_gradient(torch.stack(list(losses.values()), 1))  # [W * N, number of losses]
        columns = zip(losses, everything.detach().unbind(1), strict=True)
        total = torch.stack([column * weights[name] for name, column in columns], 1).sum(1)
        return {
            name: values[self._find_window_rows(values.detach() if per_loss else total)].mean()
            for name, values in zip(losses, everything.unbind(1), strict=True)
        }

    def after_validation(self, loss: float) -> None:
        """Move the window up, or lower the rate, where `loss` has not fallen for more than `patience` validations."""
        if loss < float(self.best):
            self.best.fill_(loss)
            self.waited.zero_()
            return
        self.waited.add_(1)
        if int(self.waited) <= self.patience:
            return
        self.waited.zero_()
        if int(self.window) < self.windows - 1:
            self.window.add_(1)
            self.best.fill_(torch.inf)
        elif self.rate_patience is not None:
            self._lower_rate(loss, patience=self.rate_patience)

    def _lower_rate(self, loss: float, *, patience: int) -> None:
        if loss < float(self.rate_best) * (1 - RATE_THRESHOLD):
            self.rate_best.fill_(loss)
            self.rate_waited.zero_()
            return
        self.rate_waited.add_(1)
        if int(self.rate_waited) > patience:
            self.rate.mul_(RATE_FACTOR)
            self.rate_waited.zero_()

    def _find_window_rows(self, losses: Tensor) -> Tensor:
        first = len(losses) * WINDOW_STEP * int(self.window) // 10
        last = len(losses) * (WINDOW_STEP * int(self.window) + WINDOW_SIZE) // 10
        return losses.argsort(stable=True)[first : max(last, first + 1)]


def _add_missing_rate(module: Curriculum, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """States that were saved before there was a rate have none: it is 1."""
    for name, value in (("rate", 1.0), ("rate_best", torch.inf), ("rate_waited", 0)):
        state.setdefault(prefix + name, torch.full_like(getattr(module, name), value))
