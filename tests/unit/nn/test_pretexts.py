"""Tasks without labels: what their heads are shown, and when they are right."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from facscale.nn.pretexts import ORDERS, Jigsaw, Rotation, far_orders, flow_error, tiles


class Pixels(nn.Module):
    """An encoder that keeps what it is shown."""

    def forward(self, images):
        self.shown = images
        return images.flatten(1)


def test_tiles_lie_row_by_row():
    images = torch.arange(2 * 3 * 7 * 7).view(2, 3, 7, 7).float()
    found = tiles(images)
    assert found.shape == (2, 9, 3, 2, 2)
    assert torch.equal(found[1, 5], images[1, :, 2:4, 4:6])


def test_orders_are_permutations_far_from_each_other():
    orders = far_orders()
    assert len(orders) == ORDERS
    assert all(sorted(order) == list(range(9)) for order in orders)
    apart = [sum(a != b for a, b in zip(one, other, strict=True)) for one in orders for other in orders if one != other]
    assert len(apart) == ORDERS * (ORDERS - 1)
    assert min(apart) >= 7


@pytest.mark.parametrize("task", [Rotation(3 * 36), Jigsaw(3 * 4)])
def test_an_untaught_head_knows_as_much_as_chance(task):
    last = task.head if isinstance(task, Rotation) else task.head[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    encoder = Pixels()
    copies = torch.rand(5, 1, 3, 6, 6)
    assert task(copies, encoder).item() == pytest.approx(math.log(last.out_features))
    shown = encoder.shown.reshape(5, -1).sort().values
    torch.testing.assert_close(shown, copies.reshape(5, -1).sort().values)  # moved about, and otherwise untouched


def test_rotation_is_told_from_the_turn():
    face = torch.zeros(1, 1, 3, 6, 6)
    face[..., 0, 0] = 1  # a corner, which turns to another one
    task, encoder = Rotation(3 * 36), Pixels()
    with torch.no_grad():
        task.head.bias.zero_()
        for turns in range(4):
            task.head.weight[turns] = 10 * face[0, 0].rot90(turns, (1, 2)).flatten()
    assert task(face.expand(8, -1, -1, -1, -1), encoder).item() < 1e-3


def test_flow_that_is_not_known_does_not_count():
    told, true = torch.zeros(2, 2, 2, 2), torch.ones(2, 2, 4, 4)
    true[0] = torch.nan
    true[1, 0] = 3
    assert flow_error(told, true).item() == 2
    assert flow_error(told, torch.full_like(true, torch.nan)).item() == 0
