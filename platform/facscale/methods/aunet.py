"""AUNet: AUs from the features of a landmark network, from which AUs occur together, and from how a face moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facscale.data.views import Batch, FrameTriple, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, require_encoder, trains
from facscale.methods.labelvae import LabelVAE
from facscale.nn import ResNet, masked_bce
from facscale.nn.fan import FAN
from facscale.nn.precision import disable_autocast, widen
from facscale.nn.trunk import Trunk, make_fan_trunk, make_resnet_trunk
from facscale.spec import SpecError
from facscale.spec.models import Weighting


class AUNet(Method):
    """Yang, Hristov, Shen, Lin and Pantic, "Towards Robust Facial Action Units Detection", Proceedings of the IEEE 2023.

    Features F of a frozen FAN (stem, and both hourglasses times the sum of the heat maps) pass four blocks to one
    vector and a classifier of predictions p, trained by weighted cross-entropy. E, the encoder of a label VAE that was
    trained before and is frozen, measures how well the predictions agree with the labels jointly::

        L_cls   = -sum over AUs of w_i [y_i ln p_i + (1 - y_i) ln (1 - p_i)], w_i = (1 / r_i) / sum of 1 / r_k   (1)
        L_cons  = |mu(p) - mu(y)|^2 + |S(p) - S(y)|^2                                                            (3)
        L_total = L_cls + g L_cons                                                                               (4)

    Motion (TDN): the differences of F to the frames T before and after, which are aligned to this frame by five points,
    are mixed into the maps, twice. Letters: r_i frequency of an AU, mu and S mean and variance that E gives, g
    `consistency_weight`, T `interval`. Eq. 2 is `labelvae`'s, Eq. 5 is F1.

    Rows of the paper: AU-FAN has `interval: 0` and no input `labels`, AU-VAE `interval: 0`, AU-TDN no `labels`; without
    the input `fan` it is ResNet18-A, and without both and motion ResNet18.

    Departures from the paper:

    - Crops are aligned by the eyes, where the authors cut boxes of a detector. The side of the random crop
      is uniform, not its scale.
    - A missing neighbour is replaced by the frame itself, also where a row group cuts a track.
    - w_i is multiplied by the number of AUs, as in the authors' code. Where positives are rare, training with Eq. 1
      detects few of them early on; `weighting: class` weighs positives by 1 / (2 r_i) and negatives by 1 / (2 (1 - r_i)),
      `none` all by 1.
    - Sums over AUs in Eq. 1 are means over the labelled ones, as in the code; L_cons is the mean over frames of which all
      AUs are labelled.
    - `consistency: code` is the code's L_cons: mean squared difference of mu, plus mean deviation of the prediction alone.
    - The code's second difference has the opposite sign, which the weights of the next convolution absorb.
    - "Degrading every 4 epochs by 30 %": jobs/aunet.yaml multiplies the rate by 0.7; the code by 0.3 (`gamma: 0.3`).
    - The code's rotation uses pi / 200 for a degree, so that its 15 degrees are 13.5; here they are 15.
    - The public four-stack FAN (mean pooling) stands for the authors' (two stacks, max pooling) in jobs/aunet.yaml, which
      says how to use theirs.
    - BatchNorm uses all workers' samples (`train.sync_batchnorm`), since the authors trained on one GPU; L_cons stays in
      float32, where the job trains in bfloat16.

    Left open by the paper, and taken from the authors' code: 0.1 `motion` beside 0.9 static; logits averaged with the
    mirrored face's at test; the classifier's hidden layer of 128 with BatchNorm. In ResNet18-A, motion is taken after the
    first stage.

    The size of what is trained is the paper's, for 12 AUs: AU-FAN 1.86 M parameters and 3.01 GFLOPs, AUNet 2.66 M and
    3.83, counting a multiplication and an addition as one operation, without the frozen FAN (12.11 M), which AUNet runs
    three times.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        interval: NonNegativeInt = 10  # T, frames; 0: a single frame, no motion
        consistency_weight: NonNegativeFloat = 1.0  # g, where the input `labels` is given
        consistency: Literal["paper", "code"] = "paper"
        weighting: Weighting = "au"  # of the labels in L_cls; au: Eq. 1
        motion: float = Field(default=0.1, ge=0, le=1)  # share of motion when it is mixed with static maps
        stacks: PositiveInt = 2  # hourglasses of the FAN that are used
        width: Annotated[int, Field(ge=4, multiple_of=4)] = 256  # of the trunk on FAN's features
        depth: Literal[18, 34] = 18  # of the ResNet, where there is no `fan`
        resnet_width: Annotated[int, Field(ge=2, multiple_of=2)] = 64
        hidden: PositiveInt = 128  # of the classifier
        align: bool = True  # move the neighbouring frames onto the frame by five points, before they are degraded
        flip_at_test: bool = True

    config: Config
    encoder: Trunk
    weights: Tensor

    def __init__(
        self,
        config: Config,
        facts: DataFacts,
        *,
        fan: Method | None = None,
        labels: Method | None = None,
        pretrained: Method | None = None,
    ) -> None:
        """`fan`: a FAN; `labels`: a label VAE of the same data sets; `pretrained`: a ResNet, used without `fan`."""
        super().__init__(config, facts)
        self.encoder = build_trunk(config, fan=fan, pretrained=pretrained)
        self.classifier = nn.Sequential(
            nn.Linear(self.encoder.dim, config.hidden),
            nn.BatchNorm1d(config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, len(facts.aus)),
        )
        if labels is not None and not (isinstance(labels, LabelVAE) and labels.facts.sets == facts.sets):
            raise SpecError(
                "inputs.labels must be a label VAE of exactly the data sets (and their AUs) that are trained on"
            )
        self.labels = labels.requires_grad_(False) if isinstance(labels, LabelVAE) else None
        self.register_buffer("weights", facts.get_label_weights(config.weighting))

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return a labelled frame, or three that share one augmentation."""
        columns = ("au", "data_set")
        if not config.interval:
            return {"face": RandomFrames(source="labelled", columns=columns)}
        return {"face": make_triple(config).with_columns(*columns)}

    @staticmethod
    def eval_views(config: Config) -> Mapping[str, View]:
        """Return the same frames, without labels."""
        if not config.interval:
            return {"face": RandomFrames(source="labelled")}
        return {"face": make_triple(config)}

    @trains("encoder", "classifier")
    def classify(self, batch: Batch) -> Losses:
        """Compute Eqs. 1, 3 and 4."""
        faces = batch.face
        logits = self.classifier(self.encoder.embed_clips(batch.face.images[:, :, 0]))
        middle = faces.au.shape[1] // 2
        losses = {"bce": Loss(masked_bce(logits, au=faces.au[:, middle], weights=self.weights))}
        if self.labels is not None:
            losses["consistency"] = Loss(self.consistency_loss(logits, batch), self.config.consistency_weight)
        return losses

    def predict(self, batch: Batch) -> Tensor:
        """Predict AU logits [B, A]."""
        clips = batch.face.images[:, :, 0]
        logits: Tensor = self.classifier(self.encoder.embed_clips(clips))
        if self.config.flip_at_test:
            logits = (logits + self.classifier(self.encoder.embed_clips(clips.flip(-1)))) / 2
        return logits

    def visualize(self, batch: Batch) -> Mapping[str, Tensor]:
        """Draw the paper's Figures 6 and 9: where the trunk's maps, static and of motion, are active."""
        clips = batch.face.images[:, :, 0]
        static, motion = self.encoder.extract_maps(clips)
        size, columns = clips.shape[-1], {"face": clips[:, clips.shape[1] // 2]}
        columns |= {f"{maps.shape[-1]} x {maps.shape[-1]}": draw_activity(maps, size=size) for maps in static[:3]}
        for number, maps in enumerate(motion):
            columns[f"motion {number + 1}"] = draw_activity(maps, size=size)
        return columns

    def consistency_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Compute L_cons (Eq. 3), mean over the frames whose AUs are all labelled."""
        total, count = widen(logits).new_zeros(()), widen(logits).new_zeros(())
        for labels in self.labels.split_by_data_set(batch.face) if self.labels is not None else ():
            with disable_autocast(logits):
                mean, log_variance = labels.coder.encode(widen(logits[:, labels.columns]).sigmoid())
                true_mean, true_log_variance = labels.coder.encode(labels.values.to(mean))
            if self.config.consistency == "code":
                distances = ((mean - true_mean) ** 2).mean(1) + (log_variance / 2).exp().mean(1)
            else:
                variances = log_variance.exp() - true_log_variance.exp()
                distances = ((mean - true_mean) ** 2 + variances**2).sum(1)
            total, count = total + (distances * labels.complete).sum(), count + labels.complete.sum()
        return total / count.clamp(min=1)


def make_triple(config: AUNet.Config) -> FrameTriple:
    """Return the view of a frame and its neighbours, which share one augmentation."""
    return FrameTriple(interval=config.interval, source="labelled", shared=True, aligned=config.align)


def build_trunk(config: AUNet.Config, *, fan: Method | None, pretrained: Method | None) -> Trunk:
    """Build the encoder on a FAN, or without one on a ResNet. Raises SpecError for inputs of another kind."""
    temporal, share = config.interval > 0, config.motion
    if fan is not None:
        fan_encoder = require_encoder(fan, FAN, key="inputs.fan")
        if fan_encoder.stacks < config.stacks:
            raise SpecError(f"method.stacks is {config.stacks}, but the FAN of inputs.fan has {fan_encoder.stacks}")
        return make_fan_trunk(fan_encoder, stacks=config.stacks, width=config.width, temporal=temporal, share=share)
    resnet = ResNet(config.depth, width=config.resnet_width)
    if pretrained is not None:
        resnet = require_encoder(pretrained, ResNet, key="inputs.pretrained")
    return make_resnet_trunk(resnet, temporal=temporal, share=share)


def draw_activity(maps: Tensor, *, size: int) -> Tensor:
    """Draw the mean magnitude of maps [N, C, h, w], scaled to [0, 1], as grey images [N, 3, size, size]."""
    mean = maps.abs().mean(1, keepdim=True)
    low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    scaled = (mean - low) / (high - low).clamp(min=1e-9)
    return interpolate(scaled, size=(size, size), mode="nearest").expand(-1, 3, -1, -1)
