"""AUNet: AUs from what a landmark network sees, from how AUs go together, and from how a face moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facscale.data.views import Batch, Frames, Triple, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, encoder_of, trains
from facscale.methods.labelvae import LabelVAE
from facscale.nn import ResNet, masked_bce
from facscale.nn.fan import FAN
from facscale.nn.similarity import laid_over
from facscale.nn.tower import Tower, of_landmarks, of_pixels
from facscale.spec import SpecError


class AUNet(Method):
    """Yang, Hristov, Shen, Lin and Pantic, "Towards Robust Facial Action Units Detection", Proceedings of the IEEE 2023.

    Features F of a frozen FAN (stem, and both hourglasses times the sum of the heat maps) pass four blocks to one vector
    and a classifier, whose logits p weighted cross-entropy trains. E, the encoder of the label VAE, which is trained
    before and frozen, says how well predictions agree with labels as a whole::

        L_cls   = -sum over AUs of w_i [y_i ln p_i + (1 - y_i) ln (1 - p_i)], w_i = (1 / r_i) / sum of 1 / r_k   (1)
        L_cons  = |mu(p) - mu(y)|^2 + |S(p) - S(y)|^2                                                            (3)
        L_total = L_cls + g L_cons                                                                               (4)

    Motion (TDN): the differences of F to the frames T before and after, whose five points are laid over this frame's, are
    mixed into the maps, twice. Letters: r_i frequency of an AU, mu and S mean and variance that E gives, g
    `consistency_weight`, T `interval`. Eq. 2 is `labelvae`'s, Eq. 5 is F1.

    Rows of the paper: AU-FAN has `interval: 0` and no input `labels`, AU-VAE `interval: 0`, AU-TDN no `labels`; without
    the input `fan` it is ResNet18-A, and without both and motion ResNet18.

    The paper does not say, and is taken from the authors' code: 0.1 `motion` beside 0.9 static; w_i times the number of
    AUs; logits averaged with the mirrored face's at test; the classifier's hidden layer of 128 with BatchNorm.
    Where positives are rare, Eq. 1 finds few of them soon: `weighting: class` is as the other methods weigh labels.
    `consistency: code` is theirs too: mean squared difference of mu, plus mean deviation of the prediction alone. In
    ResNet18-A, motion is taken after the first stage. Differs from the paper: crops are aligned by the eyes, not boxes.

    Size of what is trained is the paper's, for 12 AUs: AU-FAN 1.86 M parameters and 3.01 GFLOPs, AUNet 2.66 M and 3.83;
    a multiplication and an addition are one, and the frozen FAN (12.11 M), three times in AUNet, is left out.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        interval: NonNegativeInt = 10  # T, frames; 0: one frame alone
        consistency_weight: NonNegativeFloat = 1.0  # g, where the input `labels` is given
        consistency: Literal["paper", "code"] = "paper"
        weighting: Literal["au", "class"] = "au"  # class: positives and negatives of each AU weigh the same together
        motion: float = Field(default=0.1, ge=0, le=1)  # share of motion when it is mixed with static maps
        stacks: PositiveInt = 2  # hourglasses of the FAN that are used
        width: Annotated[int, Field(ge=4, multiple_of=4)] = 256  # of the trunk on FAN's features
        depth: Literal[18, 34] = 18  # of the ResNet, where there is no `fan`
        resnet_width: Annotated[int, Field(ge=2, multiple_of=2)] = 64
        hidden: PositiveInt = 128  # of the classifier
        align: bool = True  # the neighbours onto the frame, by five points
        flip_at_test: bool = True

    config: Config
    encoder: Tower
    weights: Tensor

    def __init__(
        self, config: Config, facts: DataFacts, *, fan: Method | None = None, labels: Method | None = None,
        pretrained: Method | None = None,
    ) -> None:  # fmt: skip
        """`fan`: a FAN; `labels`: a label VAE of the same data sets; `pretrained`: a ResNet, where there is no FAN."""
        super().__init__(config, facts)
        self.encoder = trunk(config, fan=fan, pretrained=pretrained)
        self.classifier = nn.Sequential(
            nn.Linear(self.encoder.dim, config.hidden), nn.BatchNorm1d(config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, len(facts.aus)),
        )  # fmt: skip
        if labels is not None and not (isinstance(labels, LabelVAE) and labels.facts.sets == facts.sets):
            raise SpecError("inputs.labels is no label VAE of just the data sets (and AUs) that are learned from")
        self.labels = labels.requires_grad_(False) if isinstance(labels, LabelVAE) else None
        of_aus = (facts.au_weights, facts.au_weights)  # of negatives and positives alike
        self.register_buffer("weights", torch.tensor(of_aus if config.weighting == "au" else facts.label_weights))

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """A labelled frame, or three that share one augmentation."""
        wanted = ("au", "data_set", *(("landmarks",) if config.interval else ()))
        if not config.interval:
            return {"face": Frames(source="labelled", columns=wanted)}
        return {"face": Triple(interval=config.interval, source="labelled", columns=wanted, shared=True)}

    @staticmethod
    def judged(config: Config) -> Mapping[str, View]:
        """The same frames, without labels."""
        if not config.interval:
            return {"face": Frames(source="labelled")}
        return {"face": Triple(interval=config.interval, source="labelled", columns=("landmarks",), shared=True)}

    @trains("encoder", "classifier")
    def classify(self, batch: Batch) -> Losses:
        """Eqs. 1, 3 and 4."""
        faces = batch.face
        logits = self.classifier(self.encoder.of_clips(self.clips(batch)))
        middle = faces.au.shape[1] // 2
        losses = {"bce": Loss(masked_bce(logits, au=faces.au[:, middle], weights=self.weights))}
        if self.labels is not None:
            losses["consistency"] = Loss(self.disagreement(logits, batch), self.config.consistency_weight)
        return losses

    def predict(self, batch: Batch) -> Tensor:
        """Frames as `judged` has them -> AU logits [B, A]."""
        clips = self.clips(batch)
        logits: Tensor = self.classifier(self.encoder.of_clips(clips))
        if self.config.flip_at_test:
            logits = (logits + self.classifier(self.encoder.of_clips(clips.flip(-1)))) / 2
        return logits

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """The paper's Figures 6 and 9: where the maps of the trunk are active, static and of motion."""
        clips = self.clips(batch)
        static, motion = self.encoder.maps(clips)
        size, columns = clips.shape[-1], {"face": clips[:, clips.shape[1] // 2]}
        columns |= {f"{maps.shape[-1]} x {maps.shape[-1]}": activity(maps, size=size) for maps in static[:3]}
        for number, maps in enumerate(motion):
            columns[f"motion {number + 1}"] = activity(maps, size=size)
        return columns

    def clips(self, batch: Batch) -> Tensor:
        """Images [B, F, 3, S, S] of which the neighbours lie on the frame in the middle."""
        images = batch.face.images[:, :, 0]
        if not (self.config.align and self.config.interval):
            return images
        landmarks = batch.face.landmarks[:, :, 0]
        before, now, after = images.unbind(1)
        onto = landmarks[:, 1]
        with torch.no_grad():
            moved = [laid_over(before, landmarks[:, 0], onto=onto), now, laid_over(after, landmarks[:, 2], onto=onto)]
        return torch.stack(moved, 1)

    def disagreement(self, logits: Tensor, batch: Batch) -> Tensor:
        """L_cons (Eq. 3), mean over the frames whose AUs are all labelled."""
        found, count = logits.new_zeros(()), logits.new_zeros(())
        for own in self.labels.of_sets(batch.face) if self.labels is not None else ():
            mean, log_variance = own.coder.encode(logits[:, own.columns].float().sigmoid())
            true_mean, true_log_variance = own.coder.encode(own.labels)
            if self.config.consistency == "code":
                apart = ((mean - true_mean) ** 2).mean(1) + (log_variance / 2).exp().mean(1)
            else:
                variances = log_variance.exp() - true_log_variance.exp()
                apart = ((mean - true_mean) ** 2 + variances**2).sum(1)
            found, count = found + (apart * own.complete).sum(), count + own.complete.sum()
        return found / count.clamp(min=1)


def trunk(config: AUNet.Config, *, fan: Method | None, pretrained: Method | None) -> Tower:
    """The encoder on what a FAN sees, or where there is none on a ResNet. Raises SpecError for inputs that are neither."""
    temporal, share = config.interval > 0, config.motion
    if fan is not None:
        given = encoder_of(fan, FAN, place="inputs.fan")
        if given.stacks < config.stacks:
            raise SpecError(f"method.stacks is {config.stacks}, but the FAN of inputs.fan has {given.stacks}")
        return of_landmarks(given, stacks=config.stacks, width=config.width, temporal=temporal, share=share)
    resnet = ResNet(config.depth, width=config.resnet_width)
    if pretrained is not None:
        resnet = encoder_of(pretrained, ResNet, place="inputs.pretrained")
    return of_pixels(resnet, temporal=temporal, share=share)


def activity(maps: Tensor, *, size: int) -> Tensor:
    """Mean magnitude over channels [N, C, h, w] as grey images [N, 3, size, size], each from 0 to 1."""
    mean = maps.abs().mean(1, keepdim=True)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    spread = (mean - low) / (high - low).clamp(min=1e-9)
    return interpolate(spread, size=(size, size), mode="nearest").expand(-1, 3, -1, -1)
