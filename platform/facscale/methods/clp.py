"""CLP: contrastive learning of person-independent representations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from facscale.data.views import Batch, FrameSequence, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, adopt_resnet, trains
from facscale.nn import MomentumEncoder, Queue, ResNet, info_nce, projection_head, soft_neighbours
from facscale.nn.constants import cache_constant

Descent = Literal["inverse-sqrt", "inverse", "exponential", "constant"]


class CLP(Method):
    """Li and Shan, "Contrastive Learning of Person-independent Representations for Facial Action Unit Detection", TIP 2023.

    arXiv 2403.03400. Temporal contrastive learning (TCL), for a clip f_1 ... f_J of one face, in the normalised space
    of the TCL head::

        L_triplet = sum_{j=2}^{J-1} lambda_j [D(f_1, f_j) - D(f_1, f_{j+1}) + m]_+                  (1)
        L_tcl     = L_triplet(f_1 ... f_J) + L_triplet(f_J ... f_1)

    Cross-identity reconstruction (CIR), for a single frame q_r in the space of the CIR head, its augmented copy k_r
    through the momentum encoder, and a queue M that each step splits at random into neighbours C and negatives N::

        a_c   = softmax_{c in C} (sim(q_r, C_c) / T)                                                (2)
        q^_r  = sum_c a_c C_c                                                                       (3)
        L_cir = -log exp(sim(q^_r, k_r) / T) / (exp(sim(q^_r, k_r) / T) + sum_{n in N} exp(sim(q^_r, n) / T))  (4)
        w_k  <- mu w_k + (1 - mu) w_q                                                               (5)
        L     = L_tcl + beta L_cir                                                                  (6)

    Letters: D Euclidean distance, sim cosine, m `margin`, lambda `triplet_weight`, T `temperature`, mu `momentum`,
    beta `cir_weight`, |M| `queue_size`, |C| `neighbours`; shapes: B samples, J frames of a clip, L single frames of a
    video, D dimensions, M keys.

    Departures from the paper:

    - Sums over samples are means, so that the loss does not grow with the batch.
    - Until the queue is full, only its filled rows are used.
    - jobs/clp.yaml trains in bfloat16; heads, distances and similarities stay in float32. The paper names no precision.

    Left open by the paper, which has no public code, and decided here:

    - T: 0.07, as in cross-video cycle consistency, to which Eqs. 2-4 are otherwise equal.
    - [ ]_+ is the hinge relu, and D is not squared.
    - "I does not exist in C": keys of the query's own identity are never neighbours; `exclude: both` keeps them out of
      the negatives too.
    - C and the negatives are drawn anew in each step, for all queries alike.
    - `clip_augmentation: each`: every frame of a clip is augmented by itself. With one augmentation for a clip, drifting
      light and pose order its frames, and AUs are hardly learned (measured, docs/results/index.md).
    - The positive is another augmented copy of the query's frame.
    - Keys pass the momentum encoder in batches of their worker, with these batches' statistics: no shuffled BatchNorm.
      Clips and queries share a batch. The heads have no BatchNorm.
    - Optimizer: SGD with momentum 0.9, no weight decay, and a constant rate, although the paper calls 0.001 the initial
      one.
    - Initialisation: from scratch, convolutions after He et al.; the paper mentions no checkpoint. `inputs.pretrained`
      takes one, such as ImageNet's.
    - Strengths of the augmentation beside "rotation (10 degrees)": brightness, contrast and saturation within 0.4 of 1
      and no hue, for every image; crops of 80 to 100 % of the side; flips of every other image.

    tests/benchmarks/claims.py (choices) tries the augmentation of clips, its strength, and T on rendered faces.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        depth: Literal[18, 34, 50] = 34  # of the ResNet, when no `pretrained` is given
        width: PositiveInt = 64  # channels of its first stage
        length: Annotated[int, Field(ge=3)] = 9  # J, frames of a clip
        stride: PositiveInt = 2  # s, distance of neighbouring frames of a clip, in frames
        clip_augmentation: Literal["shared", "each"] = "each"  # one augmentation for a clip, or one for each frame
        margin: NonNegativeFloat = 0.03  # m, Eq. 1
        triplet_weight: Descent = "inverse-sqrt"  # lambda_j: 1/sqrt(j), 1/j, exp(-j) or 1 (Table IV)
        tcl_weight: NonNegativeFloat = 1.0  # 0: CIR only (Table IV)
        cir_weight: NonNegativeFloat = 0.1  # beta, Eq. 6; 0: TCL only (Table IV)
        frames: PositiveInt = 2  # L, discontinuous frames of a video for CIR
        queue_size: Annotated[int, Field(ge=2)] = 65536  # |M|
        neighbours: PositiveInt | None = None  # |C|; None: half of the queue
        exclude: Literal["neighbours", "both"] = "neighbours"  # what keys of the query's identity are left out of
        temperature: PositiveFloat = 0.07  # T, Eqs. 2 and 4
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999  # mu, Eq. 5
        hidden: PositiveInt = 256  # of both projection heads
        embedding: PositiveInt = 128  # D, of both projection heads

        @model_validator(mode="after")
        def _check_weights_and_neighbours(self) -> CLP.Config:
            if not (self.tcl_weight or self.cir_weight):
                raise ValueError("tcl_weight and cir_weight are both 0: nothing would be trained")
            if self.neighbours is not None and self.neighbours >= self.queue_size:
                raise ValueError(
                    f"neighbours must be less than queue_size ({self.queue_size}); the other keys are the negatives"
                )
            return self

    config: Config

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        """`pretrained`: a ResNet to start from, as of ImageNet, whose depth and width replace the spec's."""
        super().__init__(config, facts)
        self.encoder = adopt_resnet(pretrained) if pretrained else ResNet(config.depth, width=config.width)
        self.tcl_head = projection_head(self.encoder.dim, config.hidden, config.embedding)
        self.cir_head = projection_head(self.encoder.dim, config.hidden, config.embedding)
        self.key_encoder = MomentumEncoder(self.encoder, momentum=config.momentum)
        self.key_head = MomentumEncoder(self.cir_head, momentum=config.momentum)
        self.queue = Queue(config.queue_size, config.embedding)

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return one clip, and L frames of the same video in two augmentations: the queries and the keys."""
        shared = config.clip_augmentation == "shared"
        clip = FrameSequence(length=config.length, stride=config.stride, shared=shared)
        return {"clip": clip, "faces": RandomFrames(count=config.frames, views=2)}

    @trains("encoder", "tcl_head", "cir_head")
    def pretext(self, batch: Batch) -> Losses:
        """Compute Eq. 6. The clips and the single frames pass the encoder in one batch."""
        clips_BJ = batch.clip.images[:, :, 0]
        queries_BL, keys_BL = batch.faces.images.unbind(2)
        split = clips_BJ.shape[0] * clips_BJ.shape[1]
        features = self.encoder(torch.cat([clips_BJ.flatten(0, 1), queries_BL.flatten(0, 1)]))
        losses: Losses = {}
        if self.config.tcl_weight:
            clips_BJD = normalize(self.tcl_head(features[:split]).unflatten(0, clips_BJ.shape[:2]), dim=-1)
            losses["tcl"] = Loss(temporal_loss(clips_BJD, config=self.config), self.config.tcl_weight)
        if self.config.cir_weight:
            queries_BD = normalize(self.cir_head(features[split:]), dim=-1)
            keys_BD = normalize(self.key_head(self.key_encoder(keys_BL.flatten(0, 1))), dim=-1)
            identities_B = batch.faces.identity.repeat_interleave(self.config.frames)
            losses["cir"] = Loss(self._reconstruction(queries_BD, keys_BD, identities_B), self.config.cir_weight)
            self.queue.enqueue(keys_BD, identities_B)
        return losses

    def after_step(self) -> None:
        """Update the momentum encoders (Eq. 5)."""
        self.key_encoder.update()
        self.key_head.update()

    def _reconstruction(self, queries_BD: Tensor, keys_BD: Tensor, identities_B: Tensor) -> Tensor:
        """Split the queue at random into C and the negatives, then compute Eqs. 2-4."""
        filled = int(self.queue.filled)
        share = (self.config.neighbours or self.config.queue_size // 2) / self.config.queue_size
        order = torch.randperm(filled, device=queries_BD.device)
        neighbours, negatives = order[: round(filled * share)], order[round(filled * share) :]
        is_other_BM = self.queue.identities[:filled] != identities_B[:, None]
        may_repel_BN = is_other_BM[:, negatives] | (self.config.exclude == "neighbours")
        return reconstruction_loss(
            queries_BD,
            keys_BD,
            neighbours_MD=self.queue.keys[neighbours],
            may_neighbour_BM=is_other_BM[:, neighbours],
            negatives_MD=self.queue.keys[negatives],
            may_repel_BM=may_repel_BN,
            temperature=self.config.temperature,
        )


def triplet_weights(count: int, *, descent: Descent) -> Tensor:
    """Return lambda_j [count] for j = 2 ... count + 1 (Eq. 1)."""
    j = torch.arange(2, count + 2, dtype=torch.float64, device="cpu")
    weights = {"inverse-sqrt": j**-0.5, "inverse": 1 / j, "exponential": torch.exp(-j), "constant": torch.ones_like(j)}
    return weights[descent]


@cache_constant
def _get_weights(count: int, descent: Descent, device: torch.device) -> Tensor:
    """Return `triplet_weights` on a device, copied there once: the host would wait for each copy."""
    return triplet_weights(count, descent=descent).to(device)


def temporal_loss(clips_BJD: Tensor, *, config: CLP.Config) -> Tensor:
    """Compute L_tcl of normalised clip embeddings [B, J, D]: Eq. 1 forwards and backwards in time, mean over clips."""
    weights = _get_weights(clips_BJD.shape[1] - 2, config.triplet_weight, clips_BJD.device).to(clips_BJD.dtype)
    loss = clips_BJD.new_zeros(())
    for ordered_BJD in (clips_BJD, clips_BJD.flip(1)):
        distances = distance(ordered_BJD[:, :1], ordered_BJD[:, 1:])  # of f_1 to f_2 ... f_J
        hinges = (distances[:, :-1] - distances[:, 1:] + config.margin).relu()
        loss = loss + (hinges * weights).sum(1).mean()
    return loss


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance over the last dimension; its gradient is 0, not infinite, where a and b are equal."""
    squared = (a - b).square().sum(-1)
    differs = squared > 0
    return torch.where(differs, squared, 1.0).sqrt() * differs


def reconstruction_loss(
    queries_BD: Tensor,
    keys_BD: Tensor,
    *,
    neighbours_MD: Tensor,
    may_neighbour_BM: Tensor,
    negatives_MD: Tensor,
    may_repel_BM: Tensor,
    temperature: float,
) -> Tensor:
    """Compute L_cir (Eqs. 2-4) of normalised queries, keys and queue; the masks select the keys that a query may use.

    The mean is over the queries that have at least one neighbour and one negative; 0 if there are none.
    """
    usable_B = may_neighbour_BM.any(1) & may_repel_BM.any(1)
    may_neighbour_BM = (
        may_neighbour_BM | ~usable_B[:, None]
    )  # such a query has weight 0: its numbers need only be finite
    rebuilt_BD = soft_neighbours(queries_BD, neighbours_MD, temperature=temperature, may_neighbour_BM=may_neighbour_BM)
    return info_nce(
        rebuilt_BD,
        keys_BD,
        negatives_MD,
        temperature=temperature,
        may_repel_BM=may_repel_BM,
        weights_B=usable_B / usable_B.sum().clamp(min=1),
    )
