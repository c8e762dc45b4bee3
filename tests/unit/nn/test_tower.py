"""AUNet's trunk against the paper's figure written out, and its frozen part."""

from __future__ import annotations

import math

import pytest
import torch

from facscale.nn import ResNet
from facscale.nn.fan import FAN
from facscale.nn.tower import of_landmarks, of_pixels


def shaken(module):
    """In float64 and eval mode, with no layer as it was initialised."""
    with torch.no_grad():
        for value in module.double().state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return module.eval()


def on_fan(*, stacks=2, temporal=True, share=0.3):
    torch.manual_seed(0)
    return shaken(of_landmarks(FAN(width=8, levels=1), stacks=stacks, width=8, temporal=temporal, share=share))


def on_resnet(*, temporal=True, share=0.3):
    torch.manual_seed(0)
    return shaken(of_pixels(ResNet(18, width=4), temporal=temporal, share=share))


def clips_of(*shape, side=32):
    return torch.rand(*shape, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def windows(maps, reduce):
    """Each square of 2 x 2 [C, h, w] -> one value, of those that are there at an odd border."""
    _, height, width = maps.shape
    found = [
        [reduce(maps[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten(1)) for x in range(math.ceil(width / 2))]
        for y in range(math.ceil(height / 2))
    ]
    return torch.stack([torch.stack(row, -1) for row in found], -2)


def enlarged(maps, side):
    return maps.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :side, :side]


def pointwise(conv, maps):
    return torch.einsum("oi,ihw->ohw", conv.weight[:, :, 0, 0], maps) + conv.bias[:, None, None]


def slow(tower, clip, *, share):
    """Figure 4 for one clip [3, 3, S, S]: static maps, motion, and the feature."""
    before, now, after = (tower.basic.fan.basic(frame[None], tower.basic.stacks)[0] for frame in clip)
    apart = torch.cat([now - before, now - after])
    motion = [pointwise(tower.motion.extract, windows(apart, lambda w: w.mean(1)))]
    motion.append(windows(tower.motion.block[0](motion[0][None])[0], lambda w: w.amax(1)))
    static, x = [], pointwise(tower.narrow, now)
    for number, stage in enumerate(tower.stages):
        if number < 2:
            x = (1 - share) * x + share * enlarged(motion[number], x.shape[-1])
        static.append(x)
        x = windows(stage[0](x[None])[0], lambda w: w.amax(1))
    return [*static, x], motion, x.flatten(1).mean(1)


@pytest.mark.parametrize(("side", "sides"), [(64, [16, 8, 4, 2, 1]), (36, [9, 5, 3, 2, 1])])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_it_is_what_the_figure_draws(side, sides, share):
    tower, clips = on_fan(share=share), clips_of(2, 3, side=side)
    found, features = tower.maps(clips), tower.of_clips(clips)
    assert [maps.shape[-1] for maps in found.static] == sides
    for number, clip in enumerate(clips):
        static, motion, feature = slow(tower, clip, share=share)
        torch.testing.assert_close([maps[number] for maps in found.static], static)
        torch.testing.assert_close([maps[number] for maps in found.motion], motion)
        torch.testing.assert_close(features[number], feature)


@torch.no_grad()
def test_without_motion_it_is_the_static_stream():
    alone, clips = on_fan(temporal=False), clips_of(2, 3, side=64)
    still = on_fan(share=0.0)
    still.load_state_dict(alone.state_dict(), strict=False)
    assert alone.maps(clips).motion == []
    torch.testing.assert_close(alone.of_clips(clips[:, 1:2]), still.of_clips(clips))
    torch.testing.assert_close(alone(clips[:, 1]), still.of_clips(clips))


@pytest.mark.parametrize("make", [on_fan, on_resnet])
@torch.no_grad()
def test_motion_is_the_difference_of_frames_and_has_a_direction(make):
    tower, clips = make(), clips_of(2, 3, side=64)
    still = clips[:, 1:2].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(tower.of_clips(still), tower(clips[:, 1]))
    constant = tower.maps(still).motion[0]
    torch.testing.assert_close(constant, tower.motion.extract.bias[:, None, None].expand_as(constant))
    features = [tower.of_clips(frames) for frames in (clips, still, clips.flip(1))]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (features[one] - features[other]).abs().max() > 1e-4


@pytest.mark.parametrize("stacks", [1, 2])
@torch.no_grad()
def test_as_many_stacks_as_wanted_are_used(stacks):
    tower, images = on_fan(stacks=stacks), clips_of(2)
    torch.testing.assert_close(tower.basic(images), tower.basic.fan.basic(images, stacks))
    assert tower.basic(images).shape == (2, (stacks + 1) * 8, 8, 8)


@torch.no_grad()
def test_on_a_resnet_it_is_the_resnet():
    torch.manual_seed(0)
    resnet = shaken(ResNet(18, width=4))
    tower, images = of_pixels(resnet, temporal=False, share=0.3).eval(), clips_of(2, side=64)
    torch.testing.assert_close(tower.maps(images[:, None]).static, resnet.maps(images))
    torch.testing.assert_close(tower(images), resnet(images))
    assert tower.dim == resnet.dim


def test_on_a_resnet_both_mixtures_change_the_feature():
    tower, clips = on_resnet(), clips_of(2, 3, side=64)
    tower.of_clips(clips).sum().backward()
    parts = [tower.motion.extract, tower.motion.block[0].conv3, *tower.stages, tower.basic.layers[0]]
    assert all(any(p.grad.abs().sum() > 0 for p in part.parameters()) for part in parts)
    first, second = tower.maps(clips).motion
    assert (first.shape, second.shape) == ((2, 4, 8, 8), (2, 8, 4, 4))


def test_a_fan_stays_as_it_is():
    tower = of_landmarks(FAN(width=8, levels=1), stacks=2, width=8, temporal=True, share=0.1)
    assert not any(module.training for module in tower.basic.modules())
    tower.train()
    assert all(module.training for module in [tower, *tower.stages.modules(), *tower.motion.modules()])
    assert not any(module.training for module in tower.basic.modules())
    before = {name: value.clone() for name, value in tower.basic.state_dict().items()}
    clips = clips_of(2, 3, side=64).float().requires_grad_()
    tower.of_clips(clips).sum().backward()
    assert clips.grad is None
    assert all(p.grad is None and not p.requires_grad for p in tower.basic.parameters())
    assert all(p.grad is not None for name, p in tower.named_parameters() if not name.startswith("basic."))
    assert all(torch.equal(value, before[name]) for name, value in tower.basic.state_dict().items())
