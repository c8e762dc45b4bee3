"""Each equation of the paper against a slow, loop-by-loop version in float64, and its gradient by finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from facscale.data.views import Batch, Faces
from facscale.methods import DataFacts
from facscale.methods.base import sum_losses
from facscale.methods.clp import CLP, distance, reconstruction_loss, temporal_loss, triplet_weights

T = 0.07


def unit(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


def slow_lambda(j, descent):
    return {"inverse-sqrt": 1 / math.sqrt(j), "inverse": 1 / j, "exponential": math.exp(-j), "constant": 1.0}[descent]


def slow_triplet_loss(clip, margin, descent):
    """Eq. 1 for one clip, with the paper's indices: f[1] ... f[J]."""
    f = dict(enumerate(clip.tolist(), start=1))
    last = len(clip)
    loss = 0.0
    for j in range(2, last):
        loss += slow_lambda(j, descent) * max(0.0, math.dist(f[1], f[j]) - math.dist(f[1], f[j + 1]) + margin)
    return loss


@pytest.mark.parametrize("descent", ["inverse-sqrt", "inverse", "exponential", "constant"])
@pytest.mark.parametrize("length", [3, 9])
def test_temporal_loss_is_eq_1_forwards_and_backwards(descent, length):
    clips = unit(4, length, 6)
    config = CLP.Config(margin=0.2, triplet_weight=descent)
    slow = sum(slow_triplet_loss(c, 0.2, descent) + slow_triplet_loss(c.flip(0), 0.2, descent) for c in clips) / 4
    assert temporal_loss(clips, config=config).item() == pytest.approx(slow, abs=1e-12)


def test_triplet_weights_start_at_the_second_frame():
    assert triplet_weights(7, descent="inverse-sqrt")[[0, 6]].tolist() == pytest.approx([2**-0.5, 8**-0.5])


def test_a_clip_that_moves_steadily_away_costs_nothing():
    angles = torch.arange(9, dtype=torch.float64) * 0.1
    clip = torch.stack([angles.cos(), angles.sin()], -1)[None]
    assert temporal_loss(clip, config=CLP.Config(margin=0.03)).item() == 0
    backwards_only = temporal_loss(clip[:, [0, 2, 1, 3, 4, 5, 6, 7, 8]], config=CLP.Config(margin=0.03))
    assert backwards_only.item() > 0.1


def test_gradient_of_the_temporal_loss():
    clips = unit(2, 5, 4).requires_grad_()
    config = CLP.Config(margin=0.5)
    assert torch.autograd.gradcheck(lambda x: temporal_loss(x, config=config), (clips,))


def test_gradient_of_the_distance_of_equal_points_is_zero():
    a = torch.ones(3, dtype=torch.float64, requires_grad=True)
    distance(a, torch.ones(3, dtype=torch.float64)).backward()
    assert a.grad.tolist() == [0, 0, 0]


def slow_cir(q, k, neighbours, may_neighbour, negatives, may_repel):
    """Eqs. 2-4, one query and one key at a time."""

    def sim(u, v):
        return sum(a * b for a, b in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)

    losses = []
    for r, query in enumerate(q.tolist()):
        use = [c for c, allowed in zip(neighbours.tolist(), may_neighbour[r].tolist(), strict=True) if allowed]
        against = [c for c, allowed in zip(negatives.tolist(), may_repel[r].tolist(), strict=True) if allowed]
        if not use or not against:
            continue
        weights = [math.exp(sim(query, c) / T) for c in use]
        alpha = [w / sum(weights) for w in weights]
        rebuilt = [sum(a * c[d] for a, c in zip(alpha, use, strict=True)) for d in range(len(query))]
        positive = math.exp(sim(rebuilt, k.tolist()[r]) / T)
        losses.append(-math.log(positive / (positive + sum(math.exp(sim(rebuilt, n) / T) for n in against))))
    return sum(losses) / len(losses)


def cir_case(seed=0):
    random = torch.Generator().manual_seed(seed)
    may_neighbour = torch.rand(5, 7, generator=random) > 0.3
    may_repel = torch.rand(5, 6, generator=random) > 0.3
    may_neighbour[2] = False  # a query whose identity fills all of C takes no part
    return unit(5, 8), unit(5, 8, seed=1), unit(7, 8, seed=2), may_neighbour, unit(6, 8, seed=3), may_repel


def fast_cir(q, k, neighbours, may_neighbour, negatives, may_repel):
    return reconstruction_loss(
        q,
        k,
        neighbours_MD=neighbours,
        may_neighbour_BM=may_neighbour,
        negatives_MD=negatives,
        may_repel_BM=may_repel,
        temperature=T,
    )


@pytest.mark.parametrize("seed", range(3))
def test_reconstruction_is_eqs_2_to_4(seed):
    case = cir_case(seed)
    assert fast_cir(*case).item() == pytest.approx(slow_cir(*case), abs=1e-12)


def test_gradient_of_the_reconstruction():
    q, k, *rest = cir_case()
    assert torch.autograd.gradcheck(lambda x: fast_cir(x, k, *rest), (q.requires_grad_(),))


def test_no_neighbour_at_all_is_no_loss_but_a_graph():
    q, k, neighbours, may_neighbour, negatives, may_repel = cir_case()
    loss = fast_cir(q.requires_grad_(), k, neighbours, torch.zeros_like(may_neighbour), negatives, may_repel)
    loss.backward()
    assert loss.item() == 0
    assert q.grad.abs().sum() == 0


def tiny(**changes):
    torch.manual_seed(0)
    small = {"depth": 18, "width": 4, "hidden": 8, "embedding": 8, "queue_size": 12, "length": 3}
    return CLP(CLP.Config(**small | changes), DataFacts())


def faces(*shape, identity=None, seed=0):
    images = torch.rand(*shape, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Faces(images, torch.arange(shape[0]) if identity is None else torch.tensor(identity), torch.zeros(shape[0]))


def batch(samples=3, **options):
    return Batch(clip=faces(samples, 3, 1, **options), faces=faces(samples, 2, 2, **options))


def test_total_is_eq_6():
    method = tiny(cir_weight=0.25)
    method.pretext(batch(seed=1))
    losses = method.pretext(batch(identity=[7, 8, 9]))
    assert sum_losses(losses).item() == pytest.approx(losses["tcl"].value.item() + 0.25 * losses["cir"].value.item())
    assert losses["cir"].value.item() > 0


@pytest.mark.parametrize(("changes", "names"), [({"cir_weight": 0}, {"tcl"}), ({"tcl_weight": 0}, {"cir"})])
def test_ablations_leave_the_other_loss_out(changes, names):
    assert tiny(**changes).pretext(batch()).keys() == names


def test_momentum_follows_by_eq_5_and_is_not_trained():
    method = tiny(momentum=0.9)
    before = method.key_encoder.module.conv1.weight.clone()
    with torch.no_grad():
        method.encoder.conv1.weight.add_(1.0)
    method.after_step()
    expected = 0.9 * before + 0.1 * method.encoder.conv1.weight
    torch.testing.assert_close(method.key_encoder.module.conv1.weight, expected)
    assert not any(parameter.requires_grad for parameter in method.key_encoder.parameters())


def test_the_queue_holds_the_keys_of_the_last_steps_with_their_identities():
    method = tiny()
    for step in range(3):
        method.pretext(batch(identity=[10 * step, 10 * step + 1, 10 * step + 2], seed=step))
    assert int(method.queue.filled) == 12
    assert sorted(method.queue.identities.tolist()) == sorted([10, 11, 12, 20, 21, 22] * 2)
    torch.testing.assert_close(method.queue.keys.norm(dim=1), torch.ones(12))


@pytest.mark.parametrize(("exclude", "repelled"), [("neighbours", True), ("both", False)])
def test_own_identity_is_never_a_neighbour(monkeypatch, exclude, repelled):
    masks_seen = {}
    monkeypatch.setattr(
        "facscale.methods.clp.reconstruction_loss", lambda q, k, **masks: masks_seen.update(masks) or q.sum()
    )
    method = tiny(exclude=exclude)
    method.queue.identities.fill_(7)
    method.queue.filled.fill_(12)
    method.pretext(batch(identity=[7, 7, 8]))
    own, other = slice(0, 4), slice(4, 6)  # two frames of each sample
    assert not masks_seen["may_neighbour_BM"][own].any()
    assert masks_seen["may_neighbour_BM"][other].all()
    assert masks_seen["may_repel_BM"][own].all() == repelled
    assert masks_seen["may_repel_BM"][other].all()


def test_neighbours_and_negatives_share_the_queue_without_overlap():
    method = tiny(neighbours=9)
    method.queue.filled.fill_(12)
    method.queue.identities.fill_(99)
    sizes = {}

    def spy(q, k, **masks):
        sizes.update({name: len(value) for name, value in masks.items() if name.endswith("MD")})
        return q.sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facscale.methods.clp.reconstruction_loss", spy)
        method.pretext(batch())
    assert sizes == {"neighbours_MD": 9, "negatives_MD": 3}


@pytest.mark.parametrize(
    "wrong", [{"tcl_weight": 0, "cir_weight": 0}, {"neighbours": 12}, {"momentum": 1.0}, {"length": 2}]
)
def test_impossible_hyper_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match="tcl_weight|neighbours|momentum|length"):
        tiny(**wrong)
