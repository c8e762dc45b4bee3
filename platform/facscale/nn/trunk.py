"""AUNet's trunk, on FAN or on a ResNet: from maps of a face, and of how it moves, to one feature vector."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from facscale.nn.encoder import Encoder
from facscale.nn.fan import FAN, ConvBlock
from facscale.nn.resnet import ResNet


class FrozenFAN(nn.Module):
    """A FAN that is never trained: always in eval mode, without gradient."""

    def __init__(self, fan: FAN, *, stacks: int) -> None:
        super().__init__()
        self.fan = fan.requires_grad_(False)
        self.stacks = stacks
        self.train()

    def train(self, mode: bool = True) -> FrozenFAN:  # noqa: FBT001, FBT002 - torch's signature
        """Stay in eval mode in any case, so that BatchNorm layers keep their statistics."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [0, 1] -> [N, (stacks + 1) * width, S / 4, S / 4]."""
        return self.fan.extract_maps(images, self.stacks)


class TemporalDifference(nn.Module):
    """The temporal difference net (Wang et al., "TDN", CVPR 2021), as in AUNet: at half the side of the maps."""

    def __init__(self, inputs: int, *, outputs: int, later: int) -> None:
        """`outputs`: channels that are mixed into the first static maps; `later`: into the second ones."""
        super().__init__()
        self.extract = nn.Conv2d(2 * inputs, outputs, 1)
        self.block = nn.Sequential(ConvBlock(outputs, later), nn.MaxPool2d(2, ceil_mode=True))

    def forward(self, before: Tensor, now: Tensor, after: Tensor) -> Tensor:
        """F(t) - F(t - T) and F(t) - F(t + T), of maps [N, inputs, h, w] -> [N, outputs, h / 2, w / 2]."""
        return self.extract(avg_pool2d(torch.cat([now - before, now - after], 1), 2, ceil_mode=True))


class TrunkMaps(NamedTuple):
    """Maps of the stages of a trunk."""

    static: list[Tensor]  # the finest first
    motion: list[Tensor]  # mixed into the first two static maps; empty without motion


class Trunk(Encoder):
    """Maps F, narrowed, then reduced stage by stage; motion is mixed in before the first and the second stage.

    images [N, 3, S, S] in [0, 1] -> [N, dim], of a face that does not move.
    """

    def __init__(
        self,
        basic: nn.Module,
        narrow: nn.Module,
        stages: list[nn.Module],
        *,
        dim: int,
        motion: TemporalDifference | None,
        share: float,
    ) -> None:
        """`basic`: images -> F; `share`: weight of motion in the mixed maps, the rest is static."""
        super().__init__()
        self.basic, self.narrow, self.stages, self.motion = basic, narrow, nn.ModuleList(stages), motion
        self.dim, self.share = dim, share

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, dim]."""
        return self.embed_clips(images[:, None])

    def embed_clips(self, clips: Tensor) -> Tensor:
        """Frames t - T, t and t + T [N, 3, 3, S, S], or t alone [N, 1, 3, S, S] -> [N, dim]."""
        return self.extract_maps(clips).static[-1].mean((2, 3))

    def extract_maps(self, clips: Tensor) -> TrunkMaps:
        """Compute the maps of all stages for clips as in `embed_clips`."""
        basic = self.basic(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        now = basic[:, clips.shape[1] // 2]
        x, static, motion = self.narrow(now), [], list[Tensor]()
        if self.motion is not None:
            motion.append(self.motion(basic[:, 0], now, basic[:, -1]))
            motion.append(self.motion.block(motion[0]))
        for number, stage in enumerate(self.stages):
            if number < len(motion):
                x = (1 - self.share) * x + self.share * interpolate(motion[number], size=x.shape[-2:], mode="nearest")
            static.append(x)
            x = stage(x)
        return TrunkMaps([*static, x], motion)


def make_fan_trunk(fan: FAN, *, stacks: int, width: int, temporal: bool, share: float) -> Trunk:
    """Build AU-FAN's trunk on frozen features: a 1 x 1 convolution, then four times a block and max pooling."""
    basic = FrozenFAN(fan, stacks=stacks)
    channels = (basic.stacks + 1) * fan.dim // (fan.stacks + 1)
    stages: list[nn.Module] = [
        nn.Sequential(ConvBlock(width, width), nn.MaxPool2d(2, ceil_mode=True)) for _ in range(4)
    ]
    motion = TemporalDifference(channels, outputs=width, later=width) if temporal else None
    return Trunk(basic, nn.Conv2d(channels, width, 1), stages, dim=width, motion=motion, share=share)


def make_resnet_trunk(resnet: ResNet, *, temporal: bool, share: float) -> Trunk:
    """Build a trunk on a ResNet that is trained with it: F is the output of its first stage, the other three follow."""
    width = resnet.dim // 8
    first, *rest = resnet.split_stages()
    motion = TemporalDifference(width, outputs=width, later=2 * width) if temporal else None
    return Trunk(first, nn.Identity(), list(rest), dim=resnet.dim, motion=motion, share=share)
