"""FAN's training by hand, and the public weights that it accepts."""

from __future__ import annotations

import math
from dataclasses import replace
from io import BytesIO

import pytest
import safetensors.torch
import torch
from torch.nn.functional import interpolate

from facscale import methods
from facscale.inference import export
from facscale.job.cost import make_random_batch
from facscale.methods import DataFacts
from facscale.methods.fan import is_inside, make_heatmaps, normalised_error, report_pool
from facscale.nn.fan import FAN
from facscale.spec import SpecError
from harmful import Harmful
from overfitting import overfit

KIND = methods.find_method("fan")
TINY = {"stacks": 2, "width": 16, "levels": 2}


def build(*, size=32, **options):
    torch.manual_seed(0)
    return export.build_method("fan", KIND.Config(**{**TINY, **options}), DataFacts(image_size=size))


def batch_of(method, *, samples=3, seed=0):
    return make_random_batch(
        KIND.train_views(method.config), size=method.facts.image_size, aus=0, samples=samples, seed=seed
    )


def torch_file(content, *, archive=True):
    file = BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


def test_heat_maps_by_hand():
    nan = math.nan
    maps = make_heatmaps(torch.tensor([[[5.5, 9.5], [7.5, 1.5], [nan, nan]]]), side=4, sigma=0.5)
    assert maps.shape == (1, 3, 4, 4)
    assert maps[0, 0, 2, 1] == 1  # pixels 4 to 7 across and 8 to 11 down: the middle of 1, 2
    assert maps[0, 0, 2, 2].item() == pytest.approx(math.exp(-2))  # 1 / (2 sigma^2)
    assert maps[0, 0, 0, 0].item() == pytest.approx(math.exp(-2 * 5))
    row = [math.exp(-2 * (x - 1.5) ** 2) for x in range(4)]  # between two pixels of the map
    assert maps[0, 1, 0].tolist() == pytest.approx(row)
    assert maps.isfinite().all()


def test_is_inside():
    points = [[-0.5, 0], [31.5, 31.5], [-0.6, 3], [3, 31.6], [math.nan, 3], [3, math.nan]]
    assert is_inside(torch.tensor(points), size=32).tolist() == [True, True, False, False, False, False]


def test_the_error_by_hand():
    landmarks = torch.rand(4, 68, 2) * 30
    landmarks[:, 36], landmarks[:, 45] = torch.tensor([2.0, 3.0]), torch.tensor([8.0, 11.0])  # 10 apart
    known = torch.ones(4, 68, dtype=torch.bool)
    landmarks[1, 5:25], known[1, 5:25] = math.nan, False
    landmarks[2, 36] = math.nan  # this face has no ruler
    known[2, 36] = known[3] = False  # and the last one no landmarks
    points = landmarks + torch.tensor([3.0, 4.0])
    points[0, :34] = landmarks[0, :34]
    error = normalised_error(points, landmarks=landmarks, is_valid=known)
    assert error.item() == pytest.approx((5 / 10 / 2 + 5 / 10) / 2, rel=1e-5)
    assert normalised_error(points, landmarks=landmarks, is_valid=known & False) == 0


def test_the_loss_by_hand():
    method = build(sigma=0.7).double().eval()
    batch = batch_of(method)
    batch.face.images = batch.face.images.double()
    batch.face.columns["landmarks"] = landmarks = batch.face.landmarks.double().clamp(max=31)
    landmarks[0, 0, 0, 7], landmarks[2, 0, 0, 3, 0] = math.nan, -1
    by_hand, count = 0.0, 0
    stacks = method.encoder.run_stacks(batch.face.images[:, 0, 0]).heatmaps
    for face, point in torch.cartesian_prod(torch.arange(3), torch.arange(68)).tolist():
        if (face, point) in {(0, 7), (2, 3)}:
            continue
        count += 1
        x, y = ((landmarks[face, 0, 0, point] + 0.5) / 4 - 0.5).tolist()
        for heatmaps in stacks:
            predicted = heatmaps[face, point].tolist()
            for v, u in ((v, u) for v in range(8) for u in range(8)):
                by_hand += (predicted[v][u] - math.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 0.49))) ** 2
    losses = method.align(batch)
    assert losses["heatmaps"].value.item() == pytest.approx(by_hand / count)
    assert [loss.weight for loss in losses.values()] == [1, 0]


@pytest.mark.parametrize("place", [math.nan, 40.0, -1.0])
def test_landmarks_that_are_unknown_or_outside_leave_no_gradient(place):
    method = build()
    batch = batch_of(method)
    batch.face.landmarks[:, :, :, 10:] = place
    losses = method.align(batch)
    losses["heatmaps"].value.backward()
    last = method.encoder.get_submodule("l1").weight.grad
    assert last.isfinite().all()
    assert last[:10].abs().sum((1, 2, 3)).min() > 0
    assert not last[10:].any()


def test_a_face_without_landmarks_has_no_loss():
    method = build()
    batch = batch_of(method)
    batch.face.landmarks[:] = math.nan
    losses = method.align(batch)
    losses["heatmaps"].value.backward()
    assert [loss.value.item() for loss in losses.values()] == [0, 0]
    assert not any(p.grad is not None and p.grad.any() for p in method.parameters())


def test_it_can_overfit_a_batch():
    """Three pictures, and one shape of 68 points in three places; near the error that heat maps of 8 x 8 allow."""
    method = build(width=32)
    batch, random = batch_of(method), torch.Generator().manual_seed(0)
    batch.face.images[:, 0, 0] = interpolate(torch.rand(3, 3, 8, 8, generator=random), size=32, mode="bilinear")
    shape = 5 + 22 * torch.rand(68, 2, generator=random)
    shape[[36, 45]] = torch.tensor([[8.0, 13.0], [24.0, 13.0]])
    landmarks = shape + 3 - 6 * torch.rand(3, 1, 2, generator=random)
    batch.face.landmarks[:, 0, 0] = landmarks
    best = FAN.decode_landmarks(make_heatmaps(landmarks, side=8, sigma=1))
    least = normalised_error(best, landmarks=landmarks, is_valid=torch.ones(3, 68, dtype=torch.bool)).item()
    history = overfit(method, batch, steps=100, lr=1e-2)
    assert history[-1]["heatmaps"] < 0.1 * history[10]["heatmaps"]
    errors = [step["nme"] for step in history]
    assert errors[0] > errors[20] > errors[50] > errors[-1]
    assert least < errors[-1] < 1.8 * least < 0.1


def test_visualize_shows_where_the_landmarks_are():
    method = build(size=64).eval()
    batch = batch_of(method)
    pictures = method.visualize(batch)
    assert set(pictures) == {"face", "landmarks", "heat maps"}
    images = batch.face.images[:, 0, 0]
    points = FAN.decode_landmarks(method.encoder.run_stacks(images).heatmaps[-1])
    x, y = (points[1, 20] + 0.01).round().long().tolist()
    assert pictures["landmarks"][1, :, y, x].tolist() == [0, 1, 0]
    changed = (pictures["landmarks"] != images).any(1)
    assert 0 < changed.float().mean() < 0.3
    for shown in pictures.values():
        assert shown.shape == images.shape
        assert shown.min() >= 0
        assert shown.max() <= 1


@pytest.mark.parametrize("size", [34, 12])
def test_an_image_that_cannot_be_halved_so_often(size):
    with pytest.raises(SpecError, match=f"data.image_size is {size}, but FAN needs a multiple of 4, at least 16"):
        build(size=size)


@pytest.fixture(scope="module")
def source():
    """Four small stacks with statistics of their own."""
    torch.manual_seed(1)
    fan = FAN(stacks=4, width=8, levels=3).eval()
    for name, value in fan.state_dict().items():
        if "running" in name:
            value.add_(torch.rand_like(value))
    return fan


def without_batch_counts(state):
    """The state as it was saved before BatchNorm counted its batches."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "pack",
    [
        torch_file,
        safetensors.torch.save,
        lambda state: torch_file(without_batch_counts(state), archive=False),
        lambda state: torch_file({"epoch": 40, "state_dict": {f"module.{k}": v for k, v in state.items()}}),
    ],
    ids=["archive", "safetensors", "old", "wrapped"],
)
def test_a_public_checkpoint_of_four_stacks(pack, source):
    result = export.load_export(pack(source.state_dict()))
    assert type(result) is KIND
    assert result.config == KIND.Config(stacks=4, width=8, levels=3, pool="mean")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(result.encoder(images), source(images))
    two = FAN(stacks=2, width=8, levels=3).eval()  # as in AUNet's code: parameters of the other stacks are left out
    state = source.state_dict()
    two.load_state_dict({name: state[name] for name in two.state_dict()})
    torch.testing.assert_close(result.encoder.extract_maps(images, 2), two.extract_maps(images))
    rebuilt = export.load_export(export.save_export(result))
    torch.testing.assert_close(rebuilt.encoder(images), source(images))


@pytest.mark.parametrize(
    ("stacks", "pool", "message"),
    [
        (2, "max", "2 stacks: its maps are halved by max"),
        (4, "mean", "4 stacks: its maps are halved by mean"),
        (3, "mean", "if it was trained with max pooling, its features are wrong"),
    ],
)
def test_the_number_of_stacks_of_a_public_file_decides_how_it_pools(stacks, pool, message, caplog):
    report_pool.cache_clear()
    torch.manual_seed(1)
    public = FAN(stacks=stacks, width=8, levels=2, pool=pool).eval()  # as their authors build it
    result = export.load_export(torch_file(public.state_dict()))
    assert message in caplog.text
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(result.encoder(images), public(images))
    rebuilt = export.load_export(export.save_export(result))
    torch.testing.assert_close(rebuilt.encoder(images), public(images))
    other = FAN(stacks=stacks, width=8, levels=2, pool="mean" if pool == "max" else "max").eval()
    other.load_state_dict(public.state_dict())
    assert not torch.allclose(other(images), public(images), rtol=0.05)


def test_an_export_that_does_not_say_how_it_pools_pools_by_mean():
    """It was made before there was a choice."""
    method = build()
    weights = method.encoder.state_dict()
    recipe = replace(method.recipe, config={key: value for key, value in method.recipe.config.items() if key != "pool"})
    older = recipe.build().eval()
    older.encoder.load_state_dict(weights)
    expected = FAN(**TINY, pool="mean").eval()
    expected.load_state_dict(weights)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(older.encoder(images), expected(images))


def test_weights_that_only_look_like_fans():
    state = FAN(stacks=1, width=16, levels=2, points=98).state_dict()
    with pytest.raises(
        SpecError, match="there: has the parameter names of fan's encoder, but does not fit it: size mismatch for l0"
    ):
        export.load_export(torch_file(state), source="there")
    state["bn_end0.weight"] = torch.zeros(12)
    with pytest.raises(SpecError, match="there: has the parameter names of fan's encoder, but does not fit it"):
        export.load_export(torch_file(state), source="there")
    with pytest.raises(SpecError, match="nor a FAN"):
        export.load_export(torch_file({"state_dict": {"conv1.weight": 3}}))


def test_an_old_torch_file_cannot_run_code(capsys):
    with pytest.raises(SpecError, match="only tensors are read"):
        export.load_export(torch_file(Harmful(), archive=False))
    assert "harm" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_error_for_torchscript_explains_the_conversion(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "2DFAN4.zip")
    with pytest.raises(SpecError, match=r"there: a TorchScript archive, .*torch\.save\(torch\.jit\.load\(") as raised:
        export.load_export((tmp_path / "2DFAN4.zip").read_bytes(), source="there")
    assert "\n" not in str(raised.value)
