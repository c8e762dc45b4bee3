"""SimCLR: two augmented copies of a frame attract each other, all other frames of the batch repel them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import PositiveFloat, PositiveInt
from torch.nn.functional import normalize

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, adopt_resnet, trains
from facscale.nn import ResNet, normalised_head, nt_xent


class SimCLR(Method):
    """Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.

    arXiv 2002.05709. For the copies i and j of one frame among the 2N of the whole batch, all workers' samples
    together::

        l(i, j) = -log exp(sim(z_i, z_j) / T) / sum_{k != i} exp(sim(z_i, z_k) / T)                 (1)

    Letters: z the projection head's output, sim cosine, T `temperature`.

    Departures from the paper:

    - The head has BatchNorm after every layer, as in the published code; the paper mentions none. `layers: 3` is the
      code's default, 2 the paper's.
    - The backbone is a ResNet-34, as in CLP's comparison, where the paper has a ResNet-50; the head's hidden layers are as
      wide as its features.
    - Batches of 512 (jobs/simclr.yaml), where the paper's main results have 4096; the rate follows the paper's rule.
      Similarities stay in float32, where the job trains in bfloat16.

    In jobs/simclr.yaml the velocity of LARS has the learning rate inside, as in the paper of LARS and the published code
    (`train.optimizer.rate_in_velocity`). CLP retrained SimCLR on VoxCeleb2 frames with values that it does not state;
    those here are the paper's for ImageNet.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        depth: Literal[18, 34, 50] = 34  # of the ResNet, when no `pretrained` is given
        width: PositiveInt = 64
        layers: Literal[2, 3] = 2  # of the projection head; its hidden ones are as wide as the features
        embedding: PositiveInt = 128
        temperature: PositiveFloat = 0.1  # T

    config: Config

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        """`pretrained`: a ResNet to start from, as of ImageNet, whose depth and width replace the spec's."""
        super().__init__(config, facts)
        self.encoder = adopt_resnet(pretrained) if pretrained else ResNet(config.depth, width=config.width)
        self.projector = normalised_head(*[self.encoder.dim] * config.layers, config.embedding)

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return one frame in two augmentations."""
        return {"face": RandomFrames(views=2)}

    @trains("encoder", "projector")
    def contrast(self, batch: Batch) -> Losses:
        """Compute Eq. 1 in both directions."""
        copies = batch.face.images[:, 0]
        embeddings = normalize(self.projector(self.encoder(copies.flatten(0, 1))), dim=-1)
        first, second = embeddings.unflatten(0, copies.shape[:2]).unbind(1)
        return {"nt_xent": Loss(nt_xent(first, second, temperature=self.config.temperature))}
