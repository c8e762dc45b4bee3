"""CVC: a frame matches another frame of its video by way of its neighbours in other videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, adopt_resnet, trains
from facscale.nn import MomentumEncoder, Queue, ResNet, info_nce, projection_head, soft_neighbours
from facscale.nn.distributed import shuffled_forward


class CVC(Method):
    """Wu and Wang, "Contrastive Learning of Image Representations with Cross-Video Cycle-Consistency", ICCV 2021.

    arXiv 2105.06463. For two frames of one video, q of the first and k of the second, each through two heads::

        L_intra = -log exp(q k / T) / (exp(q k / T) + sum_{n in Q} exp(q n / T))
        q^      = normalised sum_{u in U} softmax_u(q u / T) u                     (soft nearest neighbour)
        L_cycle = -log exp(q^ k / T) / (exp(q^ k / T) + sum_{n in N} exp(q^ n / T))
        L       = L_intra + beta L_cycle

    Letters: Q `queue_size` keys of the intra head; U `support` keys drawn at random from the `cycle_queue_size` keys of
    the cycle head, N the rest of them; T `temperature`, beta `cycle_weight`, m `momentum` of the key encoder.

    Departures from the paper, and from its published code:

    - Until the queues are full, only their filled rows are used, in the same shares; the code begins with random keys.
    - Each worker deals its keys' frames at random, and evenly, to all workers; the code shuffles all frames alike.
    - The backbone is a ResNet-34, as in CLP's comparison, where the paper has a ResNet-50; the heads' hidden layer is as
      wide as its features. Similarities stay in float32, where jobs/cvc.yaml trains in bfloat16.

    As in the published code, keys of the query's own identity may be among its neighbours, the soft neighbour is
    normalised, and one split into U and N serves all queries of a step. CLP does not state how it retrained CVC; the
    hyper-parameters are the paper's for R2V2.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the published code's values."""

        depth: Literal[18, 34, 50] = 34  # of the ResNet, when no `pretrained` is given
        width: PositiveInt = 64
        embedding: PositiveInt = 128  # of both heads, which have one hidden layer as wide as the features
        queue_size: Annotated[int, Field(ge=2)] = 65536
        cycle_queue_size: Annotated[int, Field(ge=2)] = 81920
        support: PositiveInt = 16384  # |U|
        cycle_weight: NonNegativeFloat = 0.1  # beta
        temperature: PositiveFloat = 0.07  # T
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999  # m

        @model_validator(mode="after")
        def _check_support(self) -> Self:
            if self.support >= self.cycle_queue_size:
                raise ValueError(
                    f"support must be below cycle_queue_size ({self.cycle_queue_size}); the other keys are negatives"
                )
            return self

    config: Config

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        """`pretrained`: a ResNet to start from, as of ImageNet, whose depth and width replace the spec's."""
        super().__init__(config, facts)
        self.encoder = adopt_resnet(pretrained) if pretrained else ResNet(config.depth, width=config.width)
        dims = (self.encoder.dim, self.encoder.dim, config.embedding)
        self.heads = nn.ModuleDict({"intra": projection_head(*dims), "cycle": projection_head(*dims)})
        self.key_encoder = MomentumEncoder(self.encoder, momentum=config.momentum)
        self.key_heads = MomentumEncoder(self.heads, momentum=config.momentum)
        self.queue = Queue(config.queue_size, config.embedding)
        self.cycle_queue = Queue(config.cycle_queue_size, config.embedding)

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return two frames from anywhere in a video."""
        return {"faces": RandomFrames(count=2)}

    @trains("encoder", "heads")
    def contrast(self, batch: Batch) -> Losses:
        """Compute L."""
        queries, keys = batch.faces.images[:, :, 0].unbind(1)
        query_features, key_features = self.encoder(queries), shuffled_forward(self.key_encoder, keys)
        losses: Losses = {}
        for name, queue, weight in (
            ("intra", self.queue, 1.0),
            ("cycle", self.cycle_queue, self.config.cycle_weight),
        ):
            queries_BD = normalize(self.heads[name](query_features), dim=-1)
            with torch.no_grad():
                keys_BD = normalize(self.key_heads.module.get_submodule(name)(key_features), dim=-1)
            negatives_MD = queue.stored.clone()
            if name == "cycle":
                queries_BD, negatives_MD = self._cycle_through_neighbours(queries_BD, negatives_MD)
            loss = info_nce(queries_BD, keys_BD, negatives_MD, temperature=self.config.temperature)
            losses[name] = Loss(loss, weight)
            queue.enqueue(keys_BD, batch.faces.identity)
        return losses

    def after_step(self) -> None:
        """Update the key encoder and its heads."""
        self.key_encoder.update()
        self.key_heads.update()

    def _cycle_through_neighbours(self, queries_BD: Tensor, keys_MD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries' soft nearest neighbours in a random share of the keys, and the other keys."""
        share = round(len(keys_MD) * self.config.support / self.config.cycle_queue_size)
        if not share:
            return queries_BD, keys_MD
        order = torch.randperm(len(keys_MD), device=keys_MD.device)
        support, negatives = keys_MD[order[:share]], keys_MD[order[share:]]
        return soft_neighbours(queries_BD, support, temperature=self.config.temperature), negatives
