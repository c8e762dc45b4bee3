"""RTATL: AUs from labelled faces, with two tasks that need no labels: inpainting of regions, and optical flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits, normalize, softplus

from facscale.data.views import Batch, RandomFrames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, require_encoder, trains
from facscale.nn import ResNet, masked_bce
from facscale.nn.batchnorm import eval_mode
from facscale.nn.patches import PatchDiscriminator, PatchGenerator
from facscale.nn.precision import widen
from facscale.nn.pretext_tasks import ExemplarTask, FlowHead, JigsawTask, RotationTask, flow_error
from facscale.nn.regions import DIM, AUOutputs, GlobalHead, RegionalHead
from facscale.nn.relation import AUGraphConvolution, AUTransformer
from facscale.nn.rois import (
    MaskedRegions,
    crop_rois,
    fill_missing,
    locate_centres,
    mask_random_au,
    paste_patches,
    patch_side,
)
from facscale.spec.models import Weighting

Task = Literal["inpainting", "flow", "rotation", "exemplar", "jigsaw"]
COMPARED_TASKS: tuple[Task, ...] = ("rotation", "exemplar", "jigsaw")  # with RTATL's own two, in its Table 1


class RTATL(Method):
    """Yan, Wang, Li, Wang and Pu, "Self-Supervised Regional and Temporal Auxiliary Tasks for Facial Action Unit Recognition", MM 2021.

    ResNet maps are added from the top down; squares around each AU's two centres pass two convolutions of the
    AU's own and a transformer over all AUs (Eq. 1). An AU's regional feature is the mean of its two sides; its
    prediction is the larger of the regional and the global logit. Two tasks need no labels:

    RoI inpainting: the two squares p of one random AU are painted white; the generator G reconstructs them from that
    AU's features x, whose information comes from the other regions. With discriminator D and classifier C::

        L_D   = -E log D(p) - E log(1 - D(G(x)))                                (2, 7)
        L_C   = E CE(C(p), y)                                                   (5)
        L_G   = l1 E[-log D(G(x))] + (1 - l1) E|p - G(x)| + l2 E CE(C(G(x)), y) (3, 4, 6, 7)

    y: the AU's label, or if there is none the prediction for the intact face. Optical flow: two transposed
    convolutions predict the TV-L1 flow f to the third frame after this one from the ResNet's maps::

        L_F   = E|f - f'|                                                       (8)
        L     = L_Sup + L_D + L_G + lf L_F                                      (9)

    L_Sup, binary cross-entropy without weights, leaves out AUs of which a centre is painted over. `weighting: class` weighs
    positives by 1 / (2 r) and negatives by 1 / (2 (1 - r)), r being the AU's base rate among the training frames, and `au`
    weighs both by (1 / r) / sum(1 / r) times the number of AUs. Letters: l1 `adversarial_weight`, l2
    `semantic_weight`, lf `flow_weight`. `relation: graph` and other `tasks` are the rows of the paper's Table 1.

    Departures from the paper, which has no public code:

    - L_C is not part of Eq. 9; C is trained with D, in the second phase.
    - Flow is only trained on frames with stored flow, the labelled ones.
    - Where no landmark was found, regions are those of an upright face.
    - Flow, regions and losses stay in float32, where jobs/rtatl.yaml trains in bfloat16.

    Left open by the paper, and decided here:

    - Fused maps at a 4th of the side with as many channels as the ResNet's last; RoI convolutions of 64 and 128 channels,
      averaged to 3 x 3.
    - Half of the faces lose a pair of squares; an unlabelled face's y is 0 or 1.
    - D and C are DCGAN's and shared by all AUs; BatchNorm uses all workers' samples (`train.sync_batchnorm`), since the
      authors trained on one GPU.
    - `dropout` in the transformer: 0.1, the default of torch's layers, as is `hidden`, 2048.
    - Batch size, epochs, rate schedule, and the unit of flow (pixels of the input).
    - Jigsaw with 24 orders, rotations by quarter turns, exemplar as NT-Xent of two augmented copies, each weighted by
      `task_weight`; the graph of `relation: graph`.

    Size, with the paper's in brackets, for BP4D's 12 AUs: 19.13 M parameters (19.12) and 5.56 GFLOPs (5.57) at
    inference, 54.44 M (54.62) in training. In training, a face that loses squares costs 10.24 GFLOPs if D and C run
    once each on the real and on the generated patches, and 11.16 here, where both phases run D on the generated ones;
    the paper's 10.75 lies between. Such a face also passes the network intact, for the label that it may lack: 5.56
    more. A multiplication and an addition are two operations.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        depth: Literal[18, 34] = 18  # of the ResNet, when no `pretrained` is given
        width: PositiveInt = 64
        relation: Literal["transformer", "graph"] = "transformer"
        tasks: tuple[Task, ...] = ("inpainting", "flow")
        adversarial_weight: float = Field(default=0.1, ge=0, le=1)  # l1
        semantic_weight: NonNegativeFloat = 0.1  # l2
        flow_weight: NonNegativeFloat = 0.2  # lf
        task_weight: NonNegativeFloat = 0.1  # of rotation, exemplar and jigsaw
        weighting: Weighting = "none"  # of the labels in L_Sup
        removed: float = Field(default=0.5, ge=0, le=1)  # share of faces that lose a pair of squares
        hidden: PositiveInt = 2048  # of the transformer's feed-forward layers
        dropout: float = Field(default=0.1, ge=0, lt=1)  # in the transformer; torch's own default
        patch_width: Annotated[int, Field(ge=8, multiple_of=8)] = 1024  # most channels of G, D and C
        temperature: PositiveFloat = 0.1  # of the exemplar task

        @field_validator("tasks")
        @classmethod
        def _check_jigsaw(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
            if {"jigsaw", "inpainting"} <= set(tasks):
                raise ValueError("jigsaw leaves no regions to be painted; choose either jigsaw or inpainting")
            return tasks

    config: Config
    encoder: ResNet
    label_weights: Tensor

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        super().__init__(config, facts)
        self.encoder = ResNet(config.depth, width=config.width)
        if pretrained is not None:
            self.encoder = require_encoder(pretrained, ResNet, key="inputs.pretrained")
        self.regions = build_head(config, facts, dim=self.encoder.dim)
        dim, patch = self.encoder.dim, {"side": patch_side(facts.image_size), "width": config.patch_width}
        heads: dict[Task, Callable[[], nn.Module]] = {
            "inpainting": partial(PatchGenerator, DIM, **patch),
            "flow": partial(FlowHead, dim),
            "rotation": partial(RotationTask, dim),
            "exemplar": partial(ExemplarTask, dim, temperature=config.temperature),
            "jigsaw": partial(JigsawTask, dim),
        }
        self.tasks = nn.ModuleDict({task: heads[task]() for task in config.tasks})
        discriminators = ("real", "semantic") if "inpainting" in config.tasks else ()  # D and C
        self.adversary = nn.ModuleDict({name: PatchDiscriminator(**patch) for name in discriminators})
        self.register_buffer("label_weights", facts.get_label_weights(config.weighting))
        self.patch_pairs: PatchPairs | None = None  # from the first phase, for the second

    @staticmethod
    def train_views(config: Config) -> Mapping[str, View]:
        """Return a labelled frame, and an unlabelled one if a task can use it."""
        copies = 2 if "exemplar" in config.tasks else 1
        flow = ("flow",) if "flow" in config.tasks else ()
        columns = ("au", "landmarks", *flow)
        views: dict[str, View] = {"labelled": RandomFrames(source="labelled", columns=columns, views=copies)}
        if set(config.tasks) - {"flow"}:
            views["unlabelled"] = RandomFrames(columns=("landmarks",), views=copies)
        return views

    @staticmethod
    def eval_views(config: Config) -> Mapping[str, View]:
        """Return a frame with its landmarks."""
        return {"face": RandomFrames(source="labelled", columns=("landmarks",))}

    @trains("encoder", "regions", "tasks")
    def learn(self, batch: Batch) -> Losses:
        """Compute L_Sup, L_G, L_F, and the tasks that the paper compares with."""
        faces = self.merge_views(batch)
        masked = None
        if "inpainting" in self.tasks:
            masked = mask_random_au(faces.images, faces.centres, share=self.config.removed)
        maps = self.encoder.extract_maps(masked.images if masked else faces.images)
        outputs = self.regions(maps, faces.centres)
        au = faces.au.masked_fill(masked.covered, -1) if masked else faces.au
        losses = {"supervised": Loss(masked_bce(outputs.logits, au=au, weights=self.label_weights))}
        if masked:
            losses |= self.inpainting_losses(outputs, masked, faces)
        if faces.flow is not None:
            predicted = self.tasks["flow"](maps[-1][: len(faces.flow)])
            losses["flow"] = Loss(flow_error(predicted, faces.flow), self.config.flow_weight)
        for task in COMPARED_TASKS:
            if task in self.tasks:
                losses[task] = Loss(self.tasks[task](faces.copies, self.encoder), self.config.task_weight)
        return losses

    @trains("adversary")
    def discriminate(self, batch: Batch) -> Losses:
        """Compute L_D and L_C on the patches of this step; nothing without inpainting."""
        if self.patch_pairs is None:
            return {}
        real, fake, labels = self.patch_pairs
        realness, fakeness = (widen(self.adversary["real"](patches)) for patches in (real, fake))
        semantic = widen(self.adversary["semantic"](real))
        return {
            "discriminator": Loss(softplus(-realness).mean() + softplus(fakeness).mean()),
            "classifier": Loss(binary_cross_entropy_with_logits(semantic, labels)),
        }

    def predict(self, batch: Batch) -> Tensor:
        """Predict AU logits [B, A] from a frame with its landmarks."""
        centres = self.compute_centres(batch.face.landmarks[:, 0, 0])
        return self.recognise(batch.face.images[:, 0, 0], centres).logits

    def visualize(self, batch: Batch) -> Mapping[str, Tensor]:
        """Draw the paper's Figures 5 and 6."""
        faces = self.merge_views(batch)
        columns = {"face": faces.images}
        if "inpainting" in self.tasks:
            masked = mask_random_au(faces.images, faces.centres, share=1.0)
            patches = self.generate_patches(self.recognise(masked.images, faces.centres), masked).unflatten(0, (-1, 2))
            columns["removed"] = masked.images
            columns["painted again"] = paste_patches(masked.images, patches, masked.centres)
        if faces.flow is not None:
            predicted = self.tasks["flow"](self.encoder.extract_maps(faces.images)[-1][: len(faces.flow)])
            columns = {name: column[: len(predicted)] for name, column in columns.items()}
            true = adaptive_avg_pool2d(faces.flow, predicted.shape[-1]).nan_to_num()
            columns |= {"TV-L1 flow": true, "flow, told": predicted}
        return columns

    def au_relations(self) -> Mapping[str, Tensor]:
        """Return the paper's Figure 7: the cosine similarity of the AU indicators [A, A]."""
        relation = self.regions.relation if isinstance(self.regions, RegionalHead) else None
        if not isinstance(relation, AUTransformer):
            return {}
        indicators = normalize(relation.indicators, dim=1)
        return {"AU indicators": indicators @ indicators.T}

    def merge_views(self, batch: Batch) -> MergedFaces:
        """Concatenate labelled and unlabelled faces, the labelled ones first."""
        views = [batch[name] for name in ("labelled", "unlabelled") if name in batch]
        copies = torch.cat([faces.images[:, 0] for faces in views])
        landmarks = torch.cat([faces.landmarks[:, 0, 0] for faces in views])
        labels = batch.labelled.au[:, 0]
        au = labels.new_full((len(copies), labels.shape[1]), -1)
        au[: len(labels)] = labels
        flow = batch.labelled.flow[:, 0, 0] if "flow" in self.tasks else None
        return MergedFaces(copies, self.compute_centres(landmarks), au, flow)

    def compute_centres(self, landmarks: Tensor) -> Tensor:
        """Compute the AUs' centres [N, A, 2, 2] in pixels from landmarks [N, 68, 2]; missing ones are filled in."""
        return locate_centres(fill_missing(landmarks, size=self.facts.image_size), self.facts.aus)

    def recognise(self, images: Tensor, centres: Tensor) -> AUOutputs:
        """Predict the AUs of faces [N, 3, S, S] with AU centres [N, A, 2, 2]."""
        outputs: AUOutputs = self.regions(self.encoder.extract_maps(images), centres)
        return outputs

    def inpainting_losses(self, outputs: AUOutputs, masked: MaskedRegions, faces: MergedFaces) -> Losses:
        """Compute L_G, and keep the patches for the second phase."""
        size, c = self.facts.image_size, self.config
        real = crop_rois(faces.images[masked.rows], masked.centres, size=size, cells=patch_side(size)).flatten(0, 1)
        fake, labels = self.generate_patches(outputs, masked), self.infer_labels(faces, masked)
        self.patch_pairs = PatchPairs(real, fake.detach(), labels)
        realness, semantic = (widen(self.adversary[name](fake)) for name in ("real", "semantic"))
        return {
            "adversarial": Loss(softplus(-realness).mean(), c.adversarial_weight),
            "reconstruction": Loss((real - fake).abs().mean(), 1 - c.adversarial_weight),
            "semantic": Loss(binary_cross_entropy_with_logits(semantic, labels), c.semantic_weight),
        }

    def generate_patches(self, outputs: AUOutputs, masked: MaskedRegions) -> Tensor:
        """Generate G(x), patches [2 R, 3, s, s], from the features of the masked AU on both sides."""
        patches: Tensor = self.tasks["inpainting"](outputs.regional[masked.rows, masked.columns].flatten(0, 1))
        return patches

    @torch.no_grad()
    def infer_labels(self, faces: MergedFaces, masked: MaskedRegions) -> Tensor:
        """Return y [2 R, 1] for both patches: the masked AU's label, or if unlabelled the intact face's prediction."""
        labels = faces.au[masked.rows, masked.columns].float()
        with eval_mode(self):  # of all faces: the host would have to wait to know which of them are labelled
            logits = self.recognise(faces.images[masked.rows], faces.centres[masked.rows]).logits
        predicted = (logits.gather(1, masked.columns[:, None])[:, 0] > 0).float()
        return torch.where(labels < 0, predicted, labels).repeat_interleave(2)[:, None]


class MergedFaces(NamedTuple):
    """N faces, of which the first L are labelled."""

    copies: Tensor  # [N, V, 3, S, S]
    centres: Tensor  # [N, A, 2, 2] of the AUs, in pixels of the first copy
    au: Tensor  # [N, A], -1 where not labelled
    flow: Tensor | None  # [L, 2, h, h], in pixels of the image

    @property
    def images(self) -> Tensor:
        """The first copies [N, 3, S, S]."""
        return self.copies[:, 0]


class PatchPairs(NamedTuple):
    """Patches [2 R, 3, s, s] cut from faces, generated ones in their place, and their AU's label [2 R, 1]."""

    real: Tensor
    fake: Tensor
    labels: Tensor


def build_head(config: RTATL.Config, facts: DataFacts, *, dim: int) -> RegionalHead | GlobalHead:
    """Build the AU head on a ResNet's maps; a global one with the jigsaw task, whose tiles leave no regions."""
    count = len(facts.aus)
    if "jigsaw" in config.tasks:
        return GlobalHead(dim, aus=count)
    is_graph = config.relation == "graph"
    relation = (
        AUGraphConvolution(facts.aus, dim=DIM)
        if is_graph
        else AUTransformer(count, dim=DIM, hidden=config.hidden, dropout=config.dropout)
    )
    return RegionalHead(dim, aus=count, size=facts.image_size, relation=relation)
