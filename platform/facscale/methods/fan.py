"""FAN: heat maps of 68 landmarks by stacked hourglasses, whose inner features AUNet uses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import interpolate

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn.fan import FAN, HEATMAP_STRIDE, Pool
from facscale.spec import SpecError

OUTER_CORNERS = (36, 45)  # of the eyes
GREEN = (0.0, 1.0, 0.0)
DATA_PARALLEL_PREFIX = "module."  # of all parameter names that a DataParallel network saved
# How the public FANs pool, by their number of stacks: ibug-group/face_alignment's 2dfan2 and AUNet's copy of it; 2DFAN4.
PUBLIC_POOLS: dict[int, Pool] = {2: "max", 4: "mean"}

log = logging.getLogger(__name__)


class FaceAlignment(Method):
    """Bulat and Tzimiropoulos, "How far are we from solving the 2D & 3D Face Alignment problem?", ICCV 2017.

    arXiv 1703.07332. Every stack s predicts heat maps H_s; that of landmark k is compared with a Gaussian of height 1
    at its position p_k, in pixels of the maps::

        G_k(q) = exp(-|q - p_k|^2 / (2 sigma^2))
        L      = sum_s mean_k sum_q (H_sk(q) - G_k(q))^2

    Landmarks that are unknown or outside the image are left out of the mean. `nme` is only logged: the mean distance of
    the last stack's landmarks as a share (not per cent) of the distance of the outer eye corners.

    Departures from the paper:

    - L sums over a map's pixels, where the authors average, so that it does not shrink with larger maps.
    - Gaussians are centred on the landmark itself, not on its pixel.
    - AUNet's FAN has two stacks, the paper's four.
    - `pool: max` halves maps by their maximum, as AUNet's FAN of two stacks does, `mean` by their mean, as the
      face-alignment package's 2DFAN4 does. Public weights decide: two stacks are max, four are mean.
    - The paper's random occlusion, which it does not describe, is left out; it does not state how strong its colour jitter
      is. Adam replaces RMSprop at the same rate (jobs/fan.yaml).
    - Heat maps, their loss and the landmarks stay in float32, where jobs/fan.yaml trains in bfloat16.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values and AUNet's number of stacks."""

        stacks: PositiveInt = 2
        width: Annotated[int, Field(ge=8, multiple_of=8)] = 256  # channels of an hourglass
        levels: PositiveInt = 4  # how often an hourglass halves its maps
        sigma: PositiveFloat = 1.0  # pixels of a heat map
        pool: Pool = "mean"  # in stem and hourglasses: mean in 2DFAN4, max in AUNet's FAN of two stacks

    config: Config
    encoder: FAN

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        min_size = HEATMAP_STRIDE * 2**config.levels
        if facts.image_size % HEATMAP_STRIDE or facts.image_size < min_size:
            raise SpecError(
                f"data.image_size is {facts.image_size}, but FAN needs a multiple of {HEATMAP_STRIDE}, "
                f"at least {min_size}"
            )
        self.encoder = FAN(stacks=config.stacks, width=config.width, levels=config.levels, pool=config.pool)

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return one frame with its landmarks."""
        return {"face": RandomFrames(columns=("landmarks",))}

    @classmethod
    def convert_public_weights(cls, weights: Mapping[str, Tensor]) -> tuple[Config, dict[str, Tensor]] | None:
        """Accept the FAN of the face-alignment package or of ibug-group/face_alignment, of any width.

        A file does not tell how its network pools: that follows from its number of stacks (`PUBLIC_POOLS`). Any other
        number, which has never been published, pools by the mean, as the face-alignment package's code does. A line in
        the log says which it is.
        """
        state = {name.removeprefix(DATA_PARALLEL_PREFIX): value for name, value in weights.items()}
        stacks = _count_names(state, "m{}.b1_1.conv1.weight", start=0)
        if not stacks or "bn_end0.weight" not in state:
            return None
        levels = _count_names(state, "m0.b1_{}.conv1.weight", start=1)
        pool = PUBLIC_POOLS.get(stacks, "mean")
        report_pool(stacks, pool)
        return cls.Config(stacks=stacks, width=state["bn_end0.weight"].numel(), levels=levels, pool=pool), state

    @trains("encoder")
    def align(self, batch: Batch) -> Losses:
        """Compute L and the error of the landmarks."""
        images, landmarks = batch.face.images[:, 0, 0], batch.face.landmarks[:, 0, 0]
        heatmaps = self.encoder.run_stacks(images).heatmaps
        is_valid = is_inside(landmarks, size=images.shape[-1])
        targets = make_heatmaps(landmarks, side=heatmaps[-1].shape[-1], sigma=self.config.sigma)
        errors = torch.stack([(maps - targets).square().sum((2, 3)) for maps in heatmaps])  # [stacks, B, 68]
        nme = normalised_error(FAN.decode_landmarks(heatmaps[-1]), landmarks=landmarks, is_valid=is_valid)
        return {
            "heatmaps": Loss((errors * is_valid).sum() / is_valid.sum().clamp(min=1)),
            "nme": Loss(nme, 0.0),
        }

    def visualize(self, batch: Batch) -> Mapping[str, Tensor]:
        """Draw a face, its predicted landmarks, and the sum of their heat maps."""
        images = batch.face.images[:, 0, 0]
        maps = self.encoder.run_stacks(images).heatmaps[-1]
        summed = interpolate(maps.sum(1, keepdim=True), size=images.shape[-2:], mode="bilinear").clamp(0, 1)
        marked = draw_points(images, FAN.decode_landmarks(maps))
        return {"face": images, "landmarks": marked, "heat maps": summed.expand_as(images)}


@lru_cache
def report_pool(stacks: int, pool: Pool) -> None:
    """Log how adopted weights pool, once in a process."""
    if stacks in PUBLIC_POOLS:
        log.warning("public weights of a FAN with %d stacks: its maps are halved by %s pooling", stacks, pool)
    else:
        log.warning(
            "public weights of a FAN with %d stacks: its maps are halved by mean pooling, as in the face-alignment "
            "package; if it was trained with max pooling, its features are wrong: use the 2 stacks of 2dfan2.pth, the 4 "
            "of 2DFAN4, or the export of a job of your own (jobs/fan.yaml with method.pool=max)",
            stacks,
        )


def is_inside(landmarks: Tensor, *, size: int) -> Tensor:
    """Return which landmarks [..., 2] are known and lie in an image of `size` pixels: bool [...]."""
    return ((landmarks >= -0.5) & (landmarks <= size - 0.5)).all(-1)  # false for nan


def make_heatmaps(landmarks: Tensor, *, side: int, sigma: float) -> Tensor:
    """Draw Gaussians of height 1 as heat maps [N, K, side, side], at landmarks [N, K, 2] in pixels of the image.

    The map of a landmark that is nan is finite, but otherwise arbitrary.
    """
    centres = (landmarks.nan_to_num() + 0.5) / HEATMAP_STRIDE - 0.5
    steps = torch.arange(side, device=landmarks.device)
    x, y = torch.exp(-(steps - centres[..., None]).square() / (2 * sigma**2)).unbind(2)  # [N, K, side] each
    return y[..., :, None] * x[..., None, :]


def normalised_error(points: Tensor, *, landmarks: Tensor, is_valid: Tensor) -> Tensor:
    """Mean distance of points [N, K, 2] from landmarks, as a share of the distance of the outer eye corners.

    The mean is over the valid landmarks [N, K] of each face, then over faces. Faces without valid landmarks or without
    eye corners are left out; if none is left, the result is 0.
    """
    distances = (points - landmarks).norm(dim=2).where(is_valid, 0).sum(1) / is_valid.sum(1).clamp(min=1)
    right, left = OUTER_CORNERS
    errors = distances / (landmarks[:, right] - landmarks[:, left]).norm(dim=1).clamp(min=1)
    is_counted = is_valid.any(1) & errors.isfinite()
    return errors.where(is_counted, 0).sum() / is_counted.sum().clamp(min=1)


def draw_points(images: Tensor, points: Tensor) -> Tensor:
    """Draw a green square at each point [N, K, 2] of images [N, 3, S, S], S / 100 pixels to each side."""
    size = images.shape[-1]
    pixels = torch.arange(size, device=images.device)
    x, y = ((pixels - points[..., None]).abs() <= max(0.5, size / 100)).float().unbind(2)  # [N, K, S] each
    is_marked = (y.mT @ x)[:, None] > 0
    return torch.where(is_marked, images.new_tensor(GREEN).view(3, 1, 1), images)


def _count_names(names: Mapping[str, Tensor], pattern: str, *, start: int) -> int:
    """Count the consecutive numbers from `start` on for which `pattern` gives a name in `names`."""
    number = start
    while pattern.format(number) in names:
        number += 1
    return number - start
