"""FAN against its recursion written out, published sizes, and known landmarks."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from facscale.nn.fan import FAN, ConvBlock


def parameters(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.fixture(scope="module", params=["mean", "max"])
def network(request):
    """Three small stacks in float64, of which no layer is as it was initialised."""
    torch.manual_seed(0)
    fan = FAN(stacks=3, width=16, levels=2, points=5, pool=request.param).double()
    with torch.no_grad():
        for value in fan.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return fan.eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class SlowFAN:
    """The network from its state dictionary alone, as the papers' figures draw it."""

    def __init__(self, fan):
        self.state, self.pool = fan.state_dict(), fan.pool

    def __call__(self, images, *, stacks):
        x = self.norm(conv2d(images, *self.both("conv1"), stride=2, padding=3), "bn1").clamp(min=0)
        x = self.halve(self.block(x, "conv2"))
        stem = previous = self.block(self.block(x, "conv3"), "conv4")
        features, heatmaps = [], []
        for n in range(stacks):
            top = self.block(self.hourglass(previous, f"m{n}", level=2), f"top_m_{n}")
            last = self.norm(conv2d(top, *self.both(f"conv_last{n}")), f"bn_end{n}").clamp(min=0)
            heatmaps.append(conv2d(last, *self.both(f"l{n}")))
            if n + 1 < stacks:
                last = conv2d(last, *self.both(f"bl{n}"))
                previous = previous + last + conv2d(heatmaps[n], *self.both(f"al{n}"))
            features.append(last)
        return stem, features, heatmaps

    def hourglass(self, x, name, *, level):
        beside = self.block(x, f"{name}.b1_{level}")
        low = self.block(self.halve(x), f"{name}.b2_{level}")
        low = self.hourglass(low, name, level=level - 1) if level > 1 else self.block(low, f"{name}.b2_plus_1")
        return beside + self.block(low, f"{name}.b3_{level}").repeat_interleave(2, 2).repeat_interleave(2, 3)

    def halve(self, x):
        squares = x.unfold(2, 2, 2).unfold(3, 2, 2)
        return squares.mean((4, 5)) if self.pool == "mean" else squares.amax((4, 5))

    def block(self, x, name):
        result, y = [], x
        for n in (1, 2, 3):
            y = self.norm(y, f"{name}.bn{n}").clamp(min=0)
            y = conv2d(y, self.state[f"{name}.conv{n}.weight"], padding=1)
            result.append(y)
        if f"{name}.downsample.2.weight" in self.state:
            x = conv2d(self.norm(x, f"{name}.downsample.0").clamp(min=0), self.state[f"{name}.downsample.2.weight"])
        return torch.cat(result, 1) + x

    def norm(self, x, name):
        statistics = {key: self.state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
        return batch_norm(x, *statistics.values())

    def both(self, name):
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]


def test_parameters_are_the_papers():
    with torch.device("meta"):
        assert parameters(FAN()) == pytest.approx(12.11, abs=0.005)  # AUNet, section V
        assert parameters(FAN(stacks=4)) == pytest.approx(23.82, abs=0.005)
        assert parameters(ConvBlock(256, 256)) == pytest.approx(0.4, abs=0.01)  # AUNet, section IV.A


def test_names_are_the_face_alignment_packages():
    with torch.device("meta"):
        names = set(FAN().state_dict())
    modules = {name.rpartition(".")[0] for name in names}
    assert {"conv1.bias", "conv4.downsample.2.weight", "m0.b1_4.bn1.running_var", "m1.b2_plus_1.conv3.weight"} <= names
    assert {"top_m_0.bn2", "conv_last1", "bn_end1", "l0", "l1", "bl0", "al0"} <= modules
    assert not {"bl1", "al1", "conv3.downsample.0", "m0.b1_0.bn1", "m0.b1_5.bn1", "conv_last2"} & modules


@pytest.mark.parametrize("stacks", [1, 2, 3])
def test_outputs_match_the_papers_figures(network, images, stacks):
    outputs = network.run_stacks(images, stacks)
    stem, features, heatmaps = SlowFAN(network)(images, stacks=stacks)
    torch.testing.assert_close(outputs.stem, stem)
    torch.testing.assert_close(outputs.hourglasses, features)
    torch.testing.assert_close(outputs.heatmaps, heatmaps)
    assert heatmaps[-1].shape == (2, 5, 8, 8)
    assert (outputs.hourglasses[-1] >= 0).all()  # after ReLU
    assert all((feature < 0).any() for feature in outputs.hourglasses[:-1])  # after a convolution
    mask = sum(heatmaps[-1][:, k] for k in range(5))
    basic = network.extract_maps(images, stacks)
    for n, feature in enumerate(features):
        torch.testing.assert_close(basic[:, 16 * (n + 1) : 16 * (n + 2)], feature * mask[:, None])
    torch.testing.assert_close(basic[:, :16], stem)
    assert basic.shape == (2, 16 * (stacks + 1), 8, 8)


def test_its_feature_is_the_mean_of_all(network, images):
    torch.testing.assert_close(network(images), network.extract_maps(images).flatten(2).mean(2))
    assert network.dim == network(images).shape[1] == 64


@pytest.mark.parametrize("stacks", [0, 4])
def test_too_many_stacks_are_refused(network, images, stacks):
    with pytest.raises(ValueError, match=f"{stacks} stacks were requested of a FAN that has 3"):
        network.run_stacks(images, stacks)


def test_odd_sides_are_restored(network):
    assert network.run_stacks(torch.rand(1, 3, 28, 36, dtype=torch.float64)).heatmaps[-1].shape == (1, 5, 7, 9)


def test_landmarks_lie_within_a_quarter_pixel_of_a_gaussians_peak():
    random = torch.Generator().manual_seed(0)
    peaks = 0.6 + torch.rand(50, 68, 2, generator=random) * (
        torch.tensor([15, 11]) - 1.2
    )  # x and y, pixels of the maps
    y, x = torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij")
    apart = (x - peaks[..., 0, None, None]) ** 2 + (y - peaks[..., 1, None, None]) ** 2
    points = FAN.decode_landmarks(torch.exp(-apart / 2))
    wrong = (points - (4 * peaks + 1.5)).abs()  # of a map's pixel u, pixels 4 u to 4 u + 3 of the image
    assert wrong.max() <= 4 * 0.25 + 1e-3
    assert wrong.mean() < 4 * 0.13


def test_landmarks_by_hand():
    heatmaps = torch.zeros(1, 3, 4, 4)
    heatmaps[0, 0, 1, 2], heatmaps[0, 0, 1, 3], heatmaps[0, 0, 0, 2] = 1.0, 0.5, 0.25
    heatmaps[0, 1, 0, 3], heatmaps[0, 1, 0, 2] = 1.0, 0.5  # in a corner there is no shift
    heatmaps[0, 2, 2, 1] = 1.0  # nor where both neighbours are alike
    assert FAN.decode_landmarks(heatmaps).tolist() == [[[10.5, 4.5], [13.5, 1.5], [5.5, 9.5]]]
