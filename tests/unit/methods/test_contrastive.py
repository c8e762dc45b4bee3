"""SimCLR, MoCo, SimSiam, CVC and TC-Net: what their losses see, and their own equations loop by loop in float64."""

from __future__ import annotations

import math

import pytest
import torch

from facscale.data.views import Batch, Faces
from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts, find_method
from facscale.methods.simsiam import distance
from facscale.methods.tcnet import TCNet, ranking_loss
from overfitting import overfit

TINY = {"depth": 18, "width": 4}


def built(name, **options):
    torch.manual_seed(0)
    kind = find_method(name)
    return kind(kind.Config(**TINY, **options), DataFacts()).train()


def batch_of(method, *, samples=6, seed=0):
    return make_random_batch(method.train_views(method.config), size=32, aus=0, samples=samples, seed=seed)


def unit(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


def test_ranking_loss_loop_by_loop():
    clips = unit(3, 6, 4)
    expected = 0.0
    for clip in clips.tolist():
        d = [math.dist(clip[0], frame) ** 2 for frame in clip]
        expected += sum(max(0.0, d[j] - d[j + 1] + 0.05) for j in range(1, 5)) / 3
    assert ranking_loss(clips, margin=0.05).item() == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(lambda c: ranking_loss(c, margin=0.5), (clips[:2].clone().requires_grad_(),))


@pytest.mark.parametrize(("spacing", "offsets"), [(1, (0, 1, 2, 3, 4)), (3, (0, 1, 4, 7, 10))])
def test_frames_of_tcnet(spacing, offsets):
    (view,) = TCNet.train_views(TCNet.Config(length=5, spacing=spacing)).values()
    assert view.offsets == offsets
    assert view.choose(7, 99, None).tolist() == [7 + offset for offset in offsets]
    assert view.extent == offsets[-1] + 1


def test_every_frame_of_tcnet_has_its_own_crop_and_anchors_their_own_statistics():
    """As in the published code: positions are drawn for each frame; anchors, next and later frames are three batches."""
    method = built("tcnet", length=5)
    (view,) = method.train_views(method.config).values()
    assert not view.shared
    batch, sizes = batch_of(method, samples=3), []
    method.encoder.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    loss = method.rank(batch)["ranked"].value
    assert sizes == [3, 3, 9]
    images = batch.clip.images[:, :, 0]
    encode = built("tcnet", length=5).encoder
    parts = [encode(images[:, 0]), encode(images[:, 1]), encode(images[:, 2:].flatten(0, 1))]
    e = [torch.nn.functional.normalize(part.double(), dim=1).unflatten(0, (3, -1)) for part in parts]
    expected = 0.0
    for sample in range(3):
        frames = [part[sample, n].tolist() for part in e for n in range(part.shape[1])]
        d = [math.dist(frames[0], frame) ** 2 for frame in frames]
        expected += sum(max(0.0, d[j] - d[j + 1] + 0.03) for j in range(1, 4)) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("hidden", "widths"), [(None, [12, 12, 12]), (32, [32, 32, 12])])
def test_widths_of_simsiams_projector(hidden, widths):
    projector = built("simsiam", projection=12, hidden=hidden, bottleneck=4).projector
    assert [layer.out_features for layer in projector if isinstance(layer, torch.nn.Linear)] == widths


def test_simsiams_distance_is_negative_cosine_without_gradient_to_the_target():
    p, z = unit(4, 5, seed=0).mul(3).requires_grad_(), unit(4, 5, seed=1).mul(2).requires_grad_()
    slow = -sum(
        sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
        for x, y in zip(p.tolist(), z.tolist(), strict=True)
    )
    loss = distance(p, z)
    assert loss.item() == pytest.approx(slow / 4, abs=1e-12)
    loss.backward()
    assert z.grad is None
    assert torch.autograd.gradcheck(lambda a: distance(a, z), (p,))


def test_simsiam_starts_every_block_as_its_shortcut():
    encoder = built("simsiam", projection=8, bottleneck=4).encoder
    assert encoder.layer1[1].bn2.weight.abs().max() == 0
    assert encoder.layer1[1].bn1.weight.min() == 1


def test_a_copy_is_nearer_than_another_frame_for_simclr():
    """The same copies in the right and in a wrong order: only the pairing differs."""
    method = built("simclr", embedding=8).eval()
    images = torch.rand(6, 1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    right = faces(torch.cat([images, images], 2))
    wrong = faces(torch.cat([images, images.roll(1, 0)], 2))
    assert method.contrast(right)["nt_xent"].value < method.contrast(wrong)["nt_xent"].value


def faces(images):
    return Batch(face=Faces(images=images, identity=torch.arange(len(images)), augmentation=torch.empty(0)))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_moco_repels_the_keys_in_the_queue_and_enqueues_its_own(head):
    method = built("moco", embedding=8, queue_size=16, head=head)
    first = method.contrast(batch_of(method))["contrast"].value
    assert first.item() == 0, "nothing repels yet"
    assert int(method.queue.filled) == 6
    assert method.contrast(batch_of(method, seed=1))["contrast"].value > 0
    assert method.queue.keys[:12].norm(dim=1).tolist() == pytest.approx([1] * 12, abs=1e-5)
    held = method.queue.keys.clone()
    method.eval().contrast(batch_of(method, seed=2))
    assert torch.equal(method.queue.keys, held), "validation leaves no trace"


def test_cvc_splits_the_cycle_queue_and_keeps_the_heads_apart():
    method = built("cvc", embedding=8, queue_size=16, cycle_queue_size=12, support=4)
    for seed in range(3):
        losses = method.contrast(batch_of(method, seed=seed))
    assert losses["cycle"].weight == 0.1
    assert int(method.queue.filled) == 16
    assert int(method.cycle_queue.filled) == 12
    assert not torch.allclose(method.queue.keys[:6], method.cycle_queue.keys[:6])
    queries, others = method._cycle_through_neighbours(unit(5, 8).float(), method.cycle_queue.keys)
    assert (queries.shape, others.shape) == ((5, 8), (8, 8))


def test_cvc_needs_negatives():
    kind = find_method("cvc")
    with pytest.raises(ValueError, match="the other keys are negatives"):
        kind.Config(cycle_queue_size=10, support=10)


OPTIONS = {
    "simclr": {"embedding": 16},
    "moco": {"queue_size": 24, "momentum": 0.9},
    "cvc": {"queue_size": 24, "cycle_queue_size": 24, "support": 12, "momentum": 0.9},
    "simsiam": {"projection": 32, "bottleneck": 8},
    "tcnet": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_one_small_batch_can_be_learned(name, monkeypatch):
    """With a fixed queue of other people, for the methods that have a queue."""
    method = built(name, **OPTIONS[name])
    (phase,) = method.phases()
    for seed in range(1, 5):
        getattr(method, phase)(batch_of(method, seed=seed))
    monkeypatch.setattr("facscale.nn.Queue.enqueue", lambda *_: None)
    batch = batch_of(method)
    if name == "cvc":  # two frames of one video are alike
        batch.faces.images[:, 1] = batch.faces.images[:, 0] + 0.05 * torch.rand_like(batch.faces.images[:, 0])
    history = [losses["total"] for losses in overfit(method, batch, steps=60, lr=2e-3)]
    assert min(history[-5:]) < (history[0] - 0.5 if name == "simsiam" else 0.6 * history[0])
