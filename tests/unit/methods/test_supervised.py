"""The supervised ResNet's second answer: intensities."""

from __future__ import annotations

import math

import pytest
import torch

from facscale import methods
from facscale.data.views import Batch
from facscale.inference import export
from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts

INTENSITIES = [[0, 5, -1], [3, -1, 2], [1, 0, -1], [-1, -1, -1]]
FACTS = DataFacts(aus=(1, 4, 12), label_weights=((1.0,) * 3, (2.0,) * 3), image_size=32)


def build(**options):
    torch.manual_seed(0)
    config = methods.find_method("supervised").Config(depth=18, width=8, **options)
    return export.build_method("supervised", config, FACTS).eval()


def test_the_loss_of_intensities_is_a_slow_loop_over_the_labelled_ones():
    method = build(intensities=True)
    torch.nn.init.normal_(method.classifier.intensity[1].weight)
    batch = make_random_batch(method.train_views(method.config), size=32, aus=3, samples=4)
    batch.face.columns["intensity"] = torch.tensor(INTENSITIES, dtype=torch.int8)[:, None]
    features = method.encoder(batch.face.images[:, 0, 0])
    logits = method.classifier.intensity(features).tolist()
    squares = [
        (5 / (1 + math.exp(-logit)) - intensity) ** 2
        for row, labels in zip(logits, INTENSITIES, strict=True)
        for logit, intensity in zip(row, labels, strict=True)
        if intensity >= 0
    ]
    losses = method.classify(batch)
    assert losses["intensity"].value.item() == pytest.approx(sum(squares) / 6, rel=1e-5)
    plain = build()
    plain.load_state_dict({name: value for name, value in method.state_dict().items() if "intensity" not in name})
    assert losses["bce"].value.item() == pytest.approx(plain.classify(batch)["bce"].value.item())
    found = method.predict_intensities(Batch({"face": batch.face}))
    assert found.tolist() == [[pytest.approx(5 / (1 + math.exp(-logit)), rel=1e-5) for logit in row] for row in logits]
    again = export.load_export(export.save_export(method))
    assert torch.equal(again.predict_intensities(batch), found)


def test_without_labels_of_intensities_there_is_no_loss_and_no_gradient():
    method = build(intensities=True)
    batch = make_random_batch(method.train_views(method.config), size=32, aus=3, samples=4)
    batch.face.columns["intensity"] = torch.full((4, 1, 3), -1, dtype=torch.int8)
    loss = method.classify(batch)["intensity"].value
    loss.backward()
    assert loss.item() == 0
    assert not method.classifier.intensity[1].weight.grad.any()
