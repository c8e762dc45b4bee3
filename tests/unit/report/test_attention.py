"""Grad-CAM, by hand and where it must look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from facscale.data.views import Batch, Faces
from facscale.report.attention import compute_attention, plot_attention


def batch_of(images):
    """One frame a sample."""
    count = len(images)
    faces = Faces(images[:, None, None], torch.zeros(count, dtype=torch.int64), torch.zeros(count, 1, 1, 16))
    return Batch(face=faces)


class Corners(nn.Module):
    """Two channels of maps, an AU each: the red of the left half, the green of the right half."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.maps.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).view(2, 3, 1, 1))

    def forward(self, batch):
        maps = self.maps(batch.face.images[:, 0, 0])
        left, right = maps[:, 0, :, :2].sum((1, 2)), maps[:, 1, :, 2:].sum((1, 2))
        return torch.stack([left - 1, right - 1], 1)


def test_the_map_is_the_weighted_sum_of_the_last_maps():
    images = torch.rand(2, 3, 4, 4)
    found = compute_attention(Corners(), batch_of(images))
    # d logit_k / d A_k is 1 in one half, 0 in the other: the mean is 1/2; of the other channel it is 0
    raw = (0.5 * images[:, :2]).numpy()
    np.testing.assert_allclose(found.maps, raw / raw.max(axis=(2, 3), keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found.logits[:, 0], images[:, 0, :, :2].sum((1, 2)) - 1, rtol=1e-5)
    np.testing.assert_allclose(found.images, images.permute(0, 2, 3, 1))


def test_what_speaks_against_an_au_is_not_shown():
    model = Corners()
    with torch.no_grad():
        model.maps.weight[1] *= -1  # green now speaks against the second AU
    found = compute_attention(model, batch_of(torch.rand(2, 3, 4, 4)))
    assert (found.maps[:, 1] == 0).all()
    assert (found.maps[:, 0].max(axis=(1, 2)) == 1).all()


def test_frozen_layers_and_neighbours_do_not_hide_where_it_looks():
    model = Corners().requires_grad_(requires_grad=False)
    assert compute_attention(model, batch_of(torch.rand(2, 3, 4, 4))).maps.any()
    with pytest.raises(ValueError, match="no maps of whole faces"):
        compute_attention(Means(), batch_of(torch.rand(2, 3, 4, 4)))


class Means(nn.Module):
    """Without any map."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, batch):
        return self.linear(batch.face.images[:, 0, 0].mean((2, 3)))


def test_the_sheet_says_what_was_told_and_whether_it_is_true():
    found = compute_attention(Corners(), batch_of(torch.rand(2, 3, 4, 4)))
    found = found._replace(logits=np.array([[3.0, -3.0], [-3.0, 3.0]]))
    sheet = plot_attention(found, au=np.array([[1, 1], [-1, 0]]), aus=(1, 12), title="where")
    titles = [axes.get_title() for axes in sheet.axes if axes.get_title()]
    assert titles == ["AU1 there: 0.95", "AU12 there: 0.05", "AU1 not labelled: 0.05", "AU12 not there: 0.95"]
    colours = [axes.title.get_color() for axes in sheet.axes if axes.get_title()]
    assert colours[1] == colours[3] != colours[0] != colours[2]
