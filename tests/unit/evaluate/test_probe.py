import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch.nn import functional

from crossval import cross_validate
from facscale.data.folds import make_folds
from facscale.data.labels import compute_label_weights
from facscale.evaluate import count_positives, find_frames
from facscale.evaluate.probe import fit_probe, fit_probes, predict_probabilities
from facscale.evaluate.solver import ProbeFit, train_probes
from facscale.nn.heads import LinearProbe
from facscale.nn.losses import masked_bce
from facscale.spec.models import Probe

QUICK = Probe(epochs=15, batch_size=64)


def separable(frames=600, *, dim=16, aus=3, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(frames, dim)).astype(np.float32)
    au = (features @ random.normal(size=(dim, aus)) > [0, 1, 3][:aus]).astype(np.int8)
    identity = np.array([f"id{number}" for number in range(frames // 50)]).repeat(50)
    return features, au, identity


@pytest.mark.parametrize("cores", [1, 5, 8])
def test_probes_that_are_fitted_together_equal_those_that_are_fitted_one_by_one(monkeypatch, cores):
    """Bit by bit, in groups of 4, 2 and 1; they end at different steps, some with a short batch."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    features, au, _ = separable(300)
    rows = {fold: np.flatnonzero(np.arange(len(features)) % (fold + 2) != 0) for fold in range(4)}
    rows[3] = rows[3][:65]  # one frame more than a batch
    before = torch.random.get_rng_state()
    together = fit_probes(features, au=au, rows=rows, probe=QUICK)
    assert torch.equal(torch.random.get_rng_state(), before)
    for fold, probe in together.items():
        alone = fit_probe(features[rows[fold]], au=au[rows[fold]], probe=QUICK, seed=fold).state_dict()
        assert all(torch.equal(value, alone[name]) for name, value in probe.state_dict().items())


def test_the_loss_is_a_slow_loop():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=random, dtype=torch.float64)
    au = torch.randint(-1, 2, (7, 3), generator=random)
    weights = torch.rand(2, 3, generator=random, dtype=torch.float64)
    total, known = 0.0, 0
    for frame in range(7):
        for number in range(3):
            if au[frame, number] < 0:
                continue
            p = 1 / (1 + np.exp(-logits[frame, number].item()))
            y = au[frame, number].item()
            total -= weights[y, number].item() * np.log(p if y else 1 - p)
            known += 1
    assert masked_bce(logits, au=au, weights=weights).item() == pytest.approx(total / known)


def test_unlabelled_entries_have_no_gradient():
    logits = torch.randn(5, 2, requires_grad=True)
    au = torch.tensor([[1, -1], [-1, 0], [0, 1], [-1, -1], [1, 1]])
    masked_bce(logits, au=au, weights=torch.ones(2, 2)).backward()
    assert ((logits.grad == 0) == (au < 0)).all()


def test_without_labels_the_loss_is_zero_not_nan():
    loss = masked_bce(torch.randn(2, 2), au=torch.full((2, 2), -1), weights=torch.ones(2, 2))
    assert loss.item() == 0


def test_weights_by_class_make_both_classes_equal():
    au = np.array([[1], [0], [0], [0]], np.int8)
    weights = compute_label_weights(au, weighting="class")
    assert weights[1, 0] * 1 == pytest.approx(weights[0, 0] * 3)
    assert compute_label_weights(au, weighting="none").tolist() == [[1], [1]]


@pytest.mark.parametrize("weighting", ["class", "au", "none"])
def test_the_spec_chooses_the_weights_of_the_labels(weighting):
    """The same as the solver with these weights; without weights, probabilities are as frequent as positives."""
    features, au, _ = separable(aus=3)
    probe = Probe(epochs=10, batch_size=64, weighting=weighting)
    found = predict_probabilities(fit_probe(features, au=au, probe=probe, seed=3), features=features)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LinearProbe(dim=features.shape[1], aus=3)
    weights = torch.from_numpy(compute_label_weights(au, weighting=weighting))
    fit = ProbeFit(model, torch.arange(len(features)), weights, torch.Generator().manual_seed(3))
    train_probes([fit], x=torch.from_numpy(features), y=torch.from_numpy(au), probe=probe)
    assert np.array_equal(found, predict_probabilities(model.eval(), features=features))
    excess = found[:, 2].mean() - au[:, 2].mean()  # of a rare AU
    assert excess > 0.05 if weighting == "class" else abs(excess) < 0.03


def test_it_finds_what_balanced_logistic_regression_finds():
    features, au, _ = separable(1200)
    model = fit_probe(features[:800], au=au[:800], probe=Probe(epochs=30, batch_size=64), seed=0)
    found = predict_probabilities(model, features=features[800:]) >= 0.5
    for number in range(3):
        theirs = LogisticRegression(class_weight="balanced").fit(features[:800], au[:800, number])
        assert (found[:, number] == theirs.predict(features[800:])).mean() > 0.95
        assert f1_score(au[800:, number], found[:, number]) > 0.85


def test_masked_labels_change_nothing():
    features, au, _ = separable()
    hidden = au.copy()
    hidden[::2, 1] = -1
    lies = np.where(hidden == -1, 1 - au, hidden)  # what stands behind the mask must not matter
    one = fit_probe(features, au=np.where(hidden == -1, -1, lies).astype(np.int8), probe=QUICK, seed=0)
    other = fit_probe(features, au=hidden, probe=QUICK, seed=0)
    assert np.array_equal(
        predict_probabilities(one, features=features), predict_probabilities(other, features=features)
    )
    unmasked = fit_probe(features, au=lies, probe=QUICK, seed=0)
    assert not np.array_equal(
        predict_probabilities(unmasked, features=features), predict_probabilities(other, features=features)
    )


def test_frames_without_labels_are_left_out():
    features, au, _ = separable()
    noise = np.full((100, features.shape[1]), 1e6, np.float32)  # would ruin BatchNorm's statistics
    more = np.concatenate([features, noise]), np.concatenate([au, np.full((100, 3), -1, np.int8)])
    one = fit_probe(features, au=au, probe=QUICK, seed=0)
    other = fit_probe(more[0], au=more[1], probe=QUICK, seed=0)
    assert np.array_equal(
        predict_probabilities(one, features=features), predict_probabilities(other, features=features)
    )
    with pytest.raises(ValueError, match="at least 2"):
        fit_probe(features, au=np.full_like(au, -1), probe=QUICK, seed=0)


def test_the_same_seed_is_the_same_probe_whatever_happened_before():
    features, au, _ = separable()
    one = predict_probabilities(fit_probe(features, au=au, probe=QUICK, seed=1), features=features)
    torch.randn(17)
    assert np.array_equal(
        one, predict_probabilities(fit_probe(features, au=au, probe=QUICK, seed=1), features=features)
    )
    assert not np.array_equal(
        one, predict_probabilities(fit_probe(features, au=au, probe=QUICK, seed=2), features=features)
    )


def test_the_process_generator_is_left_alone():
    features, au, _ = separable(100)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fit_probe(features, au=au, probe=Probe(epochs=1), seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_read_only_features_are_taken_and_left_as_they_are():
    """As Ray hands them over."""
    features, au, _ = separable(100)
    features.flags.writeable = au.flags.writeable = False
    before = features.copy()
    fit_probe(features, au=au, probe=Probe(epochs=1), seed=0)
    assert np.array_equal(features, before)


def test_a_last_batch_of_one_is_no_error():
    features, au, _ = separable(100)
    fit_probe(features[:65], au=au[:65], probe=Probe(epochs=1, batch_size=64), seed=0)


def test_cross_validation_tests_people_it_has_not_seen():
    """Features that name the person, labels that are the person's: perfect within, worthless across people."""
    random = np.random.default_rng(0)
    identity = np.array([f"id{number}" for number in range(12)]).repeat(40)
    codes = functional.one_hot(torch.arange(12)).float().numpy().repeat(40, axis=0)
    features = codes + 0.01 * random.normal(size=codes.shape).astype(np.float32)
    au = np.repeat(random.permutation([0, 1] * 6), 40)[:, None].astype(np.int8)
    split = make_folds(identity, seed=0, positives=count_positives(au, identity=identity))
    table = cross_validate(features, au=au, identity=identity, aus=[12], split=split, name="leak", probe=QUICK)
    seen = predict_probabilities(fit_probe(features, au=au, probe=QUICK, seed=0), features=features)
    assert ((seen >= 0.5) == au).mean() == 1
    assert table.rows[0].mean < 0.8


def test_cross_validation_by_fold_is_the_probe_of_each_fold():
    features, au, identity = separable()
    split = make_folds(identity, seed=0)
    row = cross_validate(
        features, au=au, identity=identity, aus=[1, 2, 4], split=split, name="x", probe=QUICK, seed=5
    ).rows[0]
    for fold in split:
        train, test = find_frames(fold.train, identity=identity), find_frames(fold.test, identity=identity)
        assert not set(identity[train]) & set(identity[test])
        found = predict_probabilities(
            fit_probe(features[train], au=au[train], probe=QUICK, seed=5 + fold.index), features=features[test]
        )
        assert row.by_fold[fold.index] == pytest.approx(f1_score(au[test], found >= 0.5, average=None))
    assert row.source == split.source


def test_a_fold_without_frames_is_named():
    features, au, identity = separable()
    split = make_folds([*identity, "absent0", "absent1", "absent2"], k=15, seed=0)
    with pytest.raises(ValueError, match=r"fold\d+ has .* needs both"):
        cross_validate(features, au=au, identity=identity, aus=[1, 2, 4], split=split, name="x", probe=QUICK)


def test_positives_by_person():
    au = np.array([[1, 0], [1, -1], [0, 1]], np.int8)
    found = count_positives(au, identity=np.array(["a", "a", "b"]))
    assert {name: line.tolist() for name, line in found.items()} == {"a": [2, 0], "b": [0, 1]}
