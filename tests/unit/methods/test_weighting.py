"""Weights of labels: every method that has `weighting`, each formula against a loop over labels that counts by itself."""

from __future__ import annotations

import math

import pytest
import torch

from facscale import methods
from facscale.data.labels import compute_au_weights, compute_class_weights, compute_label_weights
from facscale.data.views import Batch
from facscale.inference import export
from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts
from tiny import get_tiny_options

AUS = (1, 4, 12)
# Training labels: base rates of 1/2, 1/6 and 4/5, the last one with a frame that is not labelled.
LABELS = [[1, 0, 1], [0, 0, 1], [1, 1, -1], [0, 0, 1], [1, 0, 1], [0, 0, 0]]
PAPER = {"supervised": "class", "rtatl": "none", "aunet": "au"}
OPTIONS = {"rtatl": {"tasks": ()}, "aunet": {"interval": 0, "flip_at_test": False}}


def weigh_slowly(weighting, *, au, label):
    """The weight of a label of the AU in column `au`, counted from LABELS."""
    columns = [[row[column] for row in LABELS if row[column] >= 0] for column in range(len(AUS))]
    rates = [sum(column) / len(column) for column in columns]
    if weighting == "class":
        return 1 / (2 * (rates[au] if label else 1 - rates[au]))
    if weighting == "au":
        return len(rates) * (1 / rates[au]) / sum(1 / rate for rate in rates)
    return 1.0


def build(name, *, weighting):
    torch.manual_seed(0)
    kind, au = methods.find_method(name), torch.tensor(LABELS, dtype=torch.int8).numpy()
    config = kind.Config(**get_tiny_options(kind.Config), **OPTIONS.get(name, {}), weighting=weighting)
    facts = DataFacts(
        aus=AUS,
        label_weights=tuple(tuple(map(float, row)) for row in compute_class_weights(au)),
        au_weights=tuple(map(float, compute_au_weights(au))),
        sets=(AUS,),
        image_size=32,
    )
    return export.build_method(name, config, facts).eval()


def make_batch(method):
    """Six faces with LABELS."""
    batch = make_random_batch(method.train_views(method.config), size=32, aus=len(AUS), samples=len(LABELS))
    (faces,) = batch.values()
    faces.columns["au"] = torch.tensor(LABELS, dtype=torch.int8)[:, None]
    return batch, Batch({"face": faces})


@pytest.mark.parametrize("weighting", ["class", "au", "none"])
def test_computed_weights_are_the_formulas(weighting):
    found = compute_label_weights(torch.tensor(LABELS).numpy(), weighting=weighting)
    for au in range(len(AUS)):
        for label in (0, 1):
            assert found[label, au] == pytest.approx(weigh_slowly(weighting, au=au, label=label))


@pytest.mark.parametrize("weighting", ["class", "au", "none"])
@pytest.mark.parametrize("name", PAPER)
def test_the_loss_of_a_method_is_a_slow_loop_with_the_formula(name, weighting):
    method = build(name, weighting=weighting)
    batch, faces = make_batch(method)
    logits = method.predict(faces).tolist()
    total, count = 0.0, 0
    for row, labels in enumerate(LABELS):
        for au, label in enumerate(labels):
            if label >= 0:
                probability = 1 / (1 + math.exp(-logits[row][au]))
                weight = weigh_slowly(weighting, au=au, label=label)
                total -= weight * math.log(probability if label else 1 - probability)
                count += 1
    (phase, *_) = method.phases()
    (loss,) = getattr(method, phase)(batch).values()
    assert loss.value.item() == pytest.approx(total / count, rel=1e-5)


def test_defaults_are_the_papers():
    by_name = {name: methods.find_method(name).Config for name in methods.list_methods()}
    weighted = {name: config for name, config in by_name.items() if "weighting" in config.model_fields}
    assert {name: config().weighting for name, config in weighted.items()} == PAPER
