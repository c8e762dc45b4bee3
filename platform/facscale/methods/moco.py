"""MoCo: a frame matches its augmented copy, encoded by a momentum encoder, among a queue of other frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn
from torch.nn.functional import normalize

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, adopt_resnet, trains
from facscale.nn import MomentumEncoder, Queue, ResNet, info_nce, projection_head
from facscale.nn.distributed import shuffled_forward


class MoCo(Method):
    """He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020.

    arXiv 1911.05722. For a query q, its key k+ and the K keys of a queue::

        L = -log exp(q k+ / T) / (exp(q k+ / T) + sum_{i=1}^{K} exp(q k_i / T))                     (1)
        theta_k <- m theta_k + (1 - m) theta_q                                                     (2)

    Letters: q and k normalised, T `temperature`, m `momentum`, K `queue_size`. Version 2 (Chen et al., arXiv
    2003.04297) is `head: mlp`, T = 0.2, a blur among the augmentations and a cosine schedule: jobs/mocov2.yaml.

    Keys pass their encoder in batches that are shuffled over the workers ("shuffling BN").

    Departures from the paper:

    - Until the queue is full, only its filled rows are negatives; the paper starts from random keys.
    - Each worker deals its keys' frames at random, and evenly, to all workers; the paper shuffles all frames alike. A
      single worker does not shuffle: its queries and keys have batch statistics of the same frames.
    - The backbone is a ResNet-34, as in CLP's comparison, where the paper has a ResNet-50. Similarities stay in float32,
      where jobs/moco.yaml trains in bfloat16.
    - The batch of 256 is shared by 4 workers, by 8 in the paper: BatchNorm sees 64 frames, not 32.

    CLP retrained MoCo on VoxCeleb2 frames with values, and a version, that it does not state; those here are the paper's
    for ImageNet.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        depth: Literal[18, 34, 50] = 34  # of the ResNet, when no `pretrained` is given
        width: PositiveInt = 64
        head: Literal["linear", "mlp"] = "linear"  # v1, v2
        embedding: PositiveInt = 128
        queue_size: Annotated[int, Field(ge=2)] = 65536  # K
        temperature: PositiveFloat = 0.07  # T
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999  # m

    config: Config

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        """`pretrained`: a ResNet to start from, as of ImageNet, whose depth and width replace the spec's."""
        super().__init__(config, facts)
        self.encoder = adopt_resnet(pretrained) if pretrained else ResNet(config.depth, width=config.width)
        hidden = [self.encoder.dim] if config.head == "mlp" else []
        self.head = projection_head(self.encoder.dim, *hidden, config.embedding)
        self.key_encoder = MomentumEncoder(nn.Sequential(self.encoder, self.head), momentum=config.momentum)
        self.queue = Queue(config.queue_size, config.embedding)

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return one frame in two augmentations: the query and the key."""
        return {"face": RandomFrames(views=2)}

    @trains("encoder", "head")
    def contrast(self, batch: Batch) -> Losses:
        """Compute Eq. 1."""
        queries, keys = batch.face.images[:, 0].unbind(1)
        queries_BD = normalize(self.head(self.encoder(queries)), dim=-1)
        keys_BD = normalize(shuffled_forward(self.key_encoder, keys), dim=-1)
        negatives_MD = self.queue.stored.clone()
        loss = info_nce(queries_BD, keys_BD, negatives_MD, temperature=self.config.temperature)
        self.queue.enqueue(keys_BD, batch.face.identity)
        return {"contrast": Loss(loss)}

    def after_step(self) -> None:
        """Update the momentum encoder (Eq. 2)."""
        self.key_encoder.update()
