"""DeformAE: its deformation and losses written out place by place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from facscale.data.views import Batch, Faces
from facscale.methods import DataFacts, find_method
from facscale.methods.deformae import DenseBlock, DenseEncoder
from overfitting import overfit

SIZE = 32


def built(**options):
    torch.manual_seed(0)
    kind = find_method("deformae")
    return kind(kind.Config(width=4, latent=8, block_length=0.2, **options), DataFacts(image_size=SIZE))


def faces(images):
    return Batch(face=Faces(images[:, None, None], torch.arange(len(images)), torch.empty(0)))


def test_positions_are_running_sums_of_positive_steps():
    method = built().eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        _, where = method.decode(images)
        raw = method.deformation_decoder(method.codes["deformation"](method.encoder(images)))
    for n, row, column in [(0, 0, 0), (1, 5, 9), (0, 31, 31), (1, 17, 2)]:
        x = -1.2 + sum(5 / SIZE / (1 + math.exp(-raw[n, 0, row, c].item())) for c in range(column + 1))
        y = -1.2 + sum(5 / SIZE / (1 + math.exp(-raw[n, 1, r, column].item())) for r in range(row + 1))
        assert where[n, :, row, column].tolist() == pytest.approx([min(max(v, -1), 1) for v in (x, y)], abs=1e-5)
    assert (where[:, 0].diff(dim=2) >= 0).all(), "no pixel is taken from before its left neighbour"


def test_losses_written_out():
    method = built().eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    losses = method.rebuild(faces(images))
    with torch.no_grad():
        _, where = method.decode(images)
    steps = torch.linspace(-1, 1, SIZE)
    bent = where - torch.stack([steps.expand(SIZE, SIZE), steps[:, None].expand(SIZE, SIZE)])
    variation = sum(
        (bent[:, :, 1:] - bent[:, :, :-1]).abs().sum().item()
        if axis == 2
        else (bent[..., 1:] - bent[..., :-1]).abs().sum().item()
        for axis in (2, 3)
    )
    assert losses["smoothness"].value.item() == pytest.approx(variation, rel=1e-5)
    assert losses["bias"].value.item() == pytest.approx(((bent[0] + bent[1]) / 2).square().mean().item(), rel=1e-5)
    assert {name: loss.weight for name, loss in losses.items()} == {
        "reconstruction": 1,
        "smoothness": 1e-6,
        "bias": 1e-2,
    }


def test_every_layer_of_a_dense_block_counts():
    block = DenseBlock(3, length=4).eval()
    x = torch.rand(2, 3, 5, 5)
    outputs = [block.layers[0](x)]
    for layer in list(block.layers)[1:]:
        outputs.append(layer(sum(outputs)))
    torch.testing.assert_close(block(x), outputs[-1])
    block(x).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_a_dense_block_as_the_published_code_runs_it(length):
    """From the second layer on it adds up all outputs so far, and calls no layer."""
    block = DenseBlock(3, length=length, dense="first").eval()
    x = torch.rand(2, 3, 5, 5)
    outputs = []
    for number in range(length):
        outputs.append(sum(outputs) if number else block.layers[0](x))
    torch.testing.assert_close(block(x), outputs[-1])
    assert len(block.layers) == 1


def test_tanh_is_at_the_ends_of_the_deformations_decoder_alone():
    """As in the published code: the blocks between have its default, ReLU."""
    method = built()
    activations = (nn.ReLU, nn.Tanh, nn.LeakyReLU)
    texture, deformation = (
        [type(layer) for name, layer in decoder.named_modules(remove_duplicate=False) if isinstance(layer, activations)]
        for decoder in (method.texture_decoder, method.deformation_decoder)
    )
    assert set(texture) == {nn.ReLU}
    assert deformation == [nn.Tanh, *[nn.ReLU] * (len(deformation) - 2), nn.Tanh]
    assert len(deformation) > 10


def test_weights_begin_as_in_the_published_code():
    method = built()
    layers = list(method.modules())
    convolutions = torch.cat([m.weight.flatten() for m in layers if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)])
    scales = torch.cat([m.weight for m in layers if isinstance(m, nn.BatchNorm2d)])
    assert convolutions.mean().item() == pytest.approx(0, abs=0.001)
    assert convolutions.std().item() == pytest.approx(0.02, rel=0.05)
    assert scales.mean().item() == pytest.approx(1, abs=0.01)
    assert scales.std().item() == pytest.approx(0.02, rel=0.3)
    assert not any(m.bias.any() for m in layers if isinstance(m, nn.BatchNorm2d))


def test_the_inputs_relu_cuts_off_what_is_darker_than_the_mean():
    first_layers = [built(input_relu=input_relu).encoder.eval().layers[0] for input_relu in (False, True)]
    images = torch.rand(2, 3, 8, 8) - 0.5
    plain, cut = (layer(images) for layer in first_layers)
    torch.testing.assert_close(cut, plain.clamp(min=0))
    assert (plain < 0).any()


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_all_sizes_are_rebuilt_at_their_size(size):
    kind = find_method("deformae")
    method = kind(kind.Config(width=2, latent=4, block_length=0.1), DataFacts(image_size=size)).eval()
    texture, where = method.decode(torch.rand(2, 3, size, size))
    assert texture.shape == (2, 3, size, size)
    assert where.shape == (2, 2, size, size)


def test_the_latent_code_lies_between_0_and_1():
    z = DenseEncoder(SIZE, width=4, dim=6, lengths=(1, 1, 1, 1))(torch.rand(3, 3, SIZE, SIZE))
    assert z.shape == (3, 6)
    assert ((z > 0) & (z < 1)).all()


def test_one_small_batch_can_be_learned():
    method = built().train()
    coarse = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    batch = faces(torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear"))
    history = [losses["reconstruction"] for losses in overfit(method, batch, steps=80, lr=3e-3)]
    assert history[-1] < 0.5 * history[0]
