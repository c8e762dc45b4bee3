"""AUNet's label prior: a variational autoencoder of AU labels alone, one for each labelled data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from facscale.data.views import Batch, Faces, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.spec import SpecError


class LabelVAE(Method):
    """Yang, Hristov, Shen, Lin and Pantic, "Towards Robust Facial Action Units Detection", Proceedings of the IEEE 2023.

    Section IV.B: the labels y of a frame, with noise added, are encoded as a normal distribution over k numbers, and
    decoded again::

        L_bce = -sum over AUs of y ln D(E(y~)) + (1 - y) ln (1 - D(E(y~)))
        L_vae = L_bce + l KL(N(mu, S) || N(0, I)),   y~ = y + U(-0.2, 0.2)      (2)

    Letters: k `latent`, l `kl_weight`. It is AUNet's input `labels`. "Each training set owns its individual VAE": there
    is one for each labelled data set, over that set's AUs. Frames in which an AU of the set is unlabelled are ignored.

    Departures from the paper: none is known.

    Left open by the paper, and taken from the authors' code: one hidden layer of k on both sides, sums over AUs and k,
    batches of 128. The code that adds the noise is not public; it is uniform, as the paper has it.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values for BP4D (k = 6 for DISFA, 5 for Aff-Wild2)."""

        latent: PositiveInt | tuple[PositiveInt, ...] = 8  # k: one for all data sets, or one each, as in data.labelled
        kl_weight: NonNegativeFloat = 0.1  # l: 0.1, 0.2 or 0.3 in the paper
        noise: NonNegativeFloat = 0.2

    config: Config
    has_image_encoder = False

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        widths = (config.latent,) * len(facts.sets) if isinstance(config.latent, int) else config.latent
        if len(widths) != len(facts.sets):
            raise SpecError(
                f"labelvae's latent has {len(widths)} numbers, but there are {len(facts.sets)} labelled data sets"
            )
        for number, aus in enumerate(facts.sets):
            columns = torch.tensor([facts.aus.index(au) for au in aus])
            self.register_buffer(f"columns_{number}", columns, persistent=False)
        self.coders = nn.ModuleList([LabelCoder(len(aus), k) for aus, k in zip(facts.sets, widths, strict=True)])

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return a frame's labels; no image is read."""
        return {"frame": RandomFrames(source="labelled", columns=("au", "data_set"), pixels=False)}

    @trains("coders")
    def reconstruct(self, batch: Batch) -> Losses:
        """Compute Eq. 2, mean over the frames."""
        sets = self.split_by_data_set(batch.frame)
        bce, divergence, count = sets[0].complete.new_zeros(3).unbind()
        for coder, _, labels, complete in sets:
            mean, log_variance = coder.encode(labels + self.config.noise * (2 * torch.rand_like(labels) - 1))
            logits = coder.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp())
            losses = binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(1)
            divergences = (mean**2 + log_variance.exp() - log_variance - 1).sum(1) / 2
            bce, divergence = bce + (losses * complete).sum(), divergence + (divergences * complete).sum()
            count = count + complete.sum()
        frames = count.clamp(min=1)
        return {"reconstruction": Loss(bce / frames), "divergence": Loss(divergence / frames, self.config.kl_weight)}

    def split_by_data_set(self, frames: Faces) -> list[DataSetLabels]:
        """Return the labels of each data set's AUs, from the middle frames and their columns "au" and "data_set"."""
        middle = frames.au.shape[1] // 2
        au, data_set = frames.au[:, middle], frames.data_set[:, middle]
        sets = []
        for number in range(len(self.facts.sets)):
            columns = self.get_buffer(f"columns_{number}")
            labels = au[:, columns]
            complete = (data_set == number) & (labels >= 0).all(1)
            coder = cast("LabelCoder", self.coders[number])
            sets.append(DataSetLabels(coder, columns, labels.clamp(min=0).float(), complete.float()))
        return sets


class DataSetLabels(NamedTuple):
    """A batch's labels of the AUs of one data set."""

    coder: LabelCoder
    columns: Tensor  # [n] int64, of its AUs
    values: Tensor  # [B, n] float; meaningless where not complete
    complete: Tensor  # [B] 1 where the frame is of this set and all of its AUs are labelled, else 0


class LabelCoder(nn.Module):
    """Encoder E and decoder D of the labels of n AUs."""

    def __init__(self, aus: int, latent: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(aus, latent), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, latent), nn.ReLU(), nn.Linear(latent, aus))

    def encode(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[N, n] -> mean and logarithm of the variance, [N, k] each."""
        hidden = self.hidden(labels)
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, code: Tensor) -> Tensor:
        """[N, k] -> logits [N, n]."""
        logits: Tensor = self.decoder(code)
        return logits
