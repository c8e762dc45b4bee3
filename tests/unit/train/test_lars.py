"""LARS by hand."""

from __future__ import annotations

import math

import pytest
import torch

from facscale.spec import Job, SpecError
from facscale.train.engine import build_deepspeed_config, build_optimizer
from facscale.train.lars import LARS


def test_two_steps_by_hand():
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    bias = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    update = LARS([weight, bias], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    w, b, v, u = [3.0, 4.0], 1.0, [0.0, 0.0], 0.0
    for gradient in ([1.0, -2.0], [0.5, 0.5]):
        weight.grad, bias.grad = torch.tensor([gradient], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
        update.step()
        g = [x + 0.1 * y for x, y in zip(gradient, w, strict=True)]
        scale = 0.01 * math.hypot(*w) / math.hypot(*g)
        v = [0.9 * old + scale * new for old, new in zip(v, g, strict=True)]
        w = [old - 0.5 * step for old, step in zip(w, v, strict=True)]
        u = 0.9 * u + 2.0
        b -= 0.5 * u
    assert weight.detach()[0].tolist() == pytest.approx(w, abs=1e-12)
    assert bias.item() == pytest.approx(b, abs=1e-12)


def test_the_rate_inside_the_velocity_by_hand():
    """Three steps with a rate that falls: each step keeps the rate of its time."""
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    optimizer = LARS([weight], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01, rate_in_velocity=True)
    w, v = [3.0, 4.0], [0.0, 0.0]
    for rate, gradient in ((0.5, [1.0, -2.0]), (0.05, [0.5, 0.5]), (0.005, [-1.0, 0.3])):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        g = [x + 0.1 * y for x, y in zip(gradient, w, strict=True)]
        scale = 0.01 * math.hypot(*w) / math.hypot(*g)
        v = [0.9 * old + rate * scale * new for old, new in zip(v, g, strict=True)]
        w = [old - step for old, step in zip(w, v, strict=True)]
    assert weight.detach()[0].tolist() == pytest.approx(w, abs=1e-12)


def test_only_lars_has_the_rate_inside_its_velocity():
    job = Job(method={"name": "simclr"}, train={"optimizer": {"name": "lars", "rate_in_velocity": True}})
    assert build_optimizer(job, [torch.nn.Parameter(torch.zeros(1, 2))])._rate_in_velocity
    with pytest.raises(ValueError, match="rate_in_velocity is an option of lars; sgd has none"):
        Job(method={"name": "simclr"}, train={"optimizer": {"name": "sgd", "rate_in_velocity": True}})


def test_a_weight_of_zeros_moves_by_plain_momentum():
    weight = torch.nn.Parameter(torch.zeros(1, 2))
    weight.grad = torch.ones(1, 2)
    LARS([weight], lr=0.5).step()
    assert weight.detach().tolist() == [[-0.5, -0.5]]


def test_sharded_weights_are_refused():
    job = Job(
        method={"name": "simclr"},
        train={"batch_size": 4, "optimizer": {"name": "lars"}},
        deepspeed={"zero_optimization": {"stage": 1}},
    )
    with pytest.raises(SpecError, match="lars needs whole weights"):
        build_deepspeed_config(job, world=1)
