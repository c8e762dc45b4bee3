"""FAN, the stacked-hourglass network that locates facial landmarks, and the features that AUNet reads from it.

Bulat and Tzimiropoulos, "How far are we from solving the 2D & 3D Face Alignment problem?" (ICCV 2017, arXiv
1703.07332); hourglasses: Newell et al., arXiv 1603.06937. Parameter names are those of the face-alignment package
(`conv4.bn2`, `m0.b2_plus_1`, `top_m_1`, `al0`), so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from facscale.nn.encoder import Encoder
from facscale.nn.precision import apply_widened, widen

Pool = Literal["mean", "max"]
POOLS: dict[Pool, Callable[[Tensor, int], Tensor]] = {"mean": avg_pool2d, "max": max_pool2d}
LANDMARKS = 68  # iBUG's
HEATMAP_STRIDE = 4  # pixels of the image to one pixel of a heat map, in each direction


class ConvBlock(nn.Module):
    """Three 3x3 convolutions in sequence; their concatenated outputs are added to a shortcut.

    BatchNorm and ReLU precede each convolution. They give a half, a quarter and a quarter of the output channels, whose
    number is a multiple of 4.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half, quarter = outputs // 2, outputs // 4
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, half, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.downsample: nn.Module = nn.Identity()  # it never makes maps smaller: the name is the checkpoints'
        if inputs != outputs:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H, W]."""
        first = self.conv1(self.bn1(x).relu())
        second = self.conv2(self.bn2(first).relu())
        third = self.conv3(self.bn3(second).relu())
        return torch.cat([first, second, third], 1) + self.downsample(x)


class Hourglass(nn.Module):
    """Halves maps `levels` times by pooling and doubles them again, with a skip connection at every level."""

    def __init__(self, width: int, *, levels: int, pool: Pool = "mean") -> None:
        super().__init__()
        self.levels, self.pool = levels, pool
        for level in range(levels, 0, -1):
            self.add_module(f"b1_{level}", ConvBlock(width, width))  # skip connection
            self.add_module(f"b2_{level}", ConvBlock(width, width))  # on the way down
        self.b2_plus_1 = ConvBlock(width, width)
        for level in range(1, levels + 1):
            self.add_module(f"b3_{level}", ConvBlock(width, width))  # on the way up

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] -> the same shape."""
        skips = []
        for level in range(self.levels, 0, -1):
            skips.append(self.get_submodule(f"b1_{level}")(x))
            x = self.get_submodule(f"b2_{level}")(POOLS[self.pool](x, 2))
        x = self.b2_plus_1(x)
        for level in range(1, self.levels + 1):
            x = self.get_submodule(f"b3_{level}")(x)
            skip = skips.pop()
            x = skip + interpolate(x, size=skip.shape[-2:], mode="nearest")  # the size also fits where a side was odd
        return x


class FANOutputs(NamedTuple):
    """Outputs of the stacks of FAN for images [N, 3, S, S], on maps of h = S / 4 a side."""

    stem: Tensor  # [N, width, h, h]
    hourglasses: list[Tensor]  # of each stack that was run, [N, width, h, h]
    heatmaps: list[Tensor]  # of each stack that was run, [N, points, h, h]; float32 under autocast


class FAN(Encoder):
    """Images [N, 3, S, S] in [0, 1], not normalised -> features [N, dim]: the spatial mean of `extract_maps`.

    `width`: channels of an hourglass, a multiple of 8 (256 in the paper); `levels`: its halvings; `dim` is
    (stacks + 1) * width. S is a multiple of 4, and at least 4 * 2^levels. `pool`: how the stem and the hourglasses halve
    their maps. It has no parameters, so that weights for the one also load into the other, and give other features.
    """

    def __init__(
        self,
        *,
        stacks: int = 2,
        width: int = 256,
        levels: int = 4,
        points: int = LANDMARKS,
        pool: Pool = "mean",
    ) -> None:
        super().__init__()
        self.stacks, self.pool = stacks, pool
        self.dim = (stacks + 1) * width
        self.conv1 = nn.Conv2d(3, width // 4, 7, 2, padding=3)
        self.bn1 = nn.BatchNorm2d(width // 4)
        self.conv2 = ConvBlock(width // 4, width // 2)
        self.conv3 = ConvBlock(width // 2, width // 2)
        self.conv4 = ConvBlock(width // 2, width)
        for n in range(stacks):
            self.add_module(f"m{n}", Hourglass(width, levels=levels, pool=pool))
            self.add_module(f"top_m_{n}", ConvBlock(width, width))
            self.add_module(f"conv_last{n}", nn.Conv2d(width, width, 1))
            self.add_module(f"bn_end{n}", nn.BatchNorm2d(width))
            self.add_module(f"l{n}", nn.Conv2d(width, points, 1))
            if n < stacks - 1:  # features and heat maps on their way to the next hourglass
                self.add_module(f"bl{n}", nn.Conv2d(width, width, 1))
                self.add_module(f"al{n}", nn.Conv2d(points, width, 1))

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [0, 1] -> [N, dim]."""
        return self.extract_maps(images).mean((2, 3))

    def extract_maps(self, images: Tensor, stacks: int | None = None) -> Tensor:
        """Compute AUNet's features F [N, (stacks + 1) * width, h, h]: the stem, and the hourglasses near landmarks.

        All hourglasses are multiplied by the same mask: the sum of the heat maps of the last stack that is used, not
        normalised, as in the authors' code.
        """
        outputs = self.run_stacks(images, stacks)
        mask = outputs.heatmaps[-1].sum(1, keepdim=True)
        return torch.cat([outputs.stem, *(feature * mask for feature in outputs.hourglasses)], 1)

    def run_stacks(self, images: Tensor, stacks: int | None = None) -> FANOutputs:
        """Run the first `stacks` stacks, or all of them. Raises ValueError if FAN has fewer.

        The feature of an hourglass is what the next stack receives from it, after `bl`; that of the last one is the
        input of its heat maps, after BatchNorm and ReLU.
        """
        count = self.stacks if stacks is None else stacks
        if not 1 <= count <= self.stacks:
            raise ValueError(f"{count} stacks were requested of a FAN that has {self.stacks}")
        x = stem = self._run_stem(images)
        hourglasses, heatmaps = [], []
        for n in range(count):
            y = self.get_submodule(f"top_m_{n}")(self.get_submodule(f"m{n}")(x))
            y = self.get_submodule(f"bn_end{n}")(self.get_submodule(f"conv_last{n}")(y)).relu()
            heatmaps.append(apply_widened(self.get_submodule(f"l{n}"), y))
            if n < count - 1:
                y = self.get_submodule(f"bl{n}")(y)
                x = x + y + self.get_submodule(f"al{n}")(heatmaps[-1])
            hourglasses.append(y)
        return FANOutputs(stem, hourglasses, heatmaps)

    def _run_stem(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images)).relu()
        return self.conv4(self.conv3(POOLS[self.pool](self.conv2(x), 2)))

    @staticmethod
    def decode_landmarks(heatmaps: Tensor) -> Tensor:
        """Return where heat maps [N, K, h, w] are highest: [N, K, 2], x and y in pixels of the image; no gradient.

        The maximum is shifted by a quarter of a heat map's pixel towards the higher neighbour in each direction (Newell
        et al.), but not at the border.
        """
        height, width = heatmaps.shape[-2:]
        flat = widen(heatmaps.detach()).flatten(2)
        peak = flat.argmax(2, keepdim=True)

        def refine(position: Tensor, count: int, stride: int) -> Tensor:
            inside = (position > 0) & (position < count - 1)
            after, before = torch.where(inside, peak + stride, peak), torch.where(inside, peak - stride, peak)
            shift = 0.25 * (flat.gather(2, after) - flat.gather(2, before)).sign()
            return (position + shift + 0.5) * HEATMAP_STRIDE - 0.5  # (0, 0) is the centre of the first pixel

        return torch.cat([refine(peak % width, width, 1), refine(peak // width, height, width)], 2)
