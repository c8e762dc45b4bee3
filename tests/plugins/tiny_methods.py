"""Methods of a third-party package: a GAN, one that is trained on another, and one that keeps a list in its state."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.methods.clp import CLP
from facscale.nn.distributed import all_gather, get_rank, get_world_size


class Encoder(nn.Sequential):
    dim = 4

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class TinyGAN(Method):
    """A generator that paints faces from their own embedding, and a discriminator of real and painted ones."""

    class Config(MethodConfig):
        adversarial_weight: float = 0.1

    config: Config

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.encoder = Encoder()
        self.generator = nn.Linear(4, 3)
        self.discriminator = nn.Linear(3, 1)

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        return {"faces": RandomFrames(count=2)}

    @trains("discriminator")
    def judge(self, batch: Batch) -> Losses:
        real, fake = self._colours(batch)
        logits = [self.discriminator(real), self.discriminator(fake.detach())]
        targets = [torch.ones_like(logits[0]), torch.zeros_like(logits[1])]
        return {"judge": Loss(binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(targets)))}

    @trains("encoder", "generator")
    def paint(self, batch: Batch) -> Losses:
        real, fake = self._colours(batch)
        logits = self.discriminator(fake)
        return {
            "rebuild": Loss((fake - real).abs().mean()),
            "fool": Loss(
                binary_cross_entropy_with_logits(logits, torch.ones_like(logits)), self.config.adversarial_weight
            ),
        }

    def _colours(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.faces.images.flatten(0, 2)
        return images.mean((2, 3)), self.generator(self.encoder(images))


class TinyStaged(Method):
    """Imitates the embedding of a frozen teacher, which an earlier stage of the job trained."""

    def __init__(self, config: MethodConfig, facts: DataFacts, *, teacher: Method) -> None:
        super().__init__(config, facts)
        self.encoder = Encoder()
        self.teacher = teacher.requires_grad_(False)

    @staticmethod
    def train_views(config: MethodConfig) -> Mapping[str, View]:
        return {"face": RandomFrames()}

    @trains("encoder")
    def imitate(self, batch: Batch) -> Losses:
        images = batch.face.images[:, 0, 0]
        return {"imitate": Loss((self.encoder(images) - self.teacher.encoder(images)).square().mean())}


class TinyCensus(CLP):
    """CLP that also records, in its state, the identities of all clips it was trained on, over workers and restarts."""

    class Config(CLP.Config):
        capacity: int = 1000  # clips, in all
        pace: float = 0.0  # seconds that every step takes longer
        alone: float = 0.0  # the same on a single worker
        hurry: str = ""  # a file: as long as it is there, no step takes longer

    config: Config

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.register_buffer("order", torch.full((config.capacity,), -1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @trains("encoder", "tcl_head", "cir_head")
    def pretext(self, batch: Batch) -> Losses:
        if not (self.config.hurry and Path(self.config.hurry).exists()):
            time.sleep(self.config.pace if get_world_size() > 1 else self.config.alone)
        people = all_gather(batch.clip.identity)
        self.order[self.count : self.count + len(people)] = people
        self.count += len(people)
        return super().pretext(batch)


class TinyUnstable(Method):
    """Pulls the embedding to a constant; at some of its steps the loss, or the gradient or the weights alone, are not finite."""

    class Config(MethodConfig):
        broken: tuple[int, ...] = ()  # steps, numbered from 1
        part: str = "loss"  # or gradient: the loss itself stays finite; or weights: they are lost after the step
        worker: int = 0  # the rank whose samples are to blame
        memory: int = 0  # gigabytes that the first step asks for
        batchnorm: bool = False  # over the samples of a worker

    config: Config

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.encoder = Encoder()
        self.norm = nn.BatchNorm1d(4) if config.batchnorm else nn.Identity()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        return {"face": RandomFrames()}

    @trains("encoder", "norm")
    def pull(self, batch: Batch) -> Losses:
        embedding = self.norm(self.encoder(batch.face.images[:, 0, 0]))
        if self.config.memory:
            torch.empty(self.config.memory << 28).sum()
        loss, calm = (embedding - 1).square().mean(), embedding.square().mean()
        if self._is_broken and self.config.part != "weights":
            # The derivative of the root at 0 is infinite.
            loss = loss * torch.nan if self.config.part == "loss" else loss + (0 * loss).sqrt()
        return {"pull": Loss(loss), "calm": Loss(calm, 0.01)}

    @torch.no_grad()
    def after_step(self) -> None:
        if self._is_broken and self.config.part == "weights":
            self.encoder[0].weight.fill_(torch.nan)
        self.steps += 1

    @property
    def _is_broken(self) -> bool:
        return self.training and int(self.steps) + 1 in self.config.broken and get_rank() == self.config.worker
