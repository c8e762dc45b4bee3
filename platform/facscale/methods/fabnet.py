"""FAb-Net: a frame is rebuilt by moving the pixels of another one, from the embeddings of both."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import PositiveInt
from torch import Tensor

from facscale.data.views import Batch, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn.curriculum import Curriculum
from facscale.nn.displacement import ConvEncoder, Decoder, in_pixels, moved, within


class FAbNet(Method):
    """Wiles, Koepke and Zisserman, "Self-supervised learning of a facial attribute embedding from video", BMVC 2018.

    For a source frame s and a target frame t of one face track, with embeddings e::

        T  = decoder(e(s), e(t)),   t' = s with each pixel (x, y) taken from (x, y) + T(x, y)
        L  = mean |t' - t|                                                         (photometric, L1)

    Trained from easy to hard: the window of a batch's losses moves up when the validation loss stops falling.

    Differs from the published code: its mask, which weighs several sources and is 1 everywhere with a single one, is
    left out, and so are several sources (TCAE and CLP compare with one). Images smaller than 256 pixels pass fewer
    layers.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the published code's values."""

        windows: PositiveInt = 5  # of the curriculum, 0-50 ... 40-90 per cent
        patience: PositiveInt = 15  # validations without a lower loss before it moves on

    config: Config

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.encoder = ConvEncoder(facts.image_size, norm_first=False)
        self.decoder = Decoder(facts.image_size, inputs=2 * self.encoder.dim, outputs=2)
        self.curriculum = Curriculum(windows=config.windows, patience=config.patience)

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """Two frames anywhere in a track."""
        return {"pair": Frames(count=2)}

    @trains("encoder", "decoder")
    def rebuild(self, batch: Batch) -> Losses:
        """L."""
        source, target = batch.pair.images[:, :, 0].unbind(1)
        errors = (moved(source, self._displacements(source, target)) - target).abs().mean((1, 2, 3))
        return {
            "photometric": Loss(self.curriculum.select({"photometric": errors}, {"photometric": 1.0})["photometric"])
        }

    def after_validation(self, loss: float) -> None:
        """The curriculum may move on."""
        self.curriculum.after_validation(loss)

    def movements(self, source: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """T, which knows no difference between AUs and pose."""
        return {"all": in_pixels(within(self._displacements(source, target)))}

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Source, target, displacements, and the target rebuilt."""
        source, target = batch.pair.images[:, :, 0].unbind(1)
        displacements = self._displacements(source, target)
        rebuilt = moved(source, displacements)
        return {
            "source": source,
            "target": target,
            "displacements": in_pixels(within(displacements)),
            "rebuilt": rebuilt,
        }

    def _displacements(self, source: Tensor, target: Tensor) -> Tensor:
        """T [N, 2, S, S]; the two frames are two batches to BatchNorm."""
        return self.decoder(torch.cat([self.encoder(source), self.encoder(target)], 1))
