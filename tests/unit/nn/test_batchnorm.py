"""BatchNorm kept still for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facscale.nn.batchnorm import evaluating


def test_evaluating_leaves_statistics_and_modes_as_they_are():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3).eval()))
    before = [buffer.clone() for buffer in model.buffers()]
    with evaluating(model):
        model(torch.rand(4, 3) + 5)
    assert all(torch.equal(one, other) for one, other in zip(before, model.buffers(), strict=True))
    with pytest.raises(RuntimeError), evaluating(model):
        model(torch.rand(4, 7))
    assert [module.training for module in model.modules()] == [True, True, True, False]
