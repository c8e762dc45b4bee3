"""Self-supervised tasks: the inputs of their heads, and their losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from facscale.nn.pretext_tasks import ORDERS, JigsawTask, RotationTask, build_tile_orders, flow_error, split_into_tiles


class Pixels(nn.Module):
    """An encoder that keeps its input."""

    def forward(self, images):
        self.shown = images
        return images.flatten(1)


def test_tiles_lie_row_by_row():
    images = torch.arange(2 * 3 * 7 * 7).view(2, 3, 7, 7).float()
    result = split_into_tiles(images)
    assert result.shape == (2, 9, 3, 2, 2)
    assert torch.equal(result[1, 5], images[1, :, 2:4, 4:6])


def test_orders_are_permutations_far_from_each_other():
    orders = build_tile_orders()
    assert len(orders) == ORDERS
    assert all(sorted(order) == list(range(9)) for order in orders)
    distances = [sum(a != b for a, b in zip(p, q, strict=True)) for p in orders for q in orders if p != q]
    assert len(distances) == ORDERS * (ORDERS - 1)
    assert min(distances) >= 7


@pytest.mark.parametrize("task", [RotationTask(3 * 36), JigsawTask(3 * 4)])
def test_the_loss_of_an_untrained_head_is_that_of_chance(task):
    last = task.head if isinstance(task, RotationTask) else task.head[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    encoder = Pixels()
    copies = torch.rand(5, 1, 3, 6, 6)
    assert task(copies, encoder).item() == pytest.approx(math.log(last.out_features))
    shown = encoder.shown.reshape(5, -1).sort().values
    torch.testing.assert_close(shown, copies.reshape(5, -1).sort().values)  # moved, and otherwise unchanged


def test_a_head_that_recognises_the_rotations_has_no_loss():
    face = torch.zeros(1, 1, 3, 6, 6)
    face[..., 0, 0] = 1  # a corner, which turns to another one
    task, encoder = RotationTask(3 * 36), Pixels()
    with torch.no_grad():
        task.head.bias.zero_()
        for turns in range(4):
            task.head.weight[turns] = 10 * face[0, 0].rot90(turns, (1, 2)).flatten()
    assert task(face.expand(8, -1, -1, -1, -1), encoder).item() < 1e-3


def test_unknown_flow_is_ignored():
    predicted, true = torch.zeros(2, 2, 2, 2), torch.ones(2, 2, 4, 4)
    true[0] = torch.nan
    true[1, 0] = 3
    assert flow_error(predicted, true).item() == 2
    assert flow_error(predicted, torch.full_like(true, torch.nan)).item() == 0
