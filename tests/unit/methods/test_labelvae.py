"""The label VAE: Eq. 2 by hand, separate data sets, and what it learns of AUs that occur together."""

from __future__ import annotations

import math

import pytest
import torch

from facscale import methods
from facscale.data.views import Batch, Faces
from facscale.inference import export
from facscale.methods import DataFacts
from facscale.methods.base import sum_losses
from facscale.spec import SpecError
from overfitting import overfit

KIND = methods.find_method("labelvae")
TWO = {"aus": (1, 2, 4, 12), "sets": ((1, 2, 4), (12, 4))}
MIXED = [  # number of the data set, and labels of AUs 1, 2, 4, 12
    (0, [1, 0, 1, -1]),
    (1, [-1, -1, 0, 1]),
    (0, [0, 1, 0, -1]),
    (0, [1, -1, 0, -1]),  # an AU of its own set is missing
    (1, [-1, -1, 1, 0]),
    (1, [-1, -1, 1, -1]),
]


def build(*, aus=(1, 2, 4), sets=None, **options):
    torch.manual_seed(0)
    return export.build_method("labelvae", KIND.Config(**options), DataFacts(aus=aus, sets=sets or (aus,)))


def batch_of(rows):
    """Labels of one frame each, without images."""
    columns = {
        "data_set": torch.tensor([[number] for number, _ in rows]),
        "au": torch.tensor([[labels] for _, labels in rows], dtype=torch.int8),
    }
    n = len(rows)
    return Batch(frame=Faces(torch.empty(n, 1, 1, 3, 0, 0), torch.arange(n), torch.zeros(n, 1, 1, 1), columns))


def layer(linear, values):
    weights, biases = linear.weight.tolist(), linear.bias.tolist()
    return [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weights, biases, strict=True)]


def slow_encode(coder, labels):
    """Mean and logarithm of the variance, number by number."""
    hidden = [max(0.0, h) for h in layer(coder.hidden[0], labels)]
    return layer(coder.mean, hidden), layer(coder.log_variance, hidden)


def slow(coder, labels, *, corrupted, noise):
    """Both terms of Eq. 2 for one frame."""
    mean, log_variance = slow_encode(coder, corrupted)
    code = [m + math.exp(lv / 2) * e for m, lv, e in zip(mean, log_variance, noise, strict=True)]
    logits = layer(coder.decoder[2], [max(0.0, h) for h in layer(coder.decoder[0], code)])
    bce = 0.0
    for y, logit in zip(labels, logits, strict=True):
        p = 1 / (1 + math.exp(-logit))
        bce -= y * math.log(p) + (1 - y) * math.log(1 - p)
    kl = sum((m * m + math.exp(lv) - 1 - lv) / 2 for m, lv in zip(mean, log_variance, strict=True))
    return bce, kl


def test_the_loss_is_eq_2_with_its_noise(monkeypatch):
    method = build(**TWO, latent=(3, 2), kl_weight=0.3, noise=0.2)
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.linspace(0, 1, x.numel()).view_as(x))
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.linspace(-1, 2, x.numel()).view_as(x))
    losses = method.reconstruct(batch_of(MIXED))
    bce = kl = 0.0
    for number, own, width in ((0, [0, 1, 2], 3), (1, [3, 2], 2)):  # columns in the order of the data set
        uniform = torch.linspace(0, 1, 6 * len(own)).view(6, -1).tolist()
        normal = torch.linspace(-1, 2, 6 * width).view(6, -1).tolist()
        for row, (data_set, au) in enumerate(MIXED):
            labels = [au[column] for column in own]
            if data_set != number or -1 in labels:
                continue
            corrupted = [y - 0.2 + 0.4 * u for y, u in zip(labels, uniform[row], strict=True)]
            terms = slow(method.coders[number], labels, corrupted=corrupted, noise=normal[row])
            bce, kl = bce + terms[0] / 4, kl + terms[1] / 4  # four frames are complete
    assert losses["reconstruction"].value.item() == pytest.approx(bce, rel=1e-5)
    assert losses["divergence"].value.item() == pytest.approx(kl, rel=1e-5)
    assert sum_losses(losses).item() == pytest.approx(bce + 0.3 * kl, rel=1e-5)


def test_noise_of_labels_is_uniform_on_both_sides(monkeypatch):
    encoder_inputs = []
    method = build(noise=0.2)
    encode = method.coders[0].encode
    monkeypatch.setattr(method.coders[0], "encode", lambda labels: encoder_inputs.append(labels) or encode(labels))
    method.reconstruct(batch_of([(0, [1, 0, 1])] * 2000))
    noise = encoder_inputs[0] - torch.tensor([1.0, 0.0, 1.0])
    assert noise.abs().max() <= 0.2 + 1e-6
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.4 / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("present", [0, 1])
def test_a_set_that_is_not_in_the_batch_has_gradients_of_zero(present):
    """Gradients of None would make workers with different data sets wait for each other forever."""
    method = build(**TWO)
    sum_losses(method.reconstruct(batch_of([row for row in MIXED if row[0] == present]))).backward()
    gradients = [[p.grad for p in coder.parameters()] for coder in method.coders]
    assert all((g == 0).all() for g in gradients[1 - present])
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients[present])


def test_no_complete_frame_at_all_is_no_loss():
    method = build(**TWO)
    losses = method.reconstruct(batch_of([MIXED[3], MIXED[5]]))
    sum_losses(losses).backward()
    assert sum_losses(losses).item() == 0
    assert all((p.grad == 0).all() for p in method.coders.parameters())


def test_incomplete_frames_and_other_sets_labels_change_nothing():
    method = build(**TWO, noise=0)
    batch, other = batch_of(MIXED), batch_of(MIXED)
    other.frame.au[3, 0, :3] = torch.tensor([0, -1, 1])
    other.frame.au[0, 0, 3] = 1  # AU 12, of which the first set knows nothing
    totals = []
    for frames in (batch, other):
        torch.manual_seed(0)
        totals.append(sum_losses(method.reconstruct(frames)).item())
    assert totals[0] == totals[1] != 0


def test_of_three_frames_the_one_in_the_middle_counts():
    method = build(**TWO)
    labels = torch.tensor([[0, 0, 0, -1], [1, 0, 1, -1], [1, 1, 1, -1]], dtype=torch.int8)
    columns = {"au": labels[None], "data_set": torch.zeros(1, 3, dtype=torch.int64)}
    own = method.split_by_data_set(
        Faces(torch.empty(1, 3, 1, 3, 0, 0), torch.arange(1), torch.zeros(1, 3, 1, 1), columns)
    )[0]
    assert own.values.tolist() == [[1, 0, 1]]
    assert own.complete.tolist() == [1]


def test_it_learns_which_aus_go_together():
    """AUs 1 and 2 always agree, AU 4 is independent: a lost label (0.5) of the pair is inferred from the other one."""
    random = torch.Generator().manual_seed(0)
    pair, free = (torch.rand(2, 512, generator=random) < 0.5).int()
    method = build(latent=4)
    history = overfit(
        method, batch_of([(0, list(row)) for row in zip(pair, pair, free, strict=True)]), steps=400, lr=0.01
    )
    assert history[-1]["reconstruction"] < 0.6 * 3 * math.log(2)
    complete = torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))[:, [0, 0, 1]]
    for lost in range(3):
        corrupted = complete.clone()
        corrupted[:, lost] = 0.5
        with torch.no_grad():
            predicted = method.coders[0].decode(method.coders[0].encode(corrupted)[0]).sigmoid()
        right = (predicted[:, lost].round() == complete[:, lost]).float().mean().item()
        sure = (predicted[:, lost] - 0.5).abs().min().item()
        assert (right == 1 and sure > 0.2) if lost < 2 else sure < 0.45, (lost, predicted)


def test_it_reads_labels_alone():
    (view,) = KIND.train_views(KIND.Config()).values()
    assert (view.source, view.pixels, set(view.columns)) == ("labelled", False, {"au", "data_set"})
    assert not KIND.has_image_encoder


def test_each_data_set_may_have_its_own_width():
    method = build(**TWO, latent=(5, 3))
    assert [coder.mean.out_features for coder in method.coders] == [5, 3]
    assert [coder.hidden[0].in_features for coder in method.coders] == [3, 2]
    with pytest.raises(SpecError, match="latent has 3 numbers, but there are 2 labelled data sets"):
        build(**TWO, latent=(5, 3, 1))
