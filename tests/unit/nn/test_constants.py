"""Constants that are made once on each device."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from facscale.nn.constants import cache_constant


def test_a_constant_is_made_once_for_each_list_of_arguments():
    made = []

    @cache_constant
    def make(device, size):
        made.append(size)
        return torch.ones(size, device=device), torch.zeros(size, device=device)

    cpu = torch.device("cpu")
    first = make(cpu, 3)
    assert make(cpu, 3) is first
    assert make(cpu, 4)[1].tolist() == [0, 0, 0, 0]
    assert make(torch.device("meta"), 3)[0].is_meta
    assert made == [3, 4, 3]


def test_tensors_that_break_later_uses_are_not_kept():
    @cache_constant
    def make(device):
        return torch.ones(2, device=device)

    cpu = torch.device("cpu")
    with FakeTensorMode():
        assert type(make(cpu)) is not torch.Tensor
    with torch.inference_mode():
        assert make(cpu).is_inference()
    weight = torch.ones(2, requires_grad=True)
    (make(cpu) * weight).sum().backward()
    assert weight.grad.tolist() == [1, 1]
