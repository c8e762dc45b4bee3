"""Relations between AUs, and patches, against slow versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import layer_norm, leaky_relu, linear

from facscale.nn.patches import PatchGenerator, PatchJudge, halved
from facscale.nn.relation import APART, TOGETHER, GraphConvolution, Transformer


def attention(layer, asked, given, *, heads):
    """Eq. 1, head by head and position by position."""
    dim = asked.shape[-1]
    q, k, v = (
        linear(x, layer.in_proj_weight[n * dim : (n + 1) * dim], layer.in_proj_bias[n * dim : (n + 1) * dim])
        for n, x in enumerate((asked, given, given))
    )
    width, out = dim // heads, torch.zeros_like(asked)
    for sample in range(len(asked)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for i in range(asked.shape[1]):
                scores = torch.stack([q[sample, i, part] @ row / math.sqrt(width) for row in k[sample, :, part]])
                out[sample, i, part] = scores.softmax(0) @ v[sample, :, part]
    return layer.out_proj(out)


def test_the_transformer_by_hand():
    torch.manual_seed(0)
    model = Transformer(3, dim=16, heads=4, hidden=8).double()
    features = torch.randn(2, 3, 16, dtype=torch.float64)
    e, d = model.encoder, model.decoder

    def norm(layer, x):
        return layer_norm(x, (16,), layer.weight, layer.bias)

    seen = norm(e.norm1, features + attention(e.self_attn, features, features, heads=4))
    seen = norm(e.norm2, seen + e.linear2(e.linear1(seen).relu()))
    asked = model.indicators.expand(2, 3, 16)
    asked = norm(d.norm1, asked + attention(d.self_attn, asked, asked, heads=4))
    asked = norm(d.norm2, asked + attention(d.multihead_attn, asked, seen, heads=4))
    asked = norm(d.norm3, asked + d.linear2(d.linear1(asked).relu()))
    torch.testing.assert_close(model(features), asked)


def test_graph_convolutions_by_hand():
    torch.manual_seed(0)
    aus = (1, 2, 12, 15)
    model = GraphConvolution(aus, dim=5).double()
    features = torch.randn(2, 4, 5, dtype=torch.float64)
    pairs = {frozenset(pair) for pair in (*TOGETHER, *APART)}
    related = [[float(a == b or frozenset((a, b)) in pairs) for b in aus] for a in aus]
    assert related == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    expected = features
    for layer in model.layers:
        mixed = torch.zeros_like(expected)
        for i in range(4):
            for j in range(4):
                mixed[:, i] += related[i][j] / math.sqrt(sum(related[i]) * sum(related[j])) * expected[:, j]
        expected = leaky_relu(layer(mixed), 0.2)
    torch.testing.assert_close(model(features), expected)


@pytest.mark.parametrize(("side", "expected"), [(48, (4, 3)), (64, (4, 4)), (16, (4, 1)), (8, (3, 1)), (12, (2, 3))])
def test_patches_of_any_side(side, expected):
    assert halved(side) == expected
    pictures = PatchGenerator(6, side=side, width=8)(torch.randn(2, 6))
    assert pictures.shape == (2, 3, side, side)
    assert ((pictures > 0) & (pictures < 1)).all()
    assert PatchJudge(side=side, width=8, outputs=4)(pictures).shape == (2, 4)
    convolutions = [m for m in PatchJudge(side=side, width=8).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 5
