"""Relations between AUs, and patches, against slow versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import layer_norm, leaky_relu, linear

from facscale.nn.patches import PatchDiscriminator, PatchGenerator, plan_halvings
from facscale.nn.relation import COOCCURRING, EXCLUSIVE, AUGraphConvolution, AUTransformer


def attention(layer, queries, values, *, heads):
    """Eq. 1, head by head and position by position."""
    dim = queries.shape[-1]
    q, k, v = (
        linear(x, layer.in_proj_weight[n * dim : (n + 1) * dim], layer.in_proj_bias[n * dim : (n + 1) * dim])
        for n, x in enumerate((queries, values, values))
    )
    width, out = dim // heads, torch.zeros_like(queries)
    for sample in range(len(queries)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            for i in range(queries.shape[1]):
                scores = torch.stack([q[sample, i, part] @ row / math.sqrt(width) for row in k[sample, :, part]])
                out[sample, i, part] = scores.softmax(0) @ v[sample, :, part]
    return layer.out_proj(out)


def test_dropout_is_in_every_layer_of_the_transformer_and_off_in_evaluation():
    model, features = AUTransformer(3, dim=16, heads=4, hidden=8, dropout=0.3), torch.randn(2, 3, 16)
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    rates |= {module.dropout for module in model.modules() if isinstance(module, torch.nn.MultiheadAttention)}
    assert rates == {0.3}
    assert not torch.equal(model(features), model(features))
    assert torch.equal(model.eval()(features), model(features))


def test_the_transformer_by_hand():
    torch.manual_seed(0)
    model = AUTransformer(3, dim=16, heads=4, hidden=8).double()
    features = torch.randn(2, 3, 16, dtype=torch.float64)
    e, d = model.encoder, model.decoder

    def norm(layer, x):
        return layer_norm(x, (16,), layer.weight, layer.bias)

    encoded = norm(e.norm1, features + attention(e.self_attn, features, features, heads=4))
    encoded = norm(e.norm2, encoded + e.linear2(e.linear1(encoded).relu()))
    queries = model.indicators.expand(2, 3, 16)
    queries = norm(d.norm1, queries + attention(d.self_attn, queries, queries, heads=4))
    queries = norm(d.norm2, queries + attention(d.multihead_attn, queries, encoded, heads=4))
    queries = norm(d.norm3, queries + d.linear2(d.linear1(queries).relu()))
    torch.testing.assert_close(model(features), queries)


def test_graph_convolutions_by_hand():
    torch.manual_seed(0)
    aus = (1, 2, 12, 15)
    model = AUGraphConvolution(aus, dim=5).double()
    features = torch.randn(2, 4, 5, dtype=torch.float64)
    pairs = {frozenset(pair) for pair in (*COOCCURRING, *EXCLUSIVE)}
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
    assert plan_halvings(side) == expected
    pictures = PatchGenerator(6, side=side, width=8)(torch.randn(2, 6))
    assert pictures.shape == (2, 3, side, side)
    assert ((pictures > 0) & (pictures < 1)).all()
    assert PatchDiscriminator(side=side, width=8, outputs=4)(pictures).shape == (2, 4)
    convolutions = [m for m in PatchDiscriminator(side=side, width=8).modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 5
