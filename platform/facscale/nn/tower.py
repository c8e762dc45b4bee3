"""From maps of a face, and of how it moves, to one feature of the face: AUNet's trunk, on FAN or on a ResNet."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from facscale.nn.encoder import Encoder
from facscale.nn.fan import FAN, ConvBlock
from facscale.nn.resnet import ResNet


class Frozen(nn.Module):
    """A FAN that is never trained: always in eval mode, without gradient."""

    def __init__(self, fan: FAN, *, stacks: int) -> None:
        super().__init__()
        self.fan = fan.requires_grad_(False)
        self.stacks = stacks
        self.train()

    def train(self, mode: bool = True) -> Frozen:  # noqa: FBT001, FBT002 - as torch has it
        """Whatever the rest does, its BatchNorm layers keep their statistics."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [0, 1] -> [N, (stacks + 1) * width, S / 4, S / 4]."""
        return self.fan.basic(images, self.stacks)


class Differences(nn.Module):
    """The temporal difference net (Wang et al., "TDN", CVPR 2021), as AUNet has it: at half the side of the maps."""

    def __init__(self, inputs: int, *, outputs: int, later: int) -> None:
        """`outputs` channels beside the first static maps, `later` beside the next ones."""
        super().__init__()
        self.extract = nn.Conv2d(2 * inputs, outputs, 1)
        self.block = nn.Sequential(ConvBlock(outputs, later), nn.MaxPool2d(2, ceil_mode=True))

    def forward(self, before: Tensor, now: Tensor, after: Tensor) -> Tensor:
        """F(t) - F(t - T) and F(t) - F(t + T), of maps [N, inputs, h, w] -> [N, outputs, h / 2, w / 2]."""
        return self.extract(avg_pool2d(torch.cat([now - before, now - after], 1), 2, ceil_mode=True))


class Maps(NamedTuple):
    """What a tower sees on its way: static maps, finest first, and motion beside the first two, if it looks at any."""

    static: list[Tensor]
    motion: list[Tensor]


class Tower(Encoder):
    """Basic maps F, narrowed, then stage by stage smaller; motion is mixed in before the first stage and before the second.

    images [N, 3, S, S] in [0, 1] -> [N, dim]: of a face that does not move.
    """

    def __init__(
        self, basic: nn.Module, narrow: nn.Module, stages: list[nn.Module], *, dim: int, motion: Differences | None,
        share: float,
    ) -> None:  # fmt: skip
        """`share` of the maps is motion, the rest is static."""
        super().__init__()
        self.basic, self.narrow, self.stages, self.motion = basic, narrow, nn.ModuleList(stages), motion
        self.dim, self.share = dim, share

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, dim]."""
        return self.maps(images[:, None]).static[-1].mean((2, 3))

    def of_clips(self, clips: Tensor) -> Tensor:
        """Frames t - T, t and t + T [N, 3, 3, S, S], or t alone [N, 1, 3, S, S] -> [N, dim]."""
        return self.maps(clips).static[-1].mean((2, 3))

    def maps(self, clips: Tensor) -> Maps:
        """As `of_clips`: all maps, the finest first."""
        basic = self.basic(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        now = basic[:, clips.shape[1] // 2]
        x, static, motion = self.narrow(now), [], list[Tensor]()
        if self.motion is not None:
            motion.append(self.motion(basic[:, 0], now, basic[:, -1]))
            motion.append(self.motion.block(motion[0]))
        for number, stage in enumerate(self.stages):
            if number < len(motion):
                still = (1 - self.share) * x
                x = still + self.share * interpolate(motion[number], size=x.shape[-2:], mode="nearest")
            static.append(x)
            x = stage(x)
        return Maps([*static, x], motion)


def of_landmarks(fan: FAN, *, stacks: int, width: int, temporal: bool, share: float) -> Tower:
    """AU-FAN's trunk on frozen features: 1 x 1, then four times a block and max pooling."""
    basic = Frozen(fan, stacks=stacks)
    channels = (basic.stacks + 1) * fan.dim // (fan.stacks + 1)
    stages: list[nn.Module] = [
        nn.Sequential(ConvBlock(width, width), nn.MaxPool2d(2, ceil_mode=True)) for _ in range(4)
    ]
    motion = Differences(channels, outputs=width, later=width) if temporal else None
    return Tower(basic, nn.Conv2d(channels, width, 1), stages, dim=width, motion=motion, share=share)


def of_pixels(resnet: ResNet, *, temporal: bool, share: float) -> Tower:
    """ResNet-18, trained along: F is what its first stage gives, the other three are the trunk."""
    width = resnet.dim // 8
    first, *rest = resnet.parts()
    motion = Differences(width, outputs=width, later=2 * width) if temporal else None
    return Tower(first, nn.Identity(), list(rest), dim=resnet.dim, motion=motion, share=share)
