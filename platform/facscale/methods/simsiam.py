"""SimSiam: each of two augmented copies of a frame predicts the other; there are no negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, adopt_resnet, trains
from facscale.nn import ResNet, normalised_head
from facscale.nn.precision import widen


class SimSiam(Method):
    """Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021.

    arXiv 2011.10566. For the copies x1 and x2 of a frame, z = f(x) and p = h(z)::

        D(p, z) = - p / |p| . z / |z|                                                               (1)
        L = D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2                                       (4)

    f is encoder and projector, h the predictor. As in the published code, the last BatchNorm of the projector's three
    layers neither scales nor shifts, the predictor's learning rate stays constant, and each residual block starts as
    its shortcut. BatchNorm should use all workers' samples: `train.sync_batchnorm` in jobs/simsiam.yaml.

    Departures from the paper:

    - The backbone is a ResNet-34, as in CLP's comparison, where the paper has a ResNet-50. For it, "the hidden fc is
      2048-d" and "as wide as the features" are the same; with the 512 features of a ResNet-34, the published code has
      hidden layers of 512 and 2048 outputs. That is `hidden: 512` in jobs/simsiam.yaml; by default they are as wide as the
      outputs, in the paper's words.
    - Similarities stay in float32, where jobs/simsiam.yaml trains in bfloat16.

    CLP retrained SimSiam on VoxCeleb2 frames with values that it does not state; those here are the paper's for ImageNet.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        depth: Literal[18, 34, 50] = 34  # of the ResNet, when no `pretrained` is given
        width: PositiveInt = 64
        projection: PositiveInt = 2048  # outputs of the projector
        hidden: PositiveInt | None = None  # width of the projector's two hidden layers; None: as wide as `projection`
        bottleneck: PositiveInt = 512  # hidden width of the predictor

    constant_rate: ClassVar[tuple[str, ...]] = ("predictor",)
    config: Config

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        """`pretrained`: a ResNet to start from, as of ImageNet, whose depth and width replace the spec's."""
        super().__init__(config, facts)
        self.encoder = (
            adopt_resnet(pretrained)
            if pretrained
            else ResNet(config.depth, width=config.width, zero_init_residual=True)
        )
        hidden = config.hidden or config.projection
        self.projector = normalised_head(self.encoder.dim, hidden, hidden, config.projection, last_affine=False)
        self.predictor = nn.Sequential(
            normalised_head(config.projection, config.bottleneck),
            nn.ReLU(inplace=True),
            nn.Linear(config.bottleneck, config.projection),
        )

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return one frame in two augmentations."""
        return {"face": RandomFrames(views=2)}

    @trains("encoder", "projector", "predictor")
    def predict_each_other(self, batch: Batch) -> Losses:
        """Compute Eq. 4."""
        first, second = (self.projector(self.encoder(copy)) for copy in batch.face.images[:, 0].unbind(1))
        loss = distance(self.predictor(first), second) / 2 + distance(self.predictor(second), first) / 2
        return {"similarity": Loss(loss)}


def distance(predictions_BD: Tensor, targets_BD: Tensor) -> Tensor:
    """Eq. 1, averaged over the samples; the targets are constants."""
    return -cosine_similarity(widen(predictions_BD), widen(targets_BD.detach()), dim=-1).mean()
