"""ResNets (He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385), as feature extractors.

Parameter names are torchvision's (`conv1`, `layer3.0.bn2`, `layer2.0.downsample.1`), so that the well-known
checkpoints load.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from facscale.nn.encoder import Encoder
from facscale.nn.precision import widen

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inputs, planes, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, planes, H / stride, W / stride]."""
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.downsample(x)).relu()


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as in torchvision) and 1x1 (four times as wide) convolutions, added to a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = _shortcut(inputs, 4 * planes, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, 4 * planes, H / stride, W / stride]."""
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class ResNet(Encoder):
    """Images [N, 3, S, S] in [0, 1] -> features [N, dim]; its input is normalised by ImageNet's mean and deviation.

    `width`: channels of the first stage (64 in the paper); `dim` is 8 * width, or 32 * width for depth 50.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, depth: Literal[18, 34, 50] = 34, *, width: int = 64, zero_init_residual: bool = False) -> None:
        """`zero_init_residual`: every block starts as its shortcut alone (its last BatchNorm scales by 0)."""
        super().__init__()
        block = Bottleneck if depth == 50 else BasicBlock
        self.dim = 8 * width * block.expansion
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = width
        for number, count in enumerate(BLOCKS[depth]):
            planes = width * 2**number
            blocks = []
            for index in range(count):
                blocks.append(block(inputs, planes, stride=2 if number and not index else 1))
                inputs = planes * block.expansion
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.bn3.weight if isinstance(module, Bottleneck) else module.bn2.weight)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [0, 1] -> [N, dim]."""
        return widen(self.extract_maps(images)[-1]).mean((2, 3))  # rounding errors of single positions average out

    def extract_maps(self, images: Tensor) -> list[Tensor]:
        """Compute the maps of the four stages, at a 4th, 8th, 16th and 32nd of the image's side."""
        x = self.maxpool(self.bn1(self.conv1((images - self.mean) / self.std)).relu())
        maps = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps

    def split_stages(self) -> list[nn.Module]:
        """Return the four stages as modules, each for the output of the one before it; the first takes images."""
        return [FirstStage(self), *(self.get_submodule(f"layer{number}") for number in range(2, 5))]


class FirstStage(nn.Module):
    """The layers of a ResNet up to the end of its first stage, shared with it."""

    mean: Tensor
    std: Tensor

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.register_buffer("mean", resnet.mean, persistent=False)
        self.register_buffer("std", resnet.std, persistent=False)
        self.layers = nn.Sequential(resnet.conv1, resnet.bn1, nn.ReLU(), resnet.maxpool, resnet.get_submodule("layer1"))

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [0, 1] -> [N, width, S / 4, S / 4] (4 * width channels for depth 50)."""
        maps: Tensor = self.layers((images - self.mean) / self.std)
        return maps


def _shortcut(inputs: int, outputs: int, *, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    kind = nn.Conv2d if inputs >= 8 else _NarrowShortcut
    return nn.Sequential(kind(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _NarrowShortcut(nn.Conv2d):
    """A strided 1x1 convolution of few channels, which drops the pixels between strides before it convolves.

    The result is the same. On the CPU, torch 2.14.1's own backward pass of 2 to 7 channels in the channels-last layout
    writes outside its buffers, which ends in a segmentation fault or in wrong numbers.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Conv2d
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride], both rounded up."""
        rows, columns = self.stride
        return functional.conv2d(input[..., ::rows, ::columns], self.weight)
