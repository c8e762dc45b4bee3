"""TC-Net: the embeddings of a clip move away from its first frame as time goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize

from facscale.data.views import Batch, FrameOffsets, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import Encoder, ResNet
from facscale.nn.precision import apply_widened, widen


class TCNet(Method):
    """Lu et al., "Self-Supervised Learning for Facial Action Unit Recognition through Temporal Consistency", BMVC 2020.

    For the anchor f_0 and the frames f_1 ... f_n that follow it in time, normalised embeddings::

        d_j = |f_0 - f_j|^2
        L   = sum_{j=1}^{n-1} [d_j - d_{j+1} + m]_+

    Letters: m `margin`, n `length` - 1. The frames are the anchor, the next one, and ten more `spacing` apart.

    The embedding (a ResNet and a linear layer) is what is kept and evaluated. As in the published code, every frame has
    a crop of its own (of one side), the network begins with ImageNet's weights (`inputs.pretrained` in jobs/tcnet.yaml),
    and anchors, next and later frames pass it as three batches, with statistics of their own.

    Departures from the paper, and from its published code:

    - Anchors are drawn anew in each epoch; the code draws one for each video, once for the run.
    - What is evaluated is the embedding before it is normalised.
    - The batch of 48 is shared by 4 workers, by 2 GPUs in the code: BatchNorm sees the frames of 12 clips, not 24.
    - Nobody is held out: the code sets aside a fifth of the videos, and selects nothing by them.
    - Embeddings and distances stay in float32, where jobs/tcnet.yaml trains in bfloat16.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the published code's values."""

        depth: Literal[18, 34, 50] = 18  # of the ResNet
        width: PositiveInt = 64
        length: Annotated[int, Field(ge=3)] = 12  # frames of a clip
        spacing: PositiveInt = 1  # distance of neighbouring frames after the second one, in frames
        margin: NonNegativeFloat = 0.03  # m
        embedding: PositiveInt = 256

    config: Config

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        super().__init__(config, facts)
        backbone = pretrained.encoder if pretrained else ResNet(config.depth, width=config.width)
        self.encoder = ProjectedEncoder(backbone, config.embedding)

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return a clip: the anchor, the next frame, and frames `spacing` apart."""
        later = range(1 + config.spacing, 2 + config.spacing * (config.length - 2), config.spacing)
        return {"clip": FrameOffsets(offsets=(0, 1, *later))}

    @trains("encoder")
    def rank(self, batch: Batch) -> Losses:
        """Compute L. Anchors, next and later frames pass the encoder as three batches."""
        clips = batch.clip.images[:, :, 0]
        parts = [clips[:, :1], clips[:, 1:2], clips[:, 2:]]
        embeddings = [self.encoder(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in parts]
        clips_BJD = normalize(widen(torch.cat(embeddings, 1)), dim=-1)
        return {"ranked": Loss(ranking_loss(clips_BJD, margin=self.config.margin))}


class ProjectedEncoder(Encoder):
    """A backbone and a linear layer: images [N, 3, S, S] -> [N, dim]."""

    def __init__(self, backbone: Encoder, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.backbone = backbone
        self.linear = nn.Linear(backbone.dim, dim)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> embeddings [N, dim], not normalised."""
        return apply_widened(self.linear, self.backbone(images))


def ranking_loss(clips_BJD: Tensor, *, margin: float) -> Tensor:
    """Compute L of normalised embeddings [B, J, D], averaged over the clips."""
    distances = (clips_BJD[:, :1] - clips_BJD[:, 1:]).square().sum(-1)
    return (distances[:, :-1] - distances[:, 1:] + margin).relu().sum(1).mean()
