"""BatchNorm in eval mode for a block of code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facscale.nn.batchnorm import eval_mode


def test_eval_mode_leaves_statistics_and_modes_unchanged():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3).eval()))
    before = [buffer.clone() for buffer in model.buffers()]
    with eval_mode(model):
        model(torch.rand(4, 3) + 5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    with pytest.raises(RuntimeError), eval_mode(model):
        model(torch.rand(4, 7))
    assert [module.training for module in model.modules()] == [True, True, True, False]
