"""A ResNet trained on labels alone: the reference row of every table, and the probe whose BatchNorm layers adapt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import LinearProbe, ResNet, masked_bce, masked_mse
from facscale.nn.heads import to_intensities
from facscale.nn.resnet import BLOCKS
from facscale.spec.models import Weighting


class Supervised(Method):
    """Li and Shan, "Contrastive Learning of Person-independent Representations for Facial Action Unit Detection", TIP 2023.

    arXiv 2403.03400, section IV.A: encoder, BatchNorm and a bias-free linear layer (the paper's classifier), trained
    together. With labels y, predictions p and the base rate r_a of AU a among the training frames, the loss is the mean
    over all labelled entries of

        - w_1a y log p - w_0a (1 - y) log (1 - p)

    "inversely proportional to the AU class frequencies" is read as w_1a = 1 / (2 r_a) and w_0a = 1 / (2 (1 - r_a)):
    `weighting: class`. With `au`, w_0a = w_1a = (1 / r_a) / sum_b (1 / r_b) * n for n AUs; with `none`, both are 1.
    Missing labels (-1) are ignored. With `intensities`, a second head of the same kind predicts intensities y' from 0 to 5 as
    5 sigmoid(logit), and (y' - prediction)^2, averaged over the labelled intensities, is added to the loss (after Chang et
    al., LibreFace, WACV 2024). `trainable: batchnorm` is the paper's protocol for pre-trained encoders, "the
    parameters in the encoder were frozen except that in the batch-norm layers"; it is meant for the encoder of the input
    `pretrained`.

    Departures from the paper: none is known.

    Left open by the paper, and decided here: optimizer, rate and epochs of its ResNet-34 (AdamW at 0.0001, decay 0.0005,
    12 epochs, cosine, after ME-GraphAU's public baseline), its augmentation, and the formula of the class weights.
    """

    class Config(MethodConfig):
        """Hyper-parameters."""

        depth: Literal[18, 34, 50] = 34  # of the ResNet, when no `pretrained` is given
        width: PositiveInt = 64
        trainable: Literal["all", "batchnorm"] = "all"  # of the encoder
        weighting: Weighting = "class"
        intensities: bool = False  # predict intensities too, where labels have them

    config: Config
    label_weights: Tensor

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        super().__init__(config, facts)
        self.encoder = pretrained.encoder if pretrained else ResNet(config.depth, width=config.width)
        # Without AUs it is only an encoder: a checkpoint that was trained on other labels, such as ImageNet's.
        head = ClassifierWithIntensities if config.intensities else LinearProbe
        self.classifier = head(dim=self.encoder.dim, aus=len(facts.aus)) if facts.aus else nn.Identity()
        self.register_buffer("label_weights", facts.get_label_weights(config.weighting))
        if config.trainable == "batchnorm":
            for module in self.encoder.modules():
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(isinstance(module, _BatchNorm))

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return one labelled frame."""
        columns = ("au", "intensity") if config.intensities else ("au",)
        return {"face": RandomFrames(source="labelled", columns=columns)}

    @classmethod
    def convert_public_weights(cls, weights: Mapping[str, Tensor]) -> tuple[Config, dict[str, Tensor]] | None:
        """Accept torchvision's ResNet-18, 34 or 50 of any width, without its classifier."""
        blocks = tuple(sum(f"layer{stage}.{n}.conv1.weight" in weights for n in range(99)) for stage in range(1, 5))
        bottleneck = "layer1.0.conv3.weight" in weights
        depths = [depth for depth, counts in BLOCKS.items() if counts == blocks and (depth == 50) == bottleneck]
        if not depths or "bn1.weight" not in weights:
            return None
        config = cls.Config.model_validate({"depth": depths[0], "width": weights["bn1.weight"].numel()})
        return config, {name: value for name, value in weights.items() if not name.startswith("fc.")}

    @trains("encoder", "classifier")
    def classify(self, batch: Batch) -> Losses:
        """Compute weighted binary cross-entropy, and the squared error of intensities, over the labelled entries."""
        features = self.encoder(batch.face.images[:, 0, 0])
        au = batch.face.au[:, 0]
        losses: Losses = {"bce": Loss(masked_bce(self.classifier(features), au=au, weights=self.label_weights))}
        if self.config.intensities:
            predicted = to_intensities(self.classifier.get_submodule("intensity")(features))
            losses["intensity"] = Loss(masked_mse(predicted, target=batch.face.intensity[:, 0]))
        return losses

    def predict(self, batch: Batch) -> Tensor:
        """Predict AU logits [B, A] from one frame."""
        return self.classifier(self.encoder(batch.face.images[:, 0, 0]))

    @classmethod
    def predicts_intensities(cls, config: Config) -> bool:
        """Return whether it has a head for them."""
        return config.intensities

    def predict_intensities(self, batch: Batch) -> Tensor:
        """Predict AU intensities from 0 to 5, [B, A], from one frame."""
        return to_intensities(self.classifier.get_submodule("intensity")(self.encoder(batch.face.images[:, 0, 0])))


class ClassifierWithIntensities(LinearProbe):
    """Two probes on the same features [N, D]: logits of AUs [N, n], and `intensity` with logits of their intensities."""

    def __init__(self, *, dim: int, aus: int) -> None:
        super().__init__(dim=dim, aus=aus)
        self.intensity = LinearProbe(dim=dim, aus=aus)

    def forward(self, features: Tensor) -> Tensor:
        """[N, D] -> logits of AUs [N, n]."""
        norm, linear, _ = self
        logits: Tensor = linear(norm(features))
        return logits
