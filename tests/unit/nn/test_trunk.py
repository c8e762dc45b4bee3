"""AUNet's trunk against the paper's figure written out, and its frozen part."""

from __future__ import annotations

import math

import pytest
import torch

from facscale.nn import ResNet
from facscale.nn.fan import FAN
from facscale.nn.trunk import make_fan_trunk, make_resnet_trunk


def perturb(module):
    """In float64 and eval mode, with no layer as it was initialised."""
    with torch.no_grad():
        for value in module.double().state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return module.eval()


def on_fan(*, stacks=2, temporal=True, share=0.3):
    torch.manual_seed(0)
    return perturb(make_fan_trunk(FAN(width=8, levels=1), stacks=stacks, width=8, temporal=temporal, share=share))


def on_resnet(*, temporal=True, share=0.3):
    torch.manual_seed(0)
    return perturb(make_resnet_trunk(ResNet(18, width=4), temporal=temporal, share=share))


def clips_of(*shape, side=32):
    return torch.rand(*shape, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def windows(maps, reduce):
    """Each square of 2 x 2 [C, h, w] -> one value, of those that are there at an odd border."""
    _, height, width = maps.shape
    result = [
        [reduce(maps[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flatten(1)) for x in range(math.ceil(width / 2))]
        for y in range(math.ceil(height / 2))
    ]
    return torch.stack([torch.stack(row, -1) for row in result], -2)


def enlarged(maps, side):
    return maps.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :side, :side]


def pointwise(conv, maps):
    return torch.einsum("oi,ihw->ohw", conv.weight[:, :, 0, 0], maps) + conv.bias[:, None, None]


def slow_trunk(trunk, clip, *, share):
    """Figure 4 for one clip [3, 3, S, S]: static maps, motion, and the feature."""
    before, now, after = (trunk.basic.fan.extract_maps(frame[None], trunk.basic.stacks)[0] for frame in clip)
    apart = torch.cat([now - before, now - after])
    motion = [pointwise(trunk.motion.extract, windows(apart, lambda w: w.mean(1)))]
    motion.append(windows(trunk.motion.block[0](motion[0][None])[0], lambda w: w.amax(1)))
    static, x = [], pointwise(trunk.narrow, now)
    for number, stage in enumerate(trunk.stages):
        if number < 2:
            x = (1 - share) * x + share * enlarged(motion[number], x.shape[-1])
        static.append(x)
        x = windows(stage[0](x[None])[0], lambda w: w.amax(1))
    return [*static, x], motion, x.flatten(1).mean(1)


@pytest.mark.parametrize(("side", "sides"), [(64, [16, 8, 4, 2, 1]), (36, [9, 5, 3, 2, 1])])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@torch.no_grad()
def test_maps_match_the_papers_figure(side, sides, share):
    trunk, clips = on_fan(share=share), clips_of(2, 3, side=side)
    result, features = trunk.extract_maps(clips), trunk.embed_clips(clips)
    assert [maps.shape[-1] for maps in result.static] == sides
    for number, clip in enumerate(clips):
        static, motion, feature = slow_trunk(trunk, clip, share=share)
        torch.testing.assert_close([maps[number] for maps in result.static], static)
        torch.testing.assert_close([maps[number] for maps in result.motion], motion)
        torch.testing.assert_close(features[number], feature)


@torch.no_grad()
def test_without_motion_it_is_the_static_stream():
    alone, clips = on_fan(temporal=False), clips_of(2, 3, side=64)
    still = on_fan(share=0.0)
    still.load_state_dict(alone.state_dict(), strict=False)
    assert alone.extract_maps(clips).motion == []
    torch.testing.assert_close(alone.embed_clips(clips[:, 1:2]), still.embed_clips(clips))
    torch.testing.assert_close(alone(clips[:, 1]), still.embed_clips(clips))


@pytest.mark.parametrize("make", [on_fan, on_resnet])
@torch.no_grad()
def test_motion_is_the_difference_of_frames_and_has_a_direction(make):
    trunk, clips = make(), clips_of(2, 3, side=64)
    still = clips[:, 1:2].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(trunk.embed_clips(still), trunk(clips[:, 1]))
    constant = trunk.extract_maps(still).motion[0]
    torch.testing.assert_close(constant, trunk.motion.extract.bias[:, None, None].expand_as(constant))
    features = [trunk.embed_clips(frames) for frames in (clips, still, clips.flip(1))]
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert (features[a] - features[b]).abs().max() > 1e-4


@pytest.mark.parametrize("stacks", [1, 2])
@torch.no_grad()
def test_only_the_requested_stacks_are_used(stacks):
    trunk, images = on_fan(stacks=stacks), clips_of(2)
    torch.testing.assert_close(trunk.basic(images), trunk.basic.fan.extract_maps(images, stacks))
    assert trunk.basic(images).shape == (2, (stacks + 1) * 8, 8, 8)


@torch.no_grad()
def test_on_a_resnet_it_is_the_resnet():
    torch.manual_seed(0)
    resnet = perturb(ResNet(18, width=4))
    trunk, images = make_resnet_trunk(resnet, temporal=False, share=0.3).eval(), clips_of(2, side=64)
    torch.testing.assert_close(trunk.extract_maps(images[:, None]).static, resnet.extract_maps(images))
    torch.testing.assert_close(trunk(images), resnet(images))
    assert trunk.dim == resnet.dim


def test_on_a_resnet_both_mixtures_change_the_feature():
    trunk, clips = on_resnet(), clips_of(2, 3, side=64)
    trunk.embed_clips(clips).sum().backward()
    parts = [trunk.motion.extract, trunk.motion.block[0].conv3, *trunk.stages, trunk.basic.layers[0]]
    assert all(any(p.grad.abs().sum() > 0 for p in part.parameters()) for part in parts)
    first, second = trunk.extract_maps(clips).motion
    assert (first.shape, second.shape) == ((2, 4, 8, 8), (2, 8, 4, 4))


def test_a_frozen_fan_does_not_change():
    trunk = make_fan_trunk(FAN(width=8, levels=1), stacks=2, width=8, temporal=True, share=0.1)
    assert not any(module.training for module in trunk.basic.modules())
    trunk.train()
    assert all(module.training for module in [trunk, *trunk.stages.modules(), *trunk.motion.modules()])
    assert not any(module.training for module in trunk.basic.modules())
    before = {name: value.clone() for name, value in trunk.basic.state_dict().items()}
    clips = clips_of(2, 3, side=64).float().requires_grad_()
    trunk.embed_clips(clips).sum().backward()
    assert clips.grad is None
    assert all(p.grad is None and not p.requires_grad for p in trunk.basic.parameters())
    assert all(p.grad is not None for name, p in trunk.named_parameters() if not name.startswith("basic."))
    assert all(torch.equal(value, before[name]) for name, value in trunk.basic.state_dict().items())
