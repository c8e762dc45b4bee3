"""SplitBrain: Lab against OpenCV, bins by hand, and the inputs of each half."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from facscale.data.views import Batch, Faces
from facscale.methods import DataFacts, find_method
from facscale.nn.colour import build_ab_bins, rgb_to_lab
from overfitting import overfit


def built(**options):
    torch.manual_seed(0)
    kind = find_method("splitbrain")
    return kind(kind.Config(breadth=0.1, pool=2, **options), DataFacts(image_size=64))


def faces(images):
    return Batch(face=Faces(images[:, None, None], torch.arange(len(images)), torch.empty(0)))


def test_lab_of_the_primaries():
    result = rgb_to_lab(torch.eye(3, dtype=torch.float64)[:, :, None])[..., 0]
    expected = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(result, expected, atol=0.05)


def test_lab_is_opencvs_which_interpolates_in_a_table():
    pixels = np.random.default_rng(0).random((8, 8, 3), np.float32)
    pixels[0, 0], pixels[0, 1], pixels[0, 2] = 0, 1, 0.01  # black, white, and the straight parts of both curves
    result = rgb_to_lab(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(result, cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB), atol=0.4)


def test_bins_of_colour_cover_srgb_and_no_more():
    bins = build_ab_bins(10.0)
    assert [0.0, 0.0] in bins.tolist()
    assert ((bins / 10) == (bins / 10).round()).all()
    colours = rgb_to_lab(torch.rand(500, 3, 1, generator=torch.Generator().manual_seed(0)))[:, 1:, 0]
    assert torch.cdist(colours, bins).min(1).values.max() < 10 / 2**0.5 + 1.5
    assert 200 < len(bins) < 330


def test_nearest_bins():
    method = built()
    ab = torch.tensor([[[[3.0, -12.0]], [[4.0, 27.0]]]])  # two places: (3, 4) and (-12, 27)
    centres = method.colours[method.quantise_colour(ab)[0, 0]].tolist()
    assert centres == [[0, 0], [-10, 30]]
    assert method.quantise_lightness(torch.tensor([[[[0.0, 49.99, 50.0, 100.0]]]])).tolist() == [[[0, 49, 50, 99]]]


def test_each_half_depends_only_on_its_channels():
    method = built().eval()
    colours = 40 * torch.rand(2, 3, 64, 64)
    before = method.encoder.extract_maps(colours)
    brighter = colours.clone()
    brighter[:, 0] += 20
    after = method.encoder.extract_maps(brighter)
    assert torch.equal(before["ab"], after["ab"])
    assert not torch.equal(before["L"], after["L"])


@pytest.mark.parametrize("loss", ["classification", "regression"])
def test_one_small_batch_can_be_learned(loss):
    method = built(loss=loss).train()
    coarse = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    batch = faces(torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear"))
    first, *_, last = overfit(method, batch, steps=60, lr=3e-3)
    assert set(last) == {"colour", "lightness", "total"}
    assert last["total"] < 0.5 * first["total"]
