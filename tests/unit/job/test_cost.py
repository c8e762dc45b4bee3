"""Operations are counted on shapes alone, each shape computed once; small steps start from cheap weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from facscale.job.cost import OperationCounter, RepeatedInitialisation


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, images):
        return images + self.norm(self.convolution(images)).relu()


def make_network():
    return nn.Sequential(nn.Conv2d(3, 8, 1), *(Block(8) for _ in range(4)), nn.Flatten(), nn.Linear(8 * 16, 5))


def take_step(network, images):
    network.zero_grad()
    outputs = network(images)
    cat = torch.cat([outputs, outputs.double()])
    (cat.logsumexp(1) + outputs.unbind(1)[2].repeat(2)).square().mean().backward()
    return cat, [parameter.grad for parameter in network.parameters()]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_has_the_same_shapes_and_operations_from_memory(monkeypatch, layout):
    """Beside torch's own counter. Strides are those of the "meta" device: on a CPU they differ from one kernel to the next."""
    monkeypatch.setattr(OperationCounter, "shapes", {})
    network, images = make_network(), torch.rand(2, 3, 4, 4).contiguous(memory_format=layout)
    real, _ = take_step(network, images)
    network, images = network.to("meta"), images.to("meta")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        expected, gradients = take_step(network, images)
    for _ in range(2):
        with OperationCounter() as own:
            outputs, found = take_step(network, images)
        assert own.total == counter.get_total_flops() > 0
        assert (outputs.shape, outputs.dtype) == (expected.shape, expected.dtype) == (real.shape, real.dtype)
        assert [gradient.stride() for gradient in found] == [gradient.stride() for gradient in gradients]
    assert OperationCounter.shapes


def test_tensors_with_values_are_computed_each_time(monkeypatch):
    monkeypatch.setattr(OperationCounter, "shapes", {})
    with OperationCounter():
        assert [float(torch.ones(2).sum() * number) for number in (1, 2)] == [2, 4]
        assert torch.ones(3).nonzero().shape == (3, 1)
    assert not OperationCounter.shapes


def test_an_integer_and_a_fraction_are_different_arguments(monkeypatch):
    monkeypatch.setattr(OperationCounter, "shapes", {})
    numbers = torch.ones(3, dtype=torch.int64, device="meta")
    with OperationCounter():
        assert [(numbers * factor).dtype for factor in (2, 2.0)] == [torch.int64, torch.float32]


def test_repeated_weights_have_the_scale_of_drawn_ones():
    torch.manual_seed(0)
    with RepeatedInitialisation():
        repeated = nn.Linear(300, 400).weight.detach()
        small = nn.Linear(3, 4).weight.detach()
        turned = torch.empty(100, 100).T.normal_()
    drawn = nn.Linear(300, 400).weight.detach()
    assert repeated.std() == pytest.approx(drawn.std().item(), rel=0.03)
    assert repeated.mean().abs() < 0.1 * drawn.std()
    assert 4000 < len(repeated.unique()) < 4200
    assert torch.linalg.matrix_rank(repeated) == 300
    assert len(small.unique()) == 12
    assert turned.std() == pytest.approx(1, rel=0.05)
