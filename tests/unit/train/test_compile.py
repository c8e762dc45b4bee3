"""`train.compile`: the same numbers, from compiled encoders, heads and momentum encoders."""

from __future__ import annotations

import pytest
import torch

from facscale.inference.export import build_method
from facscale.methods import DataFacts, find_method
from facscale.methods.base import sum_losses
from facscale.testing import make_random_batch
from facscale.train.setup import compile_modules


@pytest.mark.slow("torch traces each network")
def test_a_compiled_method_computes_the_same(recwarn):
    """Traced with the backend that compiles no kernels; the kernels are torch's matter."""
    kind = find_method("clp")
    config = kind.Config(depth=18, width=4, hidden=8, embedding=8, length=3, queue_size=16)
    methods = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        method = build_method("clp", config, DataFacts()).train()
        if is_compiled:
            compile_modules(method, backend="aot_eager")
        methods.append(method)
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for seed in range(2):
        batch = make_random_batch(kind.train_views(config), size=32, aus=0, samples=2, seed=seed)
        losses, gradients = [], []
        for method in methods:
            torch.manual_seed(seed)
            losses.append(method.pretext(batch))
            parameters = [p for p in method.parameters() if p.requires_grad]
            gradients.append(torch.autograd.grad(sum_losses(losses[-1]), parameters))
            method.after_step()
        for name in losses[0]:
            torch.testing.assert_close(losses[1][name].value, losses[0][name].value)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    assert graphs["unique_graphs"] - before >= 5, "the encoder, both heads, the key encoder and its head"
    assert methods[0].state_dict().keys() == methods[1].state_dict().keys()
