"""FAb-Net: a frame is reconstructed by moving the pixels of another one, given the embeddings of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn.curriculum import Curriculum
from facscale.nn.displacement import ConvEncoder, Decoder, clamp_displacements, to_pixels, warp


class FAbNet(Method):
    """Wiles, Koepke and Zisserman, "Self-supervised learning of a facial attribute embedding from video", BMVC 2018.

    For a source frame s and a target frame t of one face track, with embeddings e::

        T  = decoder(e(s), e(t)),   t' = s with each pixel (x, y) taken from (x, y) + T(x, y)
        L  = mean |t' - t|                                                         (photometric, L1)

    Trained from easy to hard: the window of a batch's losses moves up when the validation loss stops falling.

    Departures from the paper, and from its published code:

    - There is one source, as in TCAE's and CLP's comparisons, and so no mask (it weighs several sources, and is 1
      everywhere with a single one).
    - Images smaller than 256 pixels pass fewer layers.
    - Crops are those of TCAE's code, of about the same relative sizes; FAb-Net's lie lower in the image (it pads 20, 80, 20
      and 30 pixels), which depends on its face crops.
    - Displacements and warps stay in float32, where jobs/fabnet.yaml trains in bfloat16.

    The curriculum sorts the samples of all workers, and BatchNorm uses them (`train.sync_batchnorm`), since the authors
    trained on one GPU. As in the code, validation takes all samples (`validated: window` takes those that are trained),
    and after the last window long stalls lower the rate tenfold (`rate_patience`).
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the published code's values."""

        windows: PositiveInt = 5  # of the curriculum, 0-50 ... 40-90 per cent
        patience: PositiveInt = 15  # more validations than this without a lower loss move it on
        rate_patience: PositiveInt | None = 10  # as long stalls after the last window that divide the rate by 10
        validated: Literal["all", "window"] = "all"  # samples whose loss decides that

    config: Config

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.encoder = ConvEncoder(facts.image_size, norm_first=False)
        self.decoder = Decoder(facts.image_size, inputs=2 * self.encoder.dim, outputs=2)
        self.curriculum = Curriculum(
            windows=config.windows,
            patience=config.patience,
            rate_patience=config.rate_patience,
            validated=config.validated,
        )

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return two frames from anywhere in a track."""
        return {"pair": RandomFrames(count=2)}

    @trains("encoder", "decoder")
    def rebuild(self, batch: Batch) -> Losses:
        """Compute L of the samples in the curriculum's window."""
        source, target = batch.pair.images[:, :, 0].unbind(1)
        errors = (warp(source, self._predict_displacements(source, target)) - target).abs().mean((1, 2, 3))
        means = self.curriculum.select({"photometric": errors}, {"photometric": 1.0})
        return {name: Loss(value) for name, value in means.items()}

    @property
    def rate_factor(self) -> float:
        """As the curriculum has lowered it."""
        return float(self.curriculum.rate)

    def after_validation(self, loss: float) -> None:
        """Let the curriculum's window move up."""
        self.curriculum.after_validation(loss)

    def predict_motion(self, source: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Predict T, which does not separate AUs from pose."""
        return {"all": to_pixels(clamp_displacements(self._predict_displacements(source, target)))}

    def visualize(self, batch: Batch) -> Mapping[str, Tensor]:
        """Draw source, target, displacements, and the reconstructed target."""
        source, target = batch.pair.images[:, :, 0].unbind(1)
        displacements = self._predict_displacements(source, target)
        rebuilt = warp(source, displacements)
        return {
            "source": source,
            "target": target,
            "displacements": to_pixels(clamp_displacements(displacements)),
            "rebuilt": rebuilt,
        }

    def _predict_displacements(self, source: Tensor, target: Tensor) -> Tensor:
        """Predict T [N, 2, S, S]; for BatchNorm, sources and targets are two batches."""
        return self.decoder(torch.cat([self.encoder(source), self.encoder(target)], 1))
