"""AUNet's label prior: a variational auto-encoder of AU labels alone, one for each labelled data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from facscale.data.views import Batch, Faces, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.spec import SpecError


class LabelVAE(Method):
    """Yang, Hristov, Shen, Lin and Pantic, "Towards Robust Facial Action Units Detection", Proceedings of the IEEE 2023.

    Section IV.B: the labels y of a frame, with noise added, are coded as a normal distribution over k numbers, and decoded again::

        L_bce = -sum over AUs of y ln D(E(y~)) + (1 - y) ln (1 - D(E(y~)))
        L_vae = L_bce + l KL(N(mu, S) || N(0, I)),   y~ = y + U(-0.2, 0.2)      (2)

    Letters: k `latent`, l `kl_weight`. AUNet takes it as its input `labels`. "Each training set owns its individual VAE":
    there is one for each labelled data set, over that set's AUs. Frames with an AU of the set unlabelled take no part.

    The paper does not say, and the authors' code does: one hidden layer of k on both sides, sums over AUs and over k.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values for BP4D (k = 6 for DISFA, 5 for Aff-Wild2)."""

        latent: PositiveInt | tuple[PositiveInt, ...] = 8  # k: of all data sets, or of each as in data.labelled
        kl_weight: NonNegativeFloat = 0.1  # l: 0.1, 0.2 or 0.3 in the paper
        noise: NonNegativeFloat = 0.2

    config: Config
    sees = False

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        widths = (config.latent,) * len(facts.sets) if isinstance(config.latent, int) else config.latent
        if len(widths) != len(facts.sets):
            raise SpecError(
                f"labelvae's latent has {len(widths)} numbers, but {len(facts.sets)} labelled data sets are learned from"
            )
        self.coders = nn.ModuleList([Coder(len(aus), k) for aus, k in zip(facts.sets, widths, strict=True)])

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """A frame's labels; no image is read."""
        return {"frame": Frames(source="labelled", columns=("au", "data_set"), pixels=False)}

    @trains("coders")
    def code(self, batch: Batch) -> Losses:
        """Eq. 2, mean over the frames."""
        sets = self.of_sets(batch.frame)
        bce, divergence, count = sets[0].complete.new_zeros(3).unbind()
        for coder, _, labels, complete in sets:
            mean, log_variance = coder.encode(labels + self.config.noise * (2 * torch.rand_like(labels) - 1))
            told = coder.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp())
            losses = binary_cross_entropy_with_logits(told, labels, reduction="none").sum(1)
            apart = (mean**2 + log_variance.exp() - log_variance - 1).sum(1) / 2
            bce, divergence = bce + (losses * complete).sum(), divergence + (apart * complete).sum()
            count = count + complete.sum()
        frames = count.clamp(min=1)
        return {"reconstruction": Loss(bce / frames), "divergence": Loss(divergence / frames, self.config.kl_weight)}

    def of_sets(self, frames: Faces) -> list[Own]:
        """The labels of the frames in the middle, with the columns "au" and "data_set", as each set's coder takes them."""
        middle, found = frames.au.shape[1] // 2, []
        au, data_set = frames.au[:, middle], frames.data_set[:, middle]
        for number, aus in enumerate(self.facts.sets):
            columns = [self.facts.aus.index(one) for one in aus]
            labels = au[:, columns]
            complete = (data_set == number) & (labels >= 0).all(1)
            coder = cast("Coder", self.coders[number])
            found.append(Own(coder, columns, labels.clamp(min=0).float(), complete.float()))
        return found


class Own(NamedTuple):
    """What concerns one data set."""

    coder: Coder
    columns: list[int]  # of its AUs
    labels: Tensor  # [B, n] float; meaningless where not complete
    complete: Tensor  # [B] 1 where the frame is of this set and all of its AUs are labelled, else 0


class Coder(nn.Module):
    """Encoder E and decoder D over n AUs."""

    def __init__(self, aus: int, latent: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(aus, latent), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, aus))

    def encode(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[N, n] -> mean and logarithm of the variance of each of the k numbers, [N, k] both."""
        hidden = self.hidden(labels)
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, code: Tensor) -> Tensor:
        """[N, k] -> logits [N, n]."""
        logits: Tensor = self.decoder(code)
        return logits
