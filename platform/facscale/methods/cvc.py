"""CVC: a frame finds its own video again by way of its neighbours in other videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from facscale.data.views import Batch, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import Momentum, Queue, ResNet, info_nce, projection_head, soft_neighbours
from facscale.nn.workers import through_shuffled


class CVC(Method):
    """Wu and Wang, "Contrastive Learning of Image Representations with Cross-Video Cycle-Consistency", ICCV 2021.

    arXiv 2105.06463. For two frames of one video, q of the one and k of the other, with two heads of their own each::

        L_intra = -log exp(q k / T) / (exp(q k / T) + sum_{n in Q} exp(q n / T))
        q^      = normalised sum_{u in U} softmax_u(q u / T) u                     (soft nearest neighbour)
        L_cycle = -log exp(q^ k / T) / (exp(q^ k / T) + sum_{n in N} exp(q^ n / T))
        L       = L_intra + beta L_cycle

    Letters: Q `queue_size` keys of the intra head; U `support` keys drawn at random from the `cycle_queue_size` keys of
    the cycle head, N the rest of them; T `temperature`, beta `cycle_weight`, m `momentum` of the key encoder.

    As in the published code, keys of the query's own identity may be among its neighbours. Differs from it: until the
    queues are full only the keys that stand in them are used, in the same shares.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the published code's values."""

        depth: Literal[18, 34, 50] = 34  # of the ResNet
        width: PositiveInt = 64
        embedding: PositiveInt = 128  # of both heads, which have one hidden layer as wide as the features
        queue_size: Annotated[int, Field(ge=2)] = 65536
        cycle_queue_size: Annotated[int, Field(ge=2)] = 81920
        support: PositiveInt = 16384  # |U|
        cycle_weight: NonNegativeFloat = 0.1  # beta
        temperature: PositiveFloat = 0.07  # T
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999  # m

        @model_validator(mode="after")
        def _some_negatives_remain(self) -> Self:
            if self.support >= self.cycle_queue_size:
                raise ValueError(f"support must be below cycle_queue_size ({self.cycle_queue_size}); the rest repel")
            return self

    config: Config

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.encoder = ResNet(config.depth, width=config.width)
        dims = (self.encoder.dim, self.encoder.dim, config.embedding)
        self.heads = nn.ModuleDict({"intra": projection_head(*dims), "cycle": projection_head(*dims)})
        self.key_encoder = Momentum(self.encoder, momentum=config.momentum)
        self.key_heads = Momentum(self.heads, momentum=config.momentum)
        self.queue = Queue(config.queue_size, config.embedding)
        self.cycle_queue = Queue(config.cycle_queue_size, config.embedding)

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """Two frames anywhere in a video."""
        return {"faces": Frames(count=2)}

    @trains("encoder", "heads")
    def contrast(self, batch: Batch) -> Losses:
        """L."""
        queries, keys = batch.faces.images[:, :, 0].unbind(1)
        found, known = self.encoder(queries), through_shuffled(self.key_encoder, keys)
        losses: Losses = {}
        for name, queue, weight in (
            ("intra", self.queue, 1.0),
            ("cycle", self.cycle_queue, self.config.cycle_weight),
        ):
            queries_BD = normalize(self.heads[name](found), dim=-1)
            with torch.no_grad():
                keys_BD = normalize(self.key_heads.module.get_submodule(name)(known), dim=-1)
            held_MD = queue.keys[: int(queue.filled)].clone()
            if name == "cycle":
                queries_BD, held_MD = self._by_way_of_neighbours(queries_BD, held_MD)
            losses[name] = Loss(info_nce(queries_BD, keys_BD, held_MD, temperature=self.config.temperature), weight)
            queue.enqueue(keys_BD, batch.faces.identity)
        return losses

    def after_step(self) -> None:
        """The key encoder and its heads follow."""
        self.key_encoder.follow(self.encoder)
        self.key_heads.follow(self.heads)

    def _by_way_of_neighbours(self, queries_BD: Tensor, held_MD: Tensor) -> tuple[Tensor, Tensor]:
        """The soft nearest neighbours of the queries in a random share of the keys, and the other keys."""
        share = round(len(held_MD) * self.config.support / self.config.cycle_queue_size)
        if not share:
            return queries_BD, held_MD
        chosen = torch.randperm(len(held_MD), device=held_MD.device)
        support, others = held_MD[chosen[:share]], held_MD[chosen[share:]]
        return soft_neighbours(queries_BD, support, temperature=self.config.temperature), others
