"""Moving pixels against a pixel-by-pixel version, and the sizes of the networks."""

from __future__ import annotations

import math

import pytest
import torch

from facscale.methods.tcae import TwinEncoder
from facscale.nn.curriculum import Curriculum
from facscale.nn.displacement import ConvEncoder, Decoder, clamp_displacements, to_pixels, warp


def by_hand(image, displacements):
    """image [3, S, S], displacements [2, S, S] with S - 1 steps from -1 to 1; clamped, bilinear."""
    size = image.shape[-1]
    result = torch.zeros_like(image)
    for row in range(size):
        for column in range(size):
            dx, dy = displacements[:, row, column].tolist()
            x = min(max(-1 + 2 * column / (size - 1) + dx, -1), 1)
            y = min(max(-1 + 2 * row / (size - 1) + dy, -1), 1)
            x, y = (x + 1) / 2 * (size - 1), (y + 1) / 2 * (size - 1)
            left, top = min(int(x), size - 2), min(int(y), size - 2)
            fx, fy = x - left, y - top
            corner = image[:, top : top + 2, left : left + 2]
            upper = corner[:, 0, 0] * (1 - fx) + corner[:, 0, 1] * fx
            lower = corner[:, 1, 0] * (1 - fx) + corner[:, 1, 1] * fx
            result[:, row, column] = upper * (1 - fy) + lower * fy
    return result


def test_warp_is_bilinear_sampling_inside_the_image():
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 9, 9, generator=random, dtype=torch.float64)
    displacements = 0.8 * (2 * torch.rand(2, 2, 9, 9, generator=random, dtype=torch.float64) - 1)
    warped = warp(images, displacements)
    for result, image, displacement in zip(warped, images, displacements, strict=True):
        torch.testing.assert_close(result, by_hand(image, displacement), atol=1e-12, rtol=0)


def test_nothing_moves_without_displacements():
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(warp(images, torch.zeros(1, 2, 8, 8).double()), images, atol=1e-12, rtol=0)


def test_displacements_end_at_the_edge_and_are_converted_to_pixels():
    far = torch.ones(1, 2, 5, 5, dtype=torch.float64)
    pixels = to_pixels(clamp_displacements(far))
    assert pixels[0, 0, 0].tolist() == pytest.approx([2, 2, 2, 1, 0])  # half of the image, or as far as there is
    assert pixels[0, 1, :, 0].tolist() == pytest.approx([2, 2, 2, 1, 0])


@pytest.mark.parametrize(
    ("network", "millions"),
    [
        (lambda: TwinEncoder(256), 8.04),
        (lambda: Decoder(256, inputs=512, outputs=3), 3.34),
        (lambda: ConvEncoder(256, norm_first=False), 4.89),
    ],
    ids=["TCAE encoder", "TCAE decoder", "FAb-Net encoder"],
)
def test_parameters_are_the_published_codes(network, millions):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in network().parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_smaller_images_pass_fewer_layers(size):
    images = torch.rand(2, 3, size, size)
    assert ConvEncoder(size)(images).shape == (2, 256)
    warped = TwinEncoder(size).embed_twins(images)
    assert warped.au.shape == warped.pose.shape == (2, 256)
    assert Decoder(size, inputs=512, outputs=3)(torch.rand(2, 512)).shape == (2, 3, size, size)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="image_size is 224"):
        ConvEncoder(224)


def test_the_window_of_a_curriculum():
    curriculum = Curriculum(windows=3, patience=2)
    first = torch.tensor([5.0, 1, 9, 3, 7, 0, 8, 2, 6, 4])
    second = first.flip(0)
    assert curriculum.select({"a": first}, {"a": 1.0})["a"].item() == 2.0  # 0 1 2 3 4
    both = curriculum.select({"a": first, "b": second}, {"a": 1.0, "b": 0.0})
    chosen = [0, 1, 2, 3, 4]
    where = [first.tolist().index(value) for value in chosen]
    assert both["b"].item() == pytest.approx(sum(second[n].item() for n in where) / 5)
    assert curriculum.select({"a": first, "b": second}, {"a": 1.0, "b": 0.0}, per_loss=True)["b"].item() == 2.0
    for loss in (1.0, 0.5, 0.6, 0.7):
        curriculum.after_validation(loss)
    assert int(curriculum.window) == 0  # the loss did not fall twice, which is not yet more than the patience
    curriculum.after_validation(0.5)
    assert int(curriculum.window) == 1
    assert curriculum.select({"a": first}, {"a": 1.0})["a"].item() == 3.0  # 1 2 3 4 5
    for _ in range(20):
        curriculum.after_validation(9.0)
    assert int(curriculum.window) == 2
    curriculum.eval()
    assert curriculum.select({"a": first}, {"a": 1.0})["a"].item() == 4.5
    assert math.isfinite(float(curriculum.best))
    assert float(curriculum.rate) == 1


@pytest.mark.parametrize("window", range(5))
@pytest.mark.parametrize("count", [1, 2, 7, 10, 16, 64, 128])
def test_the_window_is_cut_where_the_published_code_cuts_it(count, window):
    """Whole numbers below the percentiles, so that 64 samples have the windows 0-32, 6-38, 12-44, 19-51 and 25-57."""
    curriculum = Curriculum(windows=5, patience=1)
    curriculum.window.fill_(window)
    losses = torch.randperm(count, generator=torch.Generator().manual_seed(count)).double()
    first, last = math.floor(count * window / 10), math.floor(count * (window + 5) / 10)
    expected = sorted(losses.tolist())[first : max(last, first + 1)]
    assert curriculum.select({"a": losses}, {"a": 1.0})["a"].item() == pytest.approx(sum(expected) / len(expected))


def test_validation_of_the_window_alone():
    losses = torch.arange(10.0)
    curriculum = Curriculum(windows=3, patience=1, validated="window").eval()
    curriculum.window.fill_(2)
    assert curriculum.select({"a": losses}, {"a": 1.0})["a"].item() == 4.0  # 2 3 4 5 6


def test_the_rate_falls_as_the_published_code_lets_it_fall():
    """TrackLoss and torch's ReduceLROnPlateau, written out as in FAb-Net's loop, on a loss that falls and stalls."""
    random = torch.Generator().manual_seed(0)
    curve = [3 / (1 + 0.01 * n) + 0.05 * torch.rand((), generator=random).item() for n in range(300)]
    curve += [min(curve) + 0.01 + 0.1 * torch.rand((), generator=random).item() for _ in range(900)]
    curriculum = Curriculum(windows=5, patience=15, rate_patience=10)
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=10)
    percentile, best, best_epoch, warm = 0.5, 1000.0, -1, -1
    for epoch, loss in enumerate(curve):
        curriculum.after_validation(loss)
        if loss < best:
            best, best_epoch, warm = loss, epoch, epoch
        if epoch - best_epoch > 15 and epoch - warm > 15:
            warm = epoch
            if percentile < 0.85:
                percentile, best, best_epoch, warm = percentile + 0.1, 1000.0, -1, -1
            else:
                plateau.step(loss)
        assert 0.5 + int(curriculum.window) / 10 == pytest.approx(percentile), epoch
        assert float(curriculum.rate) == pytest.approx(optimizer.param_groups[0]["lr"]), epoch
    assert percentile > 0.85
    assert 1e-4 < float(curriculum.rate) < 1


def test_a_state_from_before_there_was_a_rate_can_be_loaded():
    state = {
        name: value for name, value in Curriculum(windows=3, patience=1).state_dict().items() if "rate" not in name
    }
    curriculum = Curriculum(windows=3, patience=1)
    curriculum.rate.fill_(0.1)
    state["window"] = torch.tensor(2)
    curriculum.load_state_dict(state)
    assert int(curriculum.window) == 2
    assert float(curriculum.rate) == 1
