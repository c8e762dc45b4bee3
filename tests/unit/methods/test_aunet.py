"""AUNet: its equations by hand, its size against the paper's, its frozen parts, and motion."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from facscale import methods
from facscale.data.labels import compute_au_weights
from facscale.inference import export
from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts
from facscale.methods.base import sum_losses
from facscale.spec import SpecError
from overfitting import overfit

KIND = methods.find_method("aunet")
BP4D = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
TINY = {"width": 16, "hidden": 16, "resnet_width": 8}
SETS = ((1, 2, 4), (12, 4))  # their union is AUS
AUS = (1, 2, 4, 12)


def facts_of(*, sets=((1, 2, 4, 12),), size=64):
    weights = tuple(0.4 + 0.4 * n for n in range(len(AUS)))
    return DataFacts(aus=AUS, au_weights=weights, sets=sets, image_size=size)


def fan_of(facts, **options):
    return export.build_method("fan", methods.find_method("fan").Config(**{"width": 16, "levels": 2, **options}), facts)


def labels_of(facts, **options):
    return export.build_method("labelvae", methods.find_method("labelvae").Config(**{"latent": 8, **options}), facts)


def build(*, fan=True, labels=True, facts=None, **options):
    torch.manual_seed(0)
    facts = facts or facts_of()
    inputs = {"fan": fan_of(facts)} if fan else {}
    inputs |= {"labels": labels_of(facts)} if labels else {}
    return export.build_method("aunet", KIND.Config(**{**TINY, **options}), facts, **inputs)


def batch_of(method, *, samples=4, seed=0, views=None):
    """Smooth faces of noise; the five points of neighbours lie a little apart."""
    views = views or KIND.train_views(method.config)
    size = method.facts.image_size
    batch = make_random_batch(views, size=size, aus=len(method.facts.aus), samples=samples, seed=seed)
    random = torch.Generator().manual_seed(seed)
    few = torch.rand(*batch.face.images.shape[:3], 3, 8, 8, generator=random)
    batch.face.images = torch.nn.functional.interpolate(few.flatten(0, 2), size=size, mode="bicubic").view(
        batch.face.images.shape
    )
    if "landmarks" in batch.face.columns:
        upright = size * (0.2 + 0.6 * torch.rand(68, 2, generator=random))
        shape = batch.face.landmarks.shape
        batch.face.columns["landmarks"] = upright + 3 * torch.rand(shape, generator=random)
    return batch


def mixed(**options):
    """A method of two data sets, and six frames of both: the fourth and the last lack a label of their own set."""
    method = build(facts=facts_of(sets=SETS), interval=0, **options).eval()
    batch = batch_of(method, samples=6)
    batch.face.columns["data_set"] = torch.tensor([[0], [1], [0], [0], [1], [1]])
    batch.face.columns["au"] = torch.tensor(
        [[[1, 0, 1, -1]], [[-1, -1, 0, 1]], [[0, 1, 0, -1]], [[1, -1, 0, -1]], [[-1, -1, 1, 0]], [[-1, -1, 1, -1]]],
        dtype=torch.int8,
    )
    return method, batch


def trained_parameters(method):
    return [p for root in method.trainable_roots() for n in root.modules for p in method.get_submodule(n).parameters()]


@pytest.mark.parametrize(
    ("options", "parameters", "operations"),
    [({"interval": 0, "labels": False}, 1.86, 3.02), ({"interval": 10}, 2.66, 3.84)],
    ids=["AU-FAN", "AUNet"],
)
def test_the_size_is_the_papers(options, parameters, operations):
    """Section V.F: what is trained, in millions and GFLOPs; FAN apart: 12.11 M and 13.97 GFLOPs.

    A multiplication and an addition are one operation, and FAN is counted on one frame; a step of AUNet runs it three
    times.
    """
    facts = DataFacts(aus=BP4D, au_weights=(1.0,) * 12, sets=(BP4D,), image_size=256)
    with torch.device("meta"):
        inputs = {"fan": fan_of(facts, width=256, levels=4)}
        if options.pop("labels", True):
            inputs["labels"] = labels_of(facts, latent=8)
        method = export.build_method("aunet", KIND.Config(**options), facts, **inputs).eval()
        clip = torch.rand(1, 3 if method.config.interval else 1, 3, 256, 256)
    learning = sum(p.numel() for p in trained_parameters(method) if p.requires_grad)
    assert learning / 1e6 == pytest.approx(parameters, rel=0.003)
    frozen = method.encoder.basic
    assert sum(p.numel() for p in frozen.parameters()) / 1e6 == pytest.approx(12.11, rel=0.003)
    fan_gflops = count_gflops(lambda: frozen(clip[:, 0]))
    assert fan_gflops == pytest.approx(13.97, rel=0.03)
    gflops = count_gflops(lambda: method.classifier(method.encoder.embed_clips(clip)))
    assert gflops - clip.shape[1] * fan_gflops == pytest.approx(operations, rel=0.01)


def count_gflops(run):
    """GFLOPs of a forward pass; a multiplication and an addition are one operation."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2e9


def test_classification_is_eq_1_with_weights_of_the_labels():
    r"""w_i = (1 / r_i) / sum 1 / r_k, summed over AUs: with the code's factor n and the mean over AUs the same."""
    labels = [[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 1]]
    rates = [2 / 4, 3 / 4, 1 / 4, 2 / 4]
    weights = [1 / r / sum(1 / rate for rate in rates) for r in rates]
    au = torch.tensor(labels, dtype=torch.int8)
    facts = DataFacts(aus=AUS, au_weights=tuple(map(float, compute_au_weights(au.numpy()))), sets=(AUS,), image_size=64)
    method = build(facts=facts, interval=0, labels=False, flip_at_test=False).eval()
    batch = batch_of(method)
    batch.face.columns["au"] = au[:, None]
    logits = method.predict(batch).tolist()

    def cost(row, column):
        p = 1 / (1 + math.exp(-logits[row][column]))
        return -weights[column] * math.log(p if labels[row][column] else 1 - p)

    entries = [(row, column) for row in range(4) for column in range(4)]
    eq_1 = sum(cost(*entry) for entry in entries) / 4  # mean over frames
    assert method.classify(batch)["bce"].value.item() == pytest.approx(eq_1, rel=1e-5)
    missing = {(0, 1), (3, 0), (3, 2)}
    for row, column in missing:
        batch.face.au[row, 0, column] = -1
    left = [4 * cost(*entry) for entry in entries if entry not in missing]  # n w_i
    assert method.classify(batch)["bce"].value.item() == pytest.approx(sum(left) / len(left), rel=1e-5)


def test_by_option_both_classes_of_an_au_weigh_the_same():
    facts = replace(facts_of(), label_weights=((0.6, 0.7, 0.8, 0.9), (3.0, 2.0, 1.5, 1.2)))
    method = build(facts=facts, interval=0, labels=False, weighting="class").eval()
    batch = batch_of(method)
    loss = method.classify(batch)["bce"].value
    logits, au = method.classifier(method.encoder.embed_clips(batch.face.images[:, :, 0])), batch.face.au[:, 0]
    terms = [
        -facts.label_weights[int(label)][n] * math.log(1 / (1 + math.exp(-(logit if label else -logit))))
        for row, labels in zip(logits.tolist(), au.tolist(), strict=True)
        for n, (logit, label) in enumerate(zip(row, labels, strict=True))
        if label >= 0
    ]
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def slow_encode(coder, values):
    """Mean and logarithm of the variance of one label, number by number in float64."""

    def layer(linear, given):
        return [
            sum(w * v for w, v in zip(row, given, strict=True)) + b
            for row, b in zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
        ]

    hidden = [max(0.0, h) for h in layer(coder.hidden[0], values)]
    return layer(coder.mean, hidden), layer(coder.log_variance, hidden)


@pytest.mark.parametrize("consistency", ["paper", "code"])
def test_consistency_is_eq_3_on_each_sets_own_vae(consistency):
    method, batch = mixed(consistency=consistency, flip_at_test=False, consistency_weight=0.7)
    with torch.no_grad():  # as if trained: variances differ
        for p in method.labels.parameters():
            p.add_(0.5 * torch.randn_like(p))
    logits, result, count = method.predict(batch).tolist(), 0.0, 0
    for row, columns, coder in ((0, [0, 1, 2], 0), (1, [3, 2], 1), (2, [0, 1, 2], 0), (4, [3, 2], 1)):
        own = method.labels.coders[coder]
        mean, log_variance = slow_encode(own, [1 / (1 + math.exp(-logits[row][c])) for c in columns])
        true_mean, true_log_variance = slow_encode(own, [batch.face.au[row, 0, c].item() for c in columns])
        squares = [(m - t) ** 2 for m, t in zip(mean, true_mean, strict=True)]
        if consistency == "paper":
            result += sum(squares)
            result += sum(
                (math.exp(a) - math.exp(b)) ** 2 for a, b in zip(log_variance, true_log_variance, strict=True)
            )
        else:
            result += sum(squares) / 8 + sum(math.exp(lv / 2) for lv in log_variance) / 8
        count += 1
    losses = method.classify(batch)
    assert losses["consistency"].value.item() == pytest.approx(result / count, rel=1e-4)
    eq_4 = losses["bce"].value.item() + 0.7 * result / count
    assert sum_losses(losses).item() == pytest.approx(eq_4, rel=1e-4)


def test_only_complete_frames_and_aus_of_their_set_are_pulled():
    method, batch = mixed()
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    method.consistency_loss(logits, batch).backward()
    pulled = [[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert (logits.grad != 0).int().tolist() == pulled


@pytest.mark.parametrize("left", [[1, 4], [3, 5]], ids=["of one set", "none complete"])
def test_batches_without_a_set_still_train(left):
    method, batch = mixed()
    batch.face = batch["face"] = type(batch.face)(
        batch.face.images[left],
        batch.face.identity[left],
        batch.face.augmentation[left],
        {name: values[left] for name, values in batch.face.columns.items()},
    )
    losses = method.classify(batch)
    assert (losses["consistency"].value.item() > 0) == (left == [1, 4])
    sum_losses(losses).backward()
    learning = [p for p in trained_parameters(method) if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)


def test_labels_of_the_frame_in_the_middle_are_learned():
    """Of three frames, those beside may well be labelled otherwise."""
    method = build().eval()
    batch = batch_of(method)
    losses = {name: loss.value.item() for name, loss in method.classify(batch).items()}
    batch.face.au[:, [0, 2]] = 1 - batch.face.au[:, [0, 2]]
    assert {name: loss.value.item() for name, loss in method.classify(batch).items()} == losses
    batch.face.au[:, 1] = 1 - batch.face.au[:, 1]
    changed = method.classify(batch)
    assert all(changed[name].value.item() != pytest.approx(losses[name]) for name in ("bce", "consistency"))


def test_fan_and_the_labels_vae_are_frozen_and_the_vae_lets_gradient_through():
    method = build()
    batch = batch_of(method)
    method.train()
    frozen = {"fan": method.encoder.basic, "labels": method.labels}
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in frozen.items()}
    trunk = method.encoder.stages[0][0].bn1.running_mean.clone()
    overfit(method, batch, steps=3, lr=0.01)
    assert not torch.equal(method.encoder.stages[0][0].bn1.running_mean, trunk)
    for name, part in frozen.items():
        assert all(torch.equal(value, before[name][key]) for key, value in part.state_dict().items()), name
        assert not any(p.requires_grad for p in part.parameters()), name
    method.zero_grad()
    method.classify(batch)["consistency"].value.backward()
    assert all(p.grad is None for part in frozen.values() for p in part.parameters())
    assert all(p.grad.abs().sum() > 0 for p in (method.classifier[3].weight, method.encoder.narrow.weight))


def test_predictions_are_averaged_with_the_mirrored_faces():
    method = build().eval()
    batch = batch_of(method, views=KIND.eval_views(method.config))
    clips = batch.face.images[:, :, 0]
    plain, mirrored = (method.classifier(method.encoder.embed_clips(c)) for c in (clips, clips.flip(-1)))
    assert not torch.allclose(plain, mirrored)
    torch.testing.assert_close(method.predict(batch), (plain + mirrored) / 2)
    once = build(flip_at_test=False).eval()
    torch.testing.assert_close(once.predict(batch), plain)


@pytest.mark.parametrize("interval", [0, 7])
def test_views_of_training_and_evaluation(interval):
    config = KIND.Config(interval=interval)
    (sample,), (judged,) = KIND.train_views(config).values(), KIND.eval_views(config).values()
    assert sample.count == judged.count == (3 if interval else 1)
    assert sample.choose(20, 100, None).tolist() == ([13, 20, 27] if interval else [20])
    assert {"au", "data_set"} <= set(sample.columns)
    assert not {"au", "data_set"} & set(judged.columns)
    if interval:
        assert sample.choose(5, 100, None).tolist() == [5, 5, 12]  # the frame itself stands in for a missing neighbour
        assert sample.choose(95, 100, None).tolist() == [88, 95, 95]
        assert sample.is_aligned
        assert judged.is_aligned
        assert not KIND.train_views(KIND.Config(interval=interval, align=False))["face"].is_aligned
        assert sample.shared
        assert judged.shared
        assert "landmarks" in sample.columns
        assert "landmarks" in judged.columns


ROWS = {
    "AU-FAN": {"interval": 0, "labels": False},
    "AU-VAE": {"interval": 0},
    "AU-TDN": {"labels": False},
    "AUNet": {},
    "AUNet, the code's consistency": {"consistency": "code"},
    "ResNet18": {"interval": 0, "labels": False, "fan": False},
    "ResNet18-A": {"fan": False},
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_papers_tables_can_overfit_a_batch(row):
    options = ROWS[row]
    method = build(facts=facts_of(size=32), **options).train()
    batch = batch_of(method, samples=8)
    history = overfit(method, batch, steps=40, lr=1e-2)
    assert history[-1]["bce"] < 0.3 * history[0]["bce"]
    assert ("consistency" in history[0]) == options.get("labels", True)
    if "consistency" in history[0]:
        assert history[-1]["consistency"] < history[0]["consistency"]
    batch.face.columns = {name: v for name, v in batch.face.columns.items() if name == "landmarks"}
    assert method.eval().predict(batch).shape == (8, 4)


def test_a_given_resnet_is_trained_on():
    torch.manual_seed(0)
    given = export.build_method("supervised", methods.find_method("supervised").Config(depth=34, width=4), DataFacts())
    method = export.build_method("aunet", KIND.Config(**TINY, interval=0), facts_of(), pretrained=given)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(method.eval().encoder(images), given.eval().encoder(images))


def test_visualize_shows_the_maps_of_the_trunk():
    method = build().eval()
    batch = batch_of(method, samples=2)
    columns = method.visualize(batch)
    assert list(columns) == ["face", "16 x 16", "8 x 8", "4 x 4", "motion 1", "motion 2"]
    assert torch.equal(columns["face"], batch.face.images[:, 1, 0])
    for name, images in list(columns.items())[1:]:
        assert images.shape == (2, 3, 64, 64)
        assert (images.amin((1, 2, 3)) == 0).all(), name
        assert images.amax((1, 2, 3)).tolist() == pytest.approx([1, 1]), name
    static = method.encoder.extract_maps(batch.face.images[:, :, 0]).static[0].abs().mean(1)
    darkest = static.flatten(1).argmin(1)
    assert (columns["16 x 16"][:, 0, ::4, ::4].flatten(1).argmin(1) == darkest).all()


def test_wrong_inputs_are_refused():
    facts = facts_of()
    fan, labels = fan_of(facts), labels_of(facts)
    other = labels_of(facts_of(sets=SETS))
    config = KIND.Config(**TINY)
    for inputs, message in (
        ({"fan": labels}, "inputs.fan is labelvae, which has no FAN as its encoder"),
        ({"labels": fan}, "inputs.labels must be a label VAE of exactly the data sets"),
        ({"fan": fan, "labels": other}, "inputs.labels must be a label VAE of exactly the data sets"),
        ({"pretrained": fan}, "inputs.pretrained is fan, which has no ResNet as its encoder"),
        ({"fan": fan_of(facts, stacks=1)}, "method.stacks is 2, but the FAN of inputs.fan has 1"),
    ):
        with pytest.raises(SpecError, match=message):
            export.build_method("aunet", config, facts, **inputs)


@pytest.mark.parametrize("wrong", [{"width": 6}, {"resnet_width": 5}, {"motion": 1.1}, {"interval": -1}])
def test_impossible_hyper_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KIND.Config(**wrong)
