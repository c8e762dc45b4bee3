"""Under autocast to bfloat16, positions, warps, colours and similarities are those of float64 but for rounding.

Pixels are measured with an image whose values are its pixels' own coordinates: a sampled value is then the position that
it was sampled at.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from facscale.data.augment import Augmenter, sample_params
from facscale.data.views import Batch, Faces
from facscale.methods import DataFacts, find_method
from facscale.nn import info_nce, masked_bce, nt_xent, projection_head, soft_neighbours
from facscale.nn.colour import rgb_to_lab
from facscale.nn.displacement import Decoder, clamp_displacements, to_pixels, warp
from facscale.nn.fan import FAN
from facscale.nn.pretext_tasks import FlowHead
from facscale.nn.rois import crop_rois
from facscale.spec import models

SIZE = 256
ROUNDING = 2e-3  # pixels: float32 at 256 pixels


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def coordinates(count, size=SIZE):
    """Images [count, 2, size, size] in float64 of which each pixel's values are its x and y."""
    y, x = torch.meshgrid(*[torch.arange(size, dtype=torch.float64)] * 2, indexing="ij")
    return torch.stack([x, y]).repeat(count, 1, 1, 1)


def random(*shape, seed=0, spread=1.0):
    return spread * (2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1)


def worst(result, expected):
    """Largest absolute difference; the result must be float32."""
    assert result.dtype == torch.float32
    return (result.double() - expected).abs().max().item()


def test_a_warp_samples_where_it_should():
    displacements = random(2, 2, SIZE, SIZE, spread=0.04).bfloat16()  # as a decoder would give them
    expected = warp(coordinates(2), displacements.double())
    with autocast():
        result = warp(coordinates(2).float(), displacements)
        shortened = to_pixels(clamp_displacements(displacements))
    assert worst(result, expected) < ROUNDING
    assert worst(shortened, to_pixels(clamp_displacements(displacements.double()))) < ROUNDING


def test_regions_are_cut_where_they_are():
    centres = SIZE * (0.5 + random(2, 3, 2, spread=0.3))
    expected = crop_rois(coordinates(2), centres, size=SIZE, cells=16)
    with autocast():
        result = crop_rois(coordinates(2).float(), centres.float(), size=SIZE, cells=16)
        coarse = crop_rois(coordinates(2).bfloat16(), centres.bfloat16().float(), size=SIZE, cells=16)
    assert worst(result, expected) < ROUNDING
    assert coarse.dtype == torch.bfloat16


def test_an_augmentation_is_the_same_under_autocast():
    spec = models.Augment(rotation=15, crop=(0.7, 0.9), hue=0.1, blur=0.5, compression=0.5, holes=0.5)
    parameters = torch.from_numpy(sample_params(spec, shape=(4, 1, 1), random=np.random.default_rng(0)))
    images = torch.randint(256, (4, 1, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    columns = {
        "landmarks": torch.rand(4, 1, 136) * 96,
        "flow": torch.randint(-40, 40, (4, 1, 2 * 24 * 24), dtype=torch.int8),
    }
    batch = Batch(face=Faces(images, torch.arange(4), parameters, columns))
    expected = Augmenter(size=64)(batch).face
    with autocast():
        result = Augmenter(size=64)(batch).face
    assert torch.equal(result.images, expected.images)
    assert all(torch.equal(result.columns[name], expected.columns[name]) for name in columns)


def test_landmarks_of_half_precision_maps_lie_on_their_pixels():
    heatmaps = torch.zeros(1, 2, 64, 64, dtype=torch.bfloat16)
    heatmaps[0, 0, 50, 61], heatmaps[0, 0, 50, 60] = 1.0, 0.5
    heatmaps[0, 1, 3, 47], heatmaps[0, 1, 4, 47] = 1.0, 0.5
    points = FAN.decode_landmarks(heatmaps)
    assert points.tolist() == [[[4 * 60.75 + 1.5, 4 * 50 + 1.5], [4 * 47 + 1.5, 4 * 3.25 + 1.5]]]


@pytest.mark.parametrize(
    ("build", "shape"),
    [(lambda: Decoder(32, inputs=8, outputs=3), (2, 8)), (lambda: FlowHead(8), (2, 8, 3, 3))],
    ids=["decoder of displacements", "optical flow"],
)
def test_the_layer_that_gives_displacements_is_not_rounded(build, shape):
    """All but the last layer may be in bfloat16: their outputs are given to it as they are."""
    torch.manual_seed(0)
    module = build().eval()
    children = list(module.layers if isinstance(module, Decoder) else module)
    last = next(child for child in reversed(children) if isinstance(child, nn.Conv2d | nn.ConvTranspose2d))
    inputs = []
    last.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    with torch.no_grad(), autocast():
        result = module(random(*shape).float())
    assert inputs[0].dtype == torch.float32
    last._forward_hooks.clear()
    expected = last.double()(inputs[0].double())
    assert worst(result, expected.tanh() if isinstance(module, Decoder) else expected) < 1e-5


@pytest.mark.parametrize("name", ["tcae", "fabnet"])
def test_predicted_motion_is_that_of_float64(name):
    """At 256 pixels, with movements about as long as TCAE's AUs (1.02 pixels on average), of which bfloat16 took a quarter."""
    torch.manual_seed(0)
    kind = find_method(name)
    method = kind(kind.Config(), DataFacts(image_size=SIZE)).eval()
    with torch.no_grad():
        for decoder in (module for module in method.modules() if isinstance(module, Decoder)):
            decoder.layers[-2].weight.mul_(0.1)
            decoder.layers[-2].bias.mul_(0.1)
    source, target = (0.5 + random(1, 3, SIZE, SIZE, seed=seed, spread=0.5) for seed in (0, 1))
    with torch.no_grad():
        with autocast():
            result = method.predict_motion(source.float(), target.float())
        expected = method.double().predict_motion(source, target)
    for key, pixels in expected.items():
        assert 0.1 < pixels.abs().mean() < 2
        assert worst(result[key], pixels) < 0.01, key


def test_deformaes_positions_are_sums_in_float32():
    torch.manual_seed(0)
    kind = find_method("deformae")
    method = kind(kind.Config(width=4, latent=8, block_length=0.1), DataFacts(image_size=SIZE)).eval()
    images = 0.5 + random(1, 3, SIZE, SIZE, spread=0.5)
    with torch.no_grad():
        with autocast():
            _, result = method.decode(images.float())
        _, expected = method.double().decode(images)
    assert result.dtype == torch.float32
    assert to_pixels(result.double() - expected).abs().mean() < 0.2  # sums of 256 steps, from layers in bfloat16


def test_colours_are_those_of_float64():
    images = 0.5 + random(2, 3, 8, 8, spread=0.5)
    with autocast():
        result = rgb_to_lab(images.float())
    assert worst(result, rgb_to_lab(images)) < 1e-3


def test_similarities_over_a_temperature_are_those_of_float64():
    queries, keys = (normalize(random(6, 32, seed=seed), dim=-1) for seed in (0, 1))
    others = normalize(random(20, 32, seed=2), dim=-1)
    losses = {
        "nt_xent": lambda q, k, n: nt_xent(q, k, temperature=0.07),
        "info_nce": lambda q, k, n: info_nce(q, k, n, temperature=0.07),
        "soft neighbours": lambda q, k, n: soft_neighbours(q, n, temperature=0.07),
    }
    for name, loss in losses.items():
        with autocast():
            result = loss(queries.float(), keys.float(), others.float())
        assert worst(result, loss(queries, keys, others)) < 1e-4, name


def test_cross_entropy_of_half_precision_logits_is_float32():
    logits, au, weights = torch.randn(4, 3), torch.tensor([[0, 1, -1]] * 4), torch.ones(2, 3)
    rounded = logits.bfloat16()
    with autocast():
        result = masked_bce(rounded, au=au, weights=weights)
    assert worst(result, masked_bce(rounded.double(), au=au, weights=weights)) < 1e-6


def test_a_projection_head_is_not_rounded():
    """CLP's hinges compare distances of neighbouring frames: 0.01 to 0.05, where bfloat16 is wrong by 0.003."""
    torch.manual_seed(0)
    head = projection_head(64, 32, 16)
    features = random(5, 64)
    with autocast():
        result = head(features.float())
    assert worst(result, head.double()(features)) < 1e-5
