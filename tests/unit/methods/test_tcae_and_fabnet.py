"""TCAE and FAb-Net: their equations written out sample by sample, in float64."""

from __future__ import annotations

import pytest
import torch

from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts, find_method
from facscale.methods.base import sum_losses
from facscale.nn.displacement import identity_grid
from overfitting import overfit

SIZE = 32


def built(name, **options):
    torch.manual_seed(0)
    kind = find_method(name)
    return kind(kind.Config(**options), DataFacts(image_size=SIZE))


def pair(method, *, samples=4, seed=0):
    return make_random_batch(method.train_views(method.config), size=SIZE, aus=0, samples=samples, seed=seed)


def sampled(image, grid):
    """image [3, S, S] taken at grid [2, S, S]."""
    at = grid.permute(1, 2, 0)[None]
    return torch.nn.functional.grid_sample(image[None], at, padding_mode="zeros", align_corners=True)[0]


def slow_terms(method, source, target):
    """The published equations for one sample, in eval mode (BatchNorm uses running statistics)."""
    e, identity = method.encoder, identity_grid(SIZE, like=source)

    def embed(image):
        result = e.embed_twins(image[None])
        return result.au[0], result.pose[0]

    def decode(decoder, first, second):
        maps = decoder(torch.cat([first, second])[None])[0]
        return (identity + maps[:2]).clamp(-1, 1), maps[2], maps[:2]

    phi_s, psi_s = embed(source)
    phi_t, psi_t = embed(target)
    grid_a, mask_a, raw_a = decode(method.au_decoder, phi_s, phi_t)
    grid_p, mask_p, raw_p = decode(method.pose_decoder, psi_s, psi_t)
    share = mask_a.exp() / (mask_a.exp() + mask_p.exp())
    together = (identity + share * raw_a + (1 - share) * raw_p).clamp(-1, 1)
    au_changed, pose_changed = sampled(source, grid_a), sampled(source, grid_p)
    phi_a, psi_a = embed(au_changed)
    phi_p, psi_p = embed(pose_changed)
    back_a, _, _ = decode(method.au_decoder, phi_a, phi_s)
    back_p, _, _ = decode(method.pose_decoder, psi_p, psi_s)
    pixels, numbers = 3 * SIZE * SIZE, 256
    return {
        "reconstruction": (sampled(source, together) - target).abs().sum() / pixels,
        "sparsity": (grid_a - identity).abs().sum() / (2 * SIZE * SIZE),
        "au_cycle": (sampled(au_changed, back_a) - source).abs().sum() / pixels,
        "pose_cycle": (sampled(pose_changed, back_p) - source).abs().sum() / pixels,
        "au_embedding": ((psi_a - psi_s) ** 2).sum() / numbers + ((phi_a - phi_t) ** 2).sum() / numbers,
        "pose_embedding": ((phi_p - phi_s) ** 2).sum() / numbers + ((psi_p - psi_t) ** 2).sum() / numbers,
    }


def test_terms_are_the_papers_equations():
    method = built("tcae").double().eval()
    images = pair(method).pair.images[:, :, 0].double()
    result = method.compute_errors(*images.unbind(1))
    assert set(result) == set(slow_terms(method, *images[0]))
    for number, (source, target) in enumerate(images):
        for name, value in slow_terms(method, source, target).items():
            assert result[name][number].item() == pytest.approx(value.item(), abs=1e-10), name


def test_the_total_loss_has_the_papers_weights():
    method = built("tcae").eval()
    batch = pair(method)
    losses = method.twin_cycles(batch)
    weights = {name: loss.weight for name, loss in losses.items()}
    assert weights == {
        "reconstruction": 1.0,
        "sparsity": 0.01,
        "au_cycle": 0.1,
        "pose_cycle": 0.1,
        "au_embedding": 0.1,
        "pose_embedding": 0.1,
    }
    errors = method.compute_errors(*batch.pair.images[:, :, 0].unbind(1))
    assert sum_losses(losses).item() == pytest.approx(
        sum(weights[n] * errors[n].mean().item() for n in errors), rel=1e-5
    )


def test_ten_times_the_losses_are_ten_times_the_rate():
    """The code's weights (10, 0.1, 1, 1) at 0.001 make the steps of the paper's (1, 0.01, 0.1, 0.1) at 0.01, jobs/tcae.yaml's."""
    weights = {
        "reconstruction": 10,
        "sparsity": 0.1,
        "au_cycle": 1,
        "pose_cycle": 1,
        "au_embedding": 1,
        "pose_embedding": 1,
    }
    methods = [built("tcae").double().train() for _ in range(2)]
    optimizers = [
        torch.optim.SGD(method.parameters(), lr=rate, momentum=0.9)
        for method, rate in zip(methods, (0.01, 0.001), strict=True)
    ]
    for seed in range(2):
        batch = pair(methods[0], samples=2, seed=seed)
        batch.pair.images = batch.pair.images.double()
        papers, codes = (method.twin_cycles(batch) for method in methods)
        for loss, optimizer in zip(
            (sum_losses(papers), sum(weights[name] * loss.value for name, loss in codes.items())),
            optimizers,
            strict=True,
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for (name, paper), code in zip(methods[0].named_parameters(), methods[1].parameters(), strict=True):
        torch.testing.assert_close(paper, code, atol=1e-10, rtol=1e-8, msg=name)


def test_only_the_easy_half_of_a_batch_is_trained_at_first():
    method = built("fabnet").eval()  # BatchNorm would carry gradient from sample to sample
    method.curriculum.train()
    batch = pair(method, samples=6)
    batch.pair.images[:3, 1] = batch.pair.images[:3, 0]  # nothing to rebuild: easy
    batch.pair.images.requires_grad_()
    sum_losses(method.rebuild(batch)).backward()
    with torch.no_grad():
        rebuilt = method.visualize(batch)["rebuilt"]
    errors = (rebuilt - batch.pair.images[:, 1, 0]).abs().mean((1, 2, 3))
    easy = set(errors.argsort()[:3].tolist())
    trained_parameters = {n for n in range(6) if batch.pair.images.grad[n, 1].abs().sum() > 1e-4}
    assert easy == trained_parameters


@pytest.mark.parametrize("name", ["tcae", "fabnet"])
def test_predict_motion_and_visualize(name):
    method = built(name).eval()
    batch = pair(method, samples=2)
    with torch.no_grad():
        motion = method.predict_motion(*batch.pair.images[:, :, 0].unbind(1))
        pictures = method.visualize(batch)
    assert set(motion) == ({"au", "pose", "all"} if name == "tcae" else {"all"})
    assert all(value.shape == (2, 2, SIZE, SIZE) for value in motion.values())
    assert all(value.shape in {(2, 3, SIZE, SIZE), (2, 2, SIZE, SIZE)} for value in pictures.values())


@pytest.mark.parametrize("name", ["tcae", "fabnet"])
def test_a_shift_can_be_learned(name):
    """One batch of smooth faces that are shifted: the reconstruction is far better than the source itself."""
    method = built(name).train()
    random = torch.Generator().manual_seed(1)
    coarse = torch.rand(8, 3, 6, 6, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=(SIZE + 8, SIZE + 8), mode="bicubic").clamp(0, 1)
    batch = pair(method, samples=8)
    for n in range(8):
        dx, dy = int(torch.randint(0, 8, (), generator=random)), int(torch.randint(0, 8, (), generator=random))
        batch.pair.images[n, 0, 0] = smooth[n, :, 4 : 4 + SIZE, 4 : 4 + SIZE]
        batch.pair.images[n, 1, 0] = smooth[n, :, dy : dy + SIZE, dx : dx + SIZE]
    source, target = batch.pair.images[:, :, 0].unbind(1)
    method.curriculum.eval()  # all samples
    overfit(method, batch, steps=80, lr=1e-3)
    rebuilt = method.visualize(batch)["rebuilt"]
    assert (rebuilt - target).abs().mean() < 0.5 * (source - target).abs().mean()
