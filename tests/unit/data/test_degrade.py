"""Blur, JPEG and cutout: against a real codec, by hand, and against numbers sampled before these parameters existed."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from faces import make_picture
from facscale.data import augment, degrade
from facscale.data.augment import PARAMETERS
from facscale.data.sample_index import SampleIndex
from facscale.data.views import FrameSequence, RandomFrames
from facscale.spec import models

VARIED = models.Augment(hue=0.1, jitter=0.8, grey=0.2, blur=0.5, aspect=1.3, crop=(0.5, 1.0))
DAMAGED = VARIED.model_copy(update={"compression": 0.3, "holes": 0.6})
VIEWS = {"clip": FrameSequence(length=3), "pair": RandomFrames(count=2, views=2, shared=True)}
KEYS = np.array([1, 2, 2**63 + 5], dtype=np.uint64)
QUALITY, HOLES = PARAMETERS.index("quality"), PARAMETERS.index("holes")


def drawn(view: str, *, spec: models.Augment = DAMAGED, keys: np.ndarray = KEYS) -> np.ndarray:
    datasets = [SimpleNamespace(manifest=SimpleNamespace(margin=0.0))]
    index = SimpleNamespace(views=VIEWS, spec=models.Data(augment=spec), datasets=datasets)
    return SampleIndex.sample_augmentation(index, view, keys, epochs=np.zeros(len(keys), int))


def rough(size: int) -> np.ndarray:
    """A picture with noise, which a codec loses."""
    noise = np.random.default_rng(0).normal(0, 12, (size, size, 1))
    return (make_picture(1, size=size) + noise).clip(0, 255).astype(np.uint8)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """[1, 3, S, S] in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def compress(pixels: np.ndarray, *, quality: float) -> np.ndarray:
    """[S, S, 3] in 0..255."""
    return degrade.compress_jpeg(tensor(pixels), torch.tensor([quality]))[0].permute(1, 2, 0).numpy() * 255


def jpeg(pixels: np.ndarray, *, quality: int) -> Image.Image:
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(stored)


def locate_holes(*, number: float = 8, x: float, y: float, side: float, size: int = 64) -> np.ndarray:
    """Return bool [size, size]: where the holes are."""
    result = degrade.cut_out(torch.ones(1, 3, size, size), torch.tensor([[number, x, y, side]]))[0].numpy()
    assert np.all((result == result[0]) & ((result == 0) | (result == 1)))
    return result[0] == 0


def restore_place(values: np.ndarray) -> np.ndarray:
    """The first 11 parameters, with the place of the crop as shares of the free space on its left and above it."""
    values = values[:11].astype(float)
    values[8:10] = 0.5 + values[8:10] / (1 - values[6:8])
    return values


@pytest.mark.parametrize("spec", [VARIED, DAMAGED], ids=["as then", "damaged"])
def test_numbers_of_earlier_jobs_stay_the_same(spec):
    """Recorded when there were 11 parameters; the parameters that were added later must not change them."""
    clip = [-9.802186966, 0, 1, 1, 1, 0, 0.536377966, 0.498292029, 0.146393433, 0.818181813, 0]
    pair = [
        0.558463931,
        1,
        1.219941378,
        1.195750713,
        1.227246642,
        0.036533978,
        0.666563332,
        0.664443672,
        0.067190662,
        0.653592825,
        0.006660104,
    ]
    clips, pairs = (drawn(view, spec=spec) for view in ("clip", "pair"))
    np.testing.assert_allclose(restore_place(clips[1, -1, -1]), clip, rtol=1e-6)
    np.testing.assert_allclose(restore_place(pairs[1, -1, -1]), pair, rtol=1e-6)
    others = [*range(8), 10]
    assert clips[..., others].sum(dtype=float) == pytest.approx(30.66123061068356, rel=1e-12)
    assert pairs[..., others].sum(dtype=float) == pytest.approx(59.33373827300966, rel=1e-12)
    probe = augment.sample_params(spec, shape=(5,), random=np.random.default_rng(7))
    last = [
        6.3267622,
        1,
        1.382998348,
        1.071993351,
        0,
        0.027599316,
        0.782862902,
        0.897502422,
        0.150788024,
        0.440313458,
        0,
    ]
    np.testing.assert_allclose(restore_place(probe[4]), last, rtol=1e-6)


def test_frequencies_and_ranges():
    values = augment.sample_params(DAMAGED, shape=(20_000,), random=np.random.default_rng(0))
    quality, holes = values[:, QUALITY], values[:, HOLES]
    assert (quality > 0).mean() == pytest.approx(0.3, abs=0.02)
    assert (holes > 0).mean() == pytest.approx(0.6, abs=0.02)
    assert set(quality[quality > 0]) == set(range(30, 96))
    numbers, counts = np.unique(holes[holes > 0], return_counts=True)
    assert numbers.tolist() == list(range(1, 9))
    assert counts / counts.sum() == pytest.approx(np.full(8, 1 / 8), abs=0.02)
    assert np.all(
        augment.sample_params(VARIED, shape=(1000,), random=np.random.default_rng(0))[:, [QUALITY, HOLES]] == 0
    )
    assert np.all(augment.eval_params(DAMAGED)[[QUALITY, HOLES]] == 0)


def test_frames_of_a_shared_view_have_the_same_holes():
    pair, clip = drawn("pair"), drawn("clip")
    np.testing.assert_array_equal(pair[:, 0], pair[:, 1])
    assert not np.any(pair[:, 0, 0, 13:] == pair[:, 0, 1, 13:]), "each copy has its own"
    assert not np.any(clip[:, 0, 0, 13:] == clip[:, 1, 0, 13:]), "each frame has its own"
    assert not np.any(np.isin(pair[..., 13:], pair[..., :11])), "no number is used twice"
    np.testing.assert_array_equal(pair, drawn("pair"))
    np.testing.assert_array_equal(pair[1:], drawn("pair", keys=KEYS[1:]))


@pytest.mark.parametrize("quality", [30, 60, 95])
@pytest.mark.parametrize("size", [64, 50, 37], ids=["whole blocks", "padded", "odd"])
def test_compression_against_libjpeg(size, quality):
    """Within 0.8 of 255 grey levels on average: libjpeg's transform rounds in between, which changes some coefficients."""
    pixels = rough(size)
    expected = np.asarray(jpeg(pixels, quality=quality)).astype(float)
    lost = np.abs(pixels - expected).mean()
    missed = np.abs(compress(pixels, quality=quality) - expected).mean()
    assert missed < min(0.8, lost / 3)


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 51, 75, 95, 100])
def test_quantisation_is_libjpegs(quality):
    tables = jpeg(rough(16), quality=quality).quantization
    result = degrade.make_quantisation_tables(torch.tensor([float(quality)]))
    assert result[0].tolist() == [tables[0], tables[1]]


def test_compression_of_one_grey_by_hand():
    """At quality 50 a block's mean is divided by 16 / 8: 133 - 128 = 5 is 2.5 steps of 2, 134 is three exactly."""
    assert compress(np.full((16, 16, 3), 134, np.uint8), quality=50) == pytest.approx(134)
    assert np.unique(compress(np.full((16, 16, 3), 133, np.uint8), quality=50).round()).item() in {132, 134}
    # 5000 / 30 = 166 per cent of 16 is 27; 27 / 8 = 3.375 levels a step: 4 steps above 128 are 141.5.
    assert compress(np.full((16, 16, 3), 140, np.uint8), quality=30) == pytest.approx(141.5, abs=0.51)


def test_each_image_has_its_own_quality_and_the_others_are_unchanged():
    images = tensor(rough(48)).repeat(3, 1, 1, 1)
    changes = torch.zeros(3, 6)
    changes[:, 1] = torch.tensor([30.0, 0.0, 90.0])
    result = images.clone()
    degrade.apply(result, changes)
    assert torch.equal(result[1], images[1])
    for place in (0, 2):
        alone = degrade.compress_jpeg(images[:1], changes[place : place + 1, 1])[0]
        torch.testing.assert_close(result[place], alone, atol=1e-6, rtol=0)
    assert (result[0] - images[0]).abs().mean() > 1.5 * (result[2] - images[2]).abs().mean()


def test_one_hole_by_hand():
    """On 64 pixels a side of 0.5 is 64 (1/32 + 3/64) = 5; of the 60 places, 0.5 is the one at 30, 0 and 1 the ends."""
    expected = np.zeros((64, 64), bool)
    expected[:5, 30:35] = True
    np.testing.assert_array_equal(locate_holes(number=1, x=0.5, y=0.0, side=0.5), expected)
    largest = np.zeros((64, 64), bool)
    largest[56:, 56:] = True
    nearly = 1 - 2**-24
    np.testing.assert_array_equal(locate_holes(number=1, x=nearly, y=nearly, side=nearly), largest)


def test_holes_follow_each_other_on_the_golden_sequence():
    expected = np.zeros((64, 64), bool)
    root = np.roots([1, 0, 0, -1, -1]).real.max()
    for turn in range(5):
        x, y, share = (np.array([0.1, 0.2, 0.3]) + turn / root ** np.arange(1, 4)) % 1
        side = round(64 * (1 / 32 + share * 3 / 32))
        left, top = int(x * (65 - side)), int(y * (65 - side))
        expected[top : top + side, left : left + side] = True
    np.testing.assert_array_equal(locate_holes(number=5, x=0.1, y=0.2, side=0.3), expected)


def test_holes_lie_inside_and_cover_all_positions_equally():
    random = np.random.default_rng(0)
    holes = torch.from_numpy(random.random((4000, 4), dtype=np.float32))
    holes[:, 0] = 8
    covered = (degrade.cut_out(torch.ones(4000, 3, 32, 32), holes)[:, 0] == 0).float()
    each = covered.sum((1, 2))
    assert each.max() <= 8 * 4**2, "of 32 pixels a side is at most 4"
    assert each.min() >= 8, "and at least 1"
    middle = covered.mean(0)[4:-4, 4:-4]
    assert (middle.max() - middle.min()) < 0.03
    assert middle.mean() == pytest.approx(8 * 7.2 / 30.5**2, abs=0.005), "8 holes of about 2.5 pixels a side"


def test_steps_without_images_are_skipped(monkeypatch):
    for name in ("blur", "compress_jpeg", "cut_out"):
        monkeypatch.setattr(degrade, name, None)
    images = torch.rand(4, 3, 16, 16)
    result = images.clone()
    degrade.apply(result, torch.tensor([0, 0, 0, 0.1, 0.2, 0.3]).repeat(4, 1))
    assert torch.equal(result, images)


def test_holes_come_last_and_reach_the_networks_input():
    pixels = torch.from_numpy(np.stack([make_picture(2, size=48)] * 2)) // 2 + 64
    still = torch.from_numpy(augment.eval_params(models.Augment()))
    changes = torch.stack([still, still])
    changes[0, [QUALITY, HOLES]] = torch.tensor([30.0, 8.0])
    result = augment.apply(pixels, changes, size=40)
    black = result[0].sum(0) == 0
    where = locate_holes(x=0.0, y=0.0, side=0.0, size=40)
    np.testing.assert_array_equal(black.numpy(), where)
    assert result[1].min() > 0.2
    repeated = augment.apply(pixels, changes, size=40)
    assert torch.equal(result, repeated)
