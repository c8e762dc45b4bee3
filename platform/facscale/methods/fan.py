"""FAN: heat maps of 68 landmarks, by stacked hourglasses; what it sees on the way serves AUNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import interpolate

from facscale.data.views import Batch, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn.fan import FAN, STEP
from facscale.spec import SpecError

OUTER_CORNERS = (36, 45)  # of the eyes
GREEN = (0.0, 1.0, 0.0)
WRAPPED = "module."  # before each name, in what a DataParallel network saved


class FaceAlignment(Method):
    """Bulat and Tzimiropoulos, "How far are we from solving the 2D & 3D Face Alignment problem?", ICCV 2017.

    arXiv 1703.07332. Every stack s tells heat maps H_s; each of landmark k is compared with a Gaussian of height 1 about
    its place p_k, in pixels of the maps::

        G_k(q) = exp(-|q - p_k|^2 / (2 sigma^2))
        L      = sum_s mean_k sum_q (H_sk(q) - G_k(q))^2

    Landmarks that are not known, or outside of the image, take no part in the mean. `nme` is only logged: the mean
    distance of the last stack's landmarks as a share (not per cent) of the distance of the outer eye corners.

    Differs from the paper: L sums over a map's pixels, where the authors average, so that it does not become small with
    large maps; Gaussians stand at the landmark itself, not at the pixel that it lies in; AUNet's FAN has two stacks, the
    published ones four. The published recipe's random occlusion is not there.
    """

    class Config(MethodConfig):
        """Hyper-parameters; the paper's, with AUNet's number of stacks."""

        stacks: PositiveInt = 2
        width: Annotated[int, Field(ge=8, multiple_of=8)] = 256  # channels of an hourglass
        levels: PositiveInt = 4  # how often an hourglass halves its maps
        sigma: PositiveFloat = 1.0  # pixels of a heat map

    config: Config
    encoder: FAN

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        least = STEP * 2**config.levels
        if facts.image_size % STEP or facts.image_size < least:
            raise SpecError(
                f"data.image_size is {facts.image_size}, but FAN wants a multiple of {STEP} from {least} on"
            )
        self.encoder = FAN(stacks=config.stacks, width=config.width, levels=config.levels)

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """One frame with its landmarks."""
        return {"face": Frames(columns=("landmarks",))}

    @classmethod
    def adopted(cls, weights: Mapping[str, Tensor]) -> tuple[Config, dict[str, Tensor]] | None:
        """The face-alignment package's FAN, of any number of stacks and any width."""
        state = {name.removeprefix(WRAPPED): value for name, value in weights.items()}
        stacks = _count(state, "m{}.b1_1.conv1.weight", start=0)
        if not stacks or "bn_end0.weight" not in state:
            return None
        levels = _count(state, "m0.b1_{}.conv1.weight", start=1)
        return cls.Config(stacks=stacks, width=state["bn_end0.weight"].numel(), levels=levels), state

    @trains("encoder")
    def align(self, batch: Batch) -> Losses:
        """L, and how far off the landmarks are."""
        images, landmarks = batch.face.images[:, 0, 0], batch.face.landmarks[:, 0, 0]
        seen = self.encoder.seen(images).heatmaps
        known = inside(landmarks, size=images.shape[-1])
        wanted = gaussians(landmarks, side=seen[-1].shape[-1], sigma=self.config.sigma)
        apart = torch.stack([(told - wanted).square().sum((2, 3)) for told in seen])  # [stacks, B, 68]
        return {
            "heatmaps": Loss((apart * known).sum() / known.sum().clamp(min=1)),
            "nme": Loss(normalised_error(FAN.points(seen[-1]), landmarks=landmarks, known=known), 0.0),
        }

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """A face, the landmarks that are told, and their heat maps in one."""
        images = batch.face.images[:, 0, 0]
        maps = self.encoder.seen(images).heatmaps[-1]
        together = interpolate(maps.sum(1, keepdim=True), size=images.shape[-2:], mode="bilinear").clamp(0, 1)
        told = dotted(images, FAN.points(maps))
        return {"face": images, "landmarks": told, "heat maps": together.expand_as(images)}


def inside(landmarks: Tensor, *, size: int) -> Tensor:
    """Which landmarks [..., 2] are known and lie in an image of `size` pixels: [...]."""
    return ((landmarks >= -0.5) & (landmarks <= size - 0.5)).all(-1)  # nan is neither


def gaussians(landmarks: Tensor, *, side: int, sigma: float) -> Tensor:
    """Heat maps [N, K, side, side] of height 1 about landmarks [N, K, 2] in pixels of the image; about nan, any."""
    middle = (landmarks.nan_to_num() + 0.5) / STEP - 0.5
    steps = torch.arange(side, device=landmarks.device)
    x, y = torch.exp(-(steps - middle[..., None]).square() / (2 * sigma**2)).unbind(2)  # [N, K, side] each
    return y[..., :, None] * x[..., None, :]


def normalised_error(points: Tensor, *, landmarks: Tensor, known: Tensor) -> Tensor:
    """Mean distance of points [N, K, 2] from landmarks, over those known [N, K], in distances of the outer eye corners.

    The mean over faces; those without known landmarks or eye corners take no part, and without any face it is 0.
    """
    apart = (points - landmarks).norm(dim=2).where(known, 0).sum(1) / known.sum(1).clamp(min=1)
    right, left = OUTER_CORNERS
    shares = apart / (landmarks[:, right] - landmarks[:, left]).norm(dim=1).clamp(min=1)
    counted = known.any(1) & shares.isfinite()
    return shares.where(counted, 0).sum() / counted.sum().clamp(min=1)


def dotted(images: Tensor, points: Tensor) -> Tensor:
    """Images [N, 3, S, S] with a green square at each of the points [N, K, 2], a hundredth of the side to each side."""
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device)
    x, y = ((pixels - points[..., None]).abs() <= max(0.5, size / 100)).float().unbind(2)  # [N, K, S] each
    there = (y.mT @ x)[:, None] > 0
    return torch.where(there, images.new_tensor(GREEN).view(3, 1, 1), images)


def _count(names: Mapping[str, Tensor], pattern: str, *, start: int) -> int:
    """How many numbers from `start` on make the pattern a name that is there."""
    number = start
    while pattern.format(number) in names:
        number += 1
    return number - start
