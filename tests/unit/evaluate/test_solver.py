import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from facscale.data.labels import compute_label_weights
from facscale.evaluate.probe import fit_probe, fit_probes, predict_probabilities
from facscale.evaluate.solver import (
    ProbeFit,
    ProbeParameters,
    _differentiate,
    slope_cross_entropy,
    slope_squared_error,
    train_probes,
)
from facscale.nn.heads import LinearProbe, to_intensities
from facscale.nn.losses import masked_bce, masked_mse
from facscale.spec.models import Probe


def cross_entropy(logits, *, y, weights):
    return masked_bce(logits, au=y, weights=weights)


def squared_error(logits, *, y, weights):
    """Of intensities, which have no weights."""
    assert (weights == 1).all()
    return masked_mse(to_intensities(logits), target=y)


SLOPES = {cross_entropy: slope_cross_entropy, squared_error: slope_squared_error}


def plain(model, *, x, y, weights, probe, random, loss_of=cross_entropy):
    """The usual loop: autograd, nn.BatchNorm1d and torch.optim.Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=probe.lr, weight_decay=probe.weight_decay)
    model.train()
    for _ in range(probe.epochs):
        for rows in torch.split(torch.randperm(len(x), generator=random), probe.batch_size):
            if len(rows) == 1:
                continue
            loss = loss_of(model(x[rows]), y=y[rows], weights=weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def problem(frames, *, dim=10, aus=4, dtype=torch.float64, seed=0):
    """Features of very different means and scales, labels with gaps, a probe that has begun somewhere."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(frames, dim, generator=random, dtype=torch.float64)
    wanted = x @ torch.randn(dim, aus, generator=random, dtype=torch.float64) > torch.arange(aus)
    y = torch.where(torch.rand(frames, aus, generator=random) < 0.2, -1, wanted.to(torch.int8))
    y[torch.arange(frames), torch.randint(aus, (frames,), generator=random)] = 0  # no frame without a label
    x = x * torch.logspace(-2, 2, dim) + torch.linspace(-30, 30, dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LinearProbe(dim=dim, aus=aus)
    weights = torch.from_numpy(compute_label_weights(y.numpy(), weighting="class"))
    return model.to(dtype), {"x": x.to(dtype), "y": y.to(torch.int8), "weights": weights.to(dtype)}


def train_alone(model, *, x, y, weights, probe, random, loss_of=cross_entropy):
    """The solver, on all frames."""
    fit = ProbeFit(model, torch.arange(len(x)), weights, random)
    train_probes([fit], x=x, y=y, probe=probe, slope=SLOPES[loss_of])


def both(model, data, *, probe, seed=3, loss_of=cross_entropy):
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    train_alone(ours, **data, probe=probe, random=torch.Generator().manual_seed(seed), loss_of=loss_of)
    plain(theirs, **data, probe=probe, random=torch.Generator().manual_seed(seed), loss_of=loss_of)
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    "frames", [320, 340, 321, 40, 2], ids=["whole batches", "a short last", "a last of one", "one short", "two frames"]
)
def test_it_is_the_usual_loop_to_rounding(frames, weight_decay):
    model, data = problem(frames)
    probe = Probe(epochs=12, batch_size=64, weight_decay=weight_decay)
    ours, theirs = both(model, data, probe=probe)
    assert not torch.allclose(ours[1].weight, model[1].weight, atol=0.05)  # something was learned at all
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(
            ours.state_dict()[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )
    torch.testing.assert_close(ours(data["x"]).sigmoid(), theirs(data["x"]).sigmoid(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("frames", [340, 321])
def test_intensities_are_learned_as_by_the_usual_loop(frames):
    model, data = problem(frames)
    random = torch.Generator().manual_seed(1)
    graded = torch.randint(0, 6, data["y"].shape, generator=random)
    data |= {"y": torch.where(data["y"] < 0, -1, graded).to(torch.int8), "weights": torch.ones_like(data["weights"])}
    ours, theirs = both(model, data, probe=Probe(epochs=12, batch_size=64), loss_of=squared_error)
    assert not torch.allclose(ours[1].weight, model[1].weight, atol=0.05)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)


def test_more_batches_than_are_prepared_at_once_keep_their_order():
    model, data = problem(333)
    ours, theirs = both(model, data, probe=Probe(epochs=3, batch_size=8))  # 42 batches an epoch
    assert ours[0].num_batches_tracked == theirs[0].num_batches_tracked == 126
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)


def test_an_au_that_is_never_labelled_stays_where_it_began():
    model, data = problem(200)
    data["y"][:, 1] = -1
    data["y"][:, 0] = 0  # no frame without a label
    data["weights"] = torch.from_numpy(compute_label_weights(data["y"].numpy(), weighting="class")).double()
    ours, theirs = both(model, data, probe=Probe(epochs=5, batch_size=64))
    assert torch.equal(ours[1].weight[1], model[1].weight[1])
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)


def test_a_batch_without_any_label_still_counts_as_a_step():
    model, data = problem(64)
    data["y"][:] = -1
    data["y"][:8] = 1  # most batches of 4 hold no label; Adam's momentum moves on in them
    data["weights"] = torch.ones(2, 4, dtype=torch.float64)
    ours, theirs = both(model, data, probe=Probe(epochs=4, batch_size=4))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)


def test_single_precision_far_from_zero():
    """Features whose mean is a thousand times their spread: a sum of squares would have no digit left."""
    exact, data = problem(400)
    data["x"] = data["x"] * torch.logspace(2, -2, 10) + 3000
    probe = Probe(epochs=6, batch_size=64)
    _, theirs = both(exact, data, probe=probe)
    single = {name: value if name == "y" else value.float() for name, value in data.items()}
    ours, _ = both(exact.float(), single, probe=probe)
    torch.testing.assert_close(
        ours[0].running_var.double(), theirs[0].running_var, rtol=1e-3, atol=0, msg=lambda m: f"variance: {m}"
    )
    torch.testing.assert_close(
        ours(single["x"]).sigmoid().double(), theirs(data["x"]).sigmoid(), rtol=0, atol=5e-3
    )  # float32 knows 3000 to 1e-4


def test_gradients_are_those_of_central_differences():
    """Of two probes, each on frames of its own."""
    model, data = problem(9, dim=3, aus=2)
    parts = [torch.arange(9), torch.tensor([8, 2, 2, 5, 0, 7, 1, 3, 3])]
    start = torch.cat(
        [model[1].weight.detach(), torch.tensor([[1.3, 0.7, -0.4], [0.2, -0.1, 0.5]], dtype=torch.float64)]
    )
    table = torch.stack([start, start.flip(1)])

    def loss(at, rows):
        x = torch.nn.functional.batch_norm(data["x"][rows], None, None, training=True)
        logits = (x * at[-2] + at[-1]) @ at[:-2].T
        return masked_bce(logits, au=data["y"][rows], weights=data["weights"])

    features = torch.stack([data["x"][rows] for rows in parts])
    au = torch.stack([data["y"][rows].T for rows in parts])
    weight = torch.where(au == 1, data["weights"][1][:, None], data["weights"][0][:, None]) * (au >= 0)
    found = torch.zeros_like(table)
    _differentiate(
        features - features.mean(1, keepdim=True),
        (features.var(1, correction=0) + 1e-5).rsqrt(),
        (au == 1).double(),
        weight / (au >= 0).sum((1, 2), keepdim=True),
        parameters=ProbeParameters.view(table),
        out=ProbeParameters.view(found),
        slope=slope_cross_entropy,
    )
    for place in np.ndindex(*table.shape):
        rows, step = parts[place[0]], torch.zeros_like(start)
        step[place[1:]] = 1e-6
        slope = (loss(table[place[0]] + step, rows) - loss(table[place[0]] - step, rows)) / 2e-6
        assert found[place].item() == pytest.approx(slope.item(), abs=1e-8)


def test_a_fitted_probe_says_what_the_usual_one_says():
    """In single precision, with frames that have no label, for which the usual loop is given only the others."""
    _, data = problem(500, dim=12, dtype=torch.float32)
    features, au = data["x"].numpy(), data["y"].numpy().copy()
    au[::7] = -1
    probe = Probe(epochs=10, batch_size=64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = LinearProbe(dim=12, aus=4)
    labelled = (au >= 0).any(axis=1)
    plain(
        theirs,
        x=torch.from_numpy(features[labelled]),
        y=torch.from_numpy(au[labelled]),
        weights=torch.from_numpy(compute_label_weights(au, weighting="class")),
        probe=probe,
        random=torch.Generator().manual_seed(5),
    )
    ours = predict_probabilities(fit_probe(features, au=au, probe=probe, seed=5), features=features)
    np.testing.assert_allclose(ours, predict_probabilities(theirs.eval(), features=features), atol=1e-3)


@pytest.mark.parametrize("available", [2, 8])
def test_the_process_keeps_its_cores(monkeypatch, available):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(available)))
    cores = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        _, data = problem(40, dtype=torch.float32)
        rows = {seed: np.arange(40) for seed in range(3)}
        fit_probes(data["x"], au=data["y"].numpy(), rows=rows, probe=Probe(epochs=1))
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # threads that begin later as well
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(cores)


def test_an_error_in_the_preparing_thread_reaches_the_caller():
    model, data = problem(40)
    with pytest.raises(RuntimeError, match=r"tensor b \(7\)"):
        train_alone(model, **{**data, "x": data["x"][:, :7]}, probe=Probe(epochs=1), random=torch.Generator())
