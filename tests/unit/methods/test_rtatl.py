"""RTATL: its equations against slow versions, its size against the paper's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from facscale import methods
from facscale.data.views import Batch
from facscale.inference import export
from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts
from facscale.nn.rois import fill_missing, mask_random_au
from facscale.spec import SpecError
from overfitting import overfit

AUS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
KIND = methods.find_method("rtatl")
TINY = {"width": 8, "hidden": 16, "patch_width": 16}


def build(*, size=64, aus=AUS[:5], **options):
    torch.manual_seed(0)
    config = KIND.Config(**{**TINY, **options})
    weights = tuple(tuple(0.5 + 0.1 * n for n in range(len(aus))) for _ in range(2))
    return export.build_method("rtatl", config, DataFacts(aus=aus, label_weights=weights, image_size=size))


def batch_of(method, *, samples=4, seed=0):
    """With landmarks of an upright face, each moved a little."""
    batch = make_random_batch(
        KIND.train_views(method.config),
        size=method.facts.image_size,
        aus=len(method.facts.aus),
        samples=samples,
        seed=seed,
    )
    random = torch.Generator().manual_seed(seed)
    for faces in batch.values():
        shape = faces.columns["landmarks"].shape
        upright = fill_missing(torch.full((1, 68, 2), torch.nan), size=method.facts.image_size).nan_to_num(0)
        faces.columns["landmarks"] = upright + 2 * torch.rand(shape, generator=random)
        few = torch.nn.functional.avg_pool2d(faces.images.flatten(0, 2), 16)  # noise has no parts that tell others
        smooth = torch.nn.functional.interpolate(few, scale_factor=16, mode="bilinear")
        faces.images = ((smooth - 0.5) * 8 + 0.5).clamp(0, 1).view(faces.images.shape)
    return batch


def operations(run):
    """Of a forward pass, in 10^9; a multiplication and an addition are two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


@pytest.fixture
def full_size():
    """The method at the paper's size, and a labelled face, which loses its squares."""
    method = build(size=192, aus=AUS, width=64, hidden=2048, patch_width=1024, removed=1.0)
    batch = make_random_batch(KIND.train_views(method.config), size=192, aus=len(AUS), samples=1)
    return method, Batch(labelled=batch.labelled)


def test_the_size_is_the_papers(full_size):
    """19.12 M parameters and 5.57 GFLOPs at inference, 54.62 M parameters in training (section 4.2)."""
    method, batch = full_size
    count = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in {"total": method, "head": method.regions, "encoder": method.encoder}.items()
    }
    assert count["head"] + count["encoder"] == pytest.approx(19.12, rel=0.03)
    assert count["total"] == pytest.approx(54.62, rel=0.03)
    method.eval()
    assert operations(lambda: method.predict(Batch(face=batch.labelled))) == pytest.approx(5.57, rel=0.03)


def test_the_papers_operations_in_training_lie_between_two_readings(full_size):
    """10.75 GFLOPs (section 4.2): more than every net once on what it sees, less than both phases together."""
    method, batch = full_size
    first = operations(lambda: method.learn(batch)) - operations(lambda: infer_labels(method, batch))
    second = operations(lambda: method.discriminate(batch))
    painted = method.patch_pairs.fake
    assert painted.shape == (2, 3, 48, 48)
    again = operations(lambda: method.adversary["real"](painted))
    assert second == pytest.approx(3 * again)  # D on real and painted patches, C on real ones
    assert operations(lambda: method.tasks["inpainting"](torch.rand(2, 128))) == pytest.approx(0.925, rel=0.01)
    assert again == pytest.approx(0.920, rel=0.01)
    assert first + second - again == pytest.approx(10.24, rel=0.01)
    assert first + second == pytest.approx(11.16, rel=0.01)
    assert first + second - again / 2 == pytest.approx(10.75, rel=0.03)


def infer_labels(method, batch):
    faces = method.merge_views(batch)
    return method.infer_labels(faces, mask_random_au(faces.images, faces.centres, share=method.config.removed))


def test_the_label_that_a_face_may_lack_costs_a_pass_of_the_intact_face(full_size):
    method, batch = full_size
    assert operations(lambda: infer_labels(method, batch)) == pytest.approx(5.57, rel=0.03)


def test_the_adversarial_losses_by_hand():
    """Eqs. 2 to 7 in float64, sample by sample; the discriminators give the logits."""
    method = build().double().eval()  # in eval mode BatchNorm lets a single patch be evaluated
    batch = batch_of(method)
    for faces in batch.values():
        faces.images = faces.images.double()
        faces.columns["landmarks"] = faces.columns["landmarks"].double()
    torch.manual_seed(3)
    losses = method.learn(batch)
    real, fake, labels = method.patch_pairs
    judged = method.discriminate(batch)

    def sigmoid(judge, patch):
        return 1 / (1 + math.exp(-method.adversary[judge](patch[None]).item()))

    n = len(real)
    adv_d = adv_g = rec = l_c = l_cg = 0.0
    for p, g, (y,) in zip(real, fake, labels.tolist(), strict=True):
        adv_d += math.log(sigmoid("real", p)) / n + math.log(1 - sigmoid("real", g)) / n
        adv_g -= math.log(sigmoid("real", g)) / n
        rec += (p - g).abs().mean().item() / n
        for patch, is_fake in ((p, False), (g, True)):
            right = sigmoid("semantic", patch) if y else 1 - sigmoid("semantic", patch)
            l_cg -= math.log(right) / n if is_fake else 0
            l_c -= 0 if is_fake else math.log(right) / n
    assert judged["discriminator"].value.item() == pytest.approx(-adv_d)
    assert judged["classifier"].value.item() == pytest.approx(l_c)
    assert losses["adversarial"].value.item() == pytest.approx(adv_g)
    assert losses["reconstruction"].value.item() == pytest.approx(rec)
    assert losses["semantic"].value.item() == pytest.approx(l_cg)
    weights = [losses[name].weight for name in ("adversarial", "reconstruction", "semantic", "flow")]
    assert weights == pytest.approx([0.1, 0.9, 0.1, 0.2])


def test_the_supervised_loss_leaves_out_what_is_painted_over():
    method = build(removed=1.0)
    batch = batch_of(method)
    batch.labelled.columns["au"][:] = torch.tensor([1, 0, 1, -1, 0], dtype=torch.int8)
    torch.manual_seed(3)
    faces = method.merge_views(batch)
    removed = mask_random_au(faces.images, faces.centres, share=1.0)
    rows = torch.arange(len(faces.images))
    assert removed.rows.tolist() == rows.tolist()
    assert removed.covered[rows, removed.columns].all()
    assert (removed.images != faces.images).any()
    torch.manual_seed(3)
    loss = method.eval().learn(batch)["supervised"].value.item()
    logits = method.regions(method.encoder.extract_maps(removed.images), faces.centres).logits
    by_hand, count = 0.0, 0
    for row in range(4):  # the unlabelled ones have no labels at all
        for column, label in enumerate([1, 0, 1, -1, 0]):
            if label < 0 or removed.covered[row, column]:
                continue
            probability = 1 / (1 + math.exp(-logits[row, column].item()))
            by_hand -= method.label_weights[label, column].item() * math.log(probability if label else 1 - probability)
            count += 1
    assert 0 < count < 16
    assert loss == pytest.approx(by_hand / count, rel=1e-4)


def test_the_flow_loss_is_computed_on_the_intact_face():
    method = build(tasks=("flow",)).eval()
    batch = batch_of(method)
    assert set(batch) == {"labelled"}
    loss = method.learn(batch)["flow"].value.item()
    flow = method.tasks["flow"](method.encoder.extract_maps(batch.labelled.images[:, 0, 0])[-1])
    assert flow.shape == (4, 2, 8, 8)
    true = batch.labelled.flow[:, 0, 0].unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5))
    assert loss == pytest.approx((flow - true).abs().mean().item(), rel=1e-5)
    batch.labelled.columns["flow"][1:] = torch.nan  # only the first frame has a later one
    loss = method.learn(batch)["flow"]
    assert loss.value.item() == pytest.approx((flow[0] - true[0]).abs().mean().item(), rel=1e-5)
    loss.value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_an_unlabelled_face_takes_its_prediction_as_label():
    method = build(removed=1.0).eval()
    batch = batch_of(method)
    batch.labelled.columns["au"][:] = 1
    faces = method.merge_views(batch)
    removed = mask_random_au(faces.images, faces.centres, share=1.0)
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    labels = method.train().infer_labels(faces, removed).view(-1, 2)
    assert all(module.training for module in method.modules())
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.named_buffers())
    method.eval()
    assert (labels[:4] == 1).all()
    predicted = method.regions(method.encoder.extract_maps(faces.images[4:]), faces.centres[4:]).logits
    expected = (predicted.gather(1, removed.columns[4:, None]) > 0).float().expand(-1, 2)
    assert (labels[4:] == expected).all()


def test_the_larger_prediction_counts():
    method = build().eval()
    batch = batch_of(method)
    faces = method.merge_views(batch)
    maps = method.encoder.extract_maps(faces.images)
    outputs = method.regions(maps, faces.centres)
    overall = method.regions.overall.layer(maps[-1].mean((2, 3)))
    local = (outputs.regional.mean(2) * method.regions.weight).sum(-1) + method.regions.bias
    torch.testing.assert_close(outputs.logits, torch.maximum(local, overall))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tasks": ()},
        {"tasks": (), "relation": "graph"},
        {"tasks": ("rotation",)},
        {"tasks": ("exemplar",)},
        {"tasks": ("jigsaw",)},
        {"tasks": ("flow",)},
        {"tasks": ("inpainting",)},
    ],
    ids=str,
)
def test_every_row_of_the_papers_table_can_overfit_a_batch(options):
    method = build(**options)
    batch = batch_of(method)
    roots = {root.name for root in method.trainable_roots()}
    assert ("adversary" in roots) == ("inpainting" in method.config.tasks)
    history = overfit(method, batch, steps=60, lr=3e-3)

    def mean(name, part):  # what is painted over changes from step to step
        return sum(losses[name] for losses in history[part]) / len(history[part])

    assert mean("supervised", slice(-10, None)) < 0.6 * mean("supervised", slice(0, 3))
    for name in {"reconstruction", "flow", "rotation", "jigsaw"} & set(history[0]):
        assert mean(name, slice(-10, None)) < mean(name, slice(0, 3)), name


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="jigsaw leaves no regions"):
        KIND.Config(tasks=("jigsaw", "inpainting"))
    other = export.build_method("splitbrain", methods.find_method("splitbrain").Config(breadth=0.1), DataFacts())
    with pytest.raises(SpecError, match=r"inputs\.pretrained is splitbrain, which has no ResNet as its encoder"):
        export.build_method("rtatl", KIND.Config(**TINY), DataFacts(aus=AUS, image_size=64), pretrained=other)
