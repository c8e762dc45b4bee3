"""RTATL: labelled and unlabelled faces at once; removed regions are painted again, and motion is told from one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, binary_cross_entropy_with_logits, normalize, softplus

from facscale.data.views import Batch, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, encoder_of, trains
from facscale.nn import ResNet, masked_bce
from facscale.nn.batchnorm import evaluating
from facscale.nn.patches import PatchGenerator, PatchJudge
from facscale.nn.pretexts import Exemplar, Jigsaw, Rotation, flow_error, flow_head
from facscale.nn.regions import DIM, Overall, Regions, Seen
from facscale.nn.relation import GraphConvolution, Transformer
from facscale.nn.rois import Removed, centres, cut, known, pasted, patch_side, remove

Task = Literal["inpainting", "flow", "rotation", "exemplar", "jigsaw"]
COMPARED: tuple[Task, ...] = ("rotation", "exemplar", "jigsaw")  # in Table 1, with our two


class RTATL(Method):
    """Yan, Wang, Li, Wang and Pu, "Self-Supervised Regional and Temporal Auxiliary Tasks for Facial Action Unit Recognition", MM 2021.

    ResNet maps are added from the top down; squares about each AU's two centres pass two convolutions of the
    AU's own and a transformer over all AUs (Eq. 1). An AU's regional feature is the mean of its two sides; its
    prediction the larger of what regional and global features say. Two tasks need no labels:

    RoI inpainting: the two squares p of one random AU are painted white; the generator G rebuilds them from the
    features x of that AU, which only the other regions inform. With discriminator D and classifier C::

        L_D   = -E log D(p) - E log(1 - D(G(x)))                                (2, 7)
        L_C   = E CE(C(p), y)                                                   (5)
        L_G   = l1 E[-log D(G(x))] + (1 - l1) E|p - G(x)| + l2 E CE(C(G(x)), y) (3, 4, 6, 7)

    y: the AU's label, or without one what the intact face is predicted to show. Optical flow: two transposed
    convolutions tell the TV-L1 flow f to the frame three later from the ResNet's maps::

        L_F   = E|f - f'|                                                       (8)
        L     = L_Sup + L_D + L_G + lf L_F                                      (9)

    L_Sup, binary cross-entropy, leaves out AUs of which a centre is painted over. Letters: l1 `adversarial_weight`, l2
    `semantic_weight`, lf `flow_weight`. `relation: graph` and other `tasks` are the rows of the paper's Table 1.

    The paper does not say, and here is: fused maps at a 4th of the side with as many channels as the ResNet's last, RoI
    convolutions of 64 and 128 channels averaged to 3 x 3; half of the faces lose a square; D and C are DCGAN's and
    shared by all AUs; C learns with D; class weights; jigsaw with 24 orders, rotations by quarters, exemplar as NT-Xent
    of two augmented copies, each weighted by `task_weight`. Only frames with stored flow train Eq. 8.

    Size, with the paper's in brackets, for BP4D's 12 AUs: 19.13 M parameters (19.12) and 5.56 GFLOPs (5.57) at inference,
    54.44 M (54.62) in training. There a face that loses squares costs 10.24 GFLOPs if D and C judge real and painted ones
    once each, and 11.16 as here, where both phases ask D about the painted ones; 10.75 lies between. An unlabelled one is
    seen intact as well: 5.56 more. A multiplication and an addition are two.
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
        removed: float = Field(default=0.5, ge=0, le=1)  # share of faces that lose a pair of squares
        hidden: PositiveInt = 2048  # of the transformer's feed-forward layers
        patch_width: Annotated[int, Field(ge=8, multiple_of=8)] = 1024  # most channels of G, D and C
        temperature: PositiveFloat = 0.1  # of the exemplar task

        @field_validator("tasks")
        @classmethod
        def _tiles_have_no_regions(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
            if {"jigsaw", "inpainting"} <= set(tasks):
                raise ValueError("jigsaw leaves no regions to be painted; take it or inpainting")
            return tasks

    config: Config
    encoder: ResNet
    label_weights: Tensor

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        super().__init__(config, facts)
        self.encoder = ResNet(config.depth, width=config.width)
        if pretrained is not None:
            self.encoder = encoder_of(pretrained, ResNet, place="inputs.pretrained")
        self.regions = reader(config, facts, dim=self.encoder.dim)
        dim, patch = self.encoder.dim, {"side": patch_side(facts.image_size), "width": config.patch_width}
        heads: dict[Task, Callable[[], nn.Module]] = {
            "inpainting": partial(PatchGenerator, DIM, **patch),
            "flow": partial(flow_head, dim),
            "rotation": partial(Rotation, dim),
            "exemplar": partial(Exemplar, dim, temperature=config.temperature),
            "jigsaw": partial(Jigsaw, dim),
        }
        self.tasks = nn.ModuleDict({task: heads[task]() for task in config.tasks})
        judges = ("real", "semantic") if "inpainting" in config.tasks else ()
        self.adversary = nn.ModuleDict({name: PatchJudge(**patch) for name in judges})
        self.register_buffer("label_weights", torch.tensor(facts.label_weights))
        self.painted: Painted | None = None  # by the first phase, for the second

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """A labelled frame, and an unlabelled one where a task can use it."""
        copies = 2 if "exemplar" in config.tasks else 1
        flow = ("flow",) if "flow" in config.tasks else ()
        columns = ("au", "landmarks", *flow)
        views: dict[str, View] = {"labelled": Frames(source="labelled", columns=columns, views=copies)}
        if set(config.tasks) - {"flow"}:
            views["unlabelled"] = Frames(columns=("landmarks",), views=copies)
        return views

    @staticmethod
    def judged(config: Config) -> Mapping[str, View]:
        """A frame with its landmarks."""
        return {"face": Frames(source="labelled", columns=("landmarks",))}

    @trains("encoder", "regions", "tasks")
    def learn(self, batch: Batch) -> Losses:
        """L_Sup, L_G, L_F, and the tasks that the paper compares with."""
        faces = self.together(batch)
        removed = remove(faces.images, faces.places, share=self.config.removed) if "inpainting" in self.tasks else None
        maps = self.encoder.maps(removed.images if removed else faces.images)
        seen = self.regions(maps, faces.places)
        au = faces.au.masked_fill(removed.covered, -1) if removed else faces.au
        losses = {"supervised": Loss(masked_bce(seen.logits, au=au, weights=self.label_weights))}
        if removed:
            losses |= self.paint(seen, removed, faces)
        if faces.flow is not None:
            told = self.tasks["flow"](maps[-1][: len(faces.flow)])
            losses["flow"] = Loss(flow_error(told, faces.flow), self.config.flow_weight)
        compared = {task: self.tasks[task](faces.copies, self.encoder) for task in COMPARED if task in self.tasks}
        return losses | {task: Loss(error, self.config.task_weight) for task, error in compared.items()}

    @trains("adversary")
    def judge_patches(self, batch: Batch) -> Losses:
        """L_D and L_C, on the patches of this step; nothing without inpainting."""
        if self.painted is None:
            return {}
        real, fake, labels = self.painted
        judge = self.adversary["real"]
        return {
            "discriminator": Loss(softplus(-judge(real)).mean() + softplus(judge(fake)).mean()),
            "classifier": Loss(binary_cross_entropy_with_logits(self.adversary["semantic"](real), labels)),
        }

    def predict(self, batch: Batch) -> Tensor:
        """A frame with its landmarks -> AU logits [B, A]."""
        return self.see(batch.face.images[:, 0, 0], self.places(batch.face.landmarks[:, 0, 0])).logits

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """The paper's Figures 5 and 6."""
        faces = self.together(batch)
        columns = {"face": faces.images}
        if "inpainting" in self.tasks:
            removed = remove(faces.images, faces.places, share=1.0)
            patches = self.generated(self.see(removed.images, faces.places), removed).unflatten(0, (-1, 2))
            columns["removed"] = removed.images
            columns["painted again"] = pasted(removed.images, patches, removed.hidden)
        if faces.flow is not None:
            told = self.tasks["flow"](self.encoder.maps(faces.images)[-1][: len(faces.flow)])
            columns = {name: column[: len(told)] for name, column in columns.items()}
            true = adaptive_avg_pool2d(faces.flow, told.shape[-1]).nan_to_num()
            columns |= {"TV-L1 flow": true, "flow, told": told}
        return columns

    def matrices(self) -> Mapping[str, Tensor]:
        """The paper's Figure 7: the cosine similarity of the AU indicators [A, A]."""
        relation = self.regions.relation if isinstance(self.regions, Regions) else None
        if not isinstance(relation, Transformer):
            return {}
        indicators = normalize(relation.indicators, dim=1)
        return {"AU indicators": indicators @ indicators.T}

    def together(self, batch: Batch) -> Together:
        """Labelled and unlabelled faces as one batch; the labelled ones first."""
        views = [batch[name] for name in ("labelled", "unlabelled") if name in batch]
        copies = torch.cat([faces.images[:, 0] for faces in views])
        landmarks = torch.cat([faces.landmarks[:, 0, 0] for faces in views])
        labels = batch.labelled.au[:, 0]
        au = labels.new_full((len(copies), labels.shape[1]), -1)
        au[: len(labels)] = labels
        flow = batch.labelled.flow[:, 0, 0] if "flow" in self.tasks else None
        return Together(copies, self.places(landmarks), au, flow)

    def places(self, landmarks: Tensor) -> Tensor:
        """The AUs' centres [N, A, 2, 2] in pixels, from landmarks [N, 68, 2]."""
        return centres(known(landmarks, size=self.facts.image_size), self.facts.aus)

    def see(self, images: Tensor, places: Tensor) -> Seen:
        """What faces [N, 3, S, S] with AUs about centres [N, A, 2, 2] show."""
        seen: Seen = self.regions(self.encoder.maps(images), places)
        return seen

    def paint(self, seen: Seen, removed: Removed, faces: Together) -> Losses:
        """L_G; the patches are kept for the second phase."""
        size, c = self.facts.image_size, self.config
        real = cut(faces.images[removed.rows], removed.hidden, size=size, cells=patch_side(size)).flatten(0, 1)
        fake, labels = self.generated(seen, removed), self.shown(faces, removed)
        self.painted = Painted(real, fake.detach(), labels)
        deceived, meant = self.adversary["real"](fake), self.adversary["semantic"](fake)
        return {
            "adversarial": Loss(softplus(-deceived).mean(), c.adversarial_weight),
            "reconstruction": Loss((real - fake).abs().mean(), 1 - c.adversarial_weight),
            "semantic": Loss(binary_cross_entropy_with_logits(meant, labels), c.semantic_weight),
        }

    def generated(self, seen: Seen, removed: Removed) -> Tensor:
        """G(x), patches [2 R, 3, s, s] from what the transformer says of the removed AU, on both sides."""
        patches: Tensor = self.tasks["inpainting"](seen.regional[removed.rows, removed.which].flatten(0, 1))
        return patches

    @torch.no_grad()
    def shown(self, faces: Together, removed: Removed) -> Tensor:
        """y [2 R, 1]: the removed AU's label, or else what the intact face is predicted to show; for both patches."""
        labels = faces.au[removed.rows, removed.which].float()
        unlabelled = labels < 0
        if unlabelled.any():
            rows, which = removed.rows[unlabelled], removed.which[unlabelled]
            with evaluating(self):
                logits = self.see(faces.images[rows], faces.places[rows]).logits
            labels[unlabelled] = (logits.gather(1, which[:, None])[:, 0] > 0).float()
        return labels.repeat_interleave(2)[:, None]


class Together(NamedTuple):
    """N faces, of which the first L are labelled."""

    copies: Tensor  # [N, V, 3, S, S]
    places: Tensor  # [N, A, 2, 2] centres of the AUs, in pixels of the first copy
    au: Tensor  # [N, A], -1 where not labelled
    flow: Tensor | None  # [L, 2, h, h], in pixels of the image

    @property
    def images(self) -> Tensor:
        """The first copies [N, 3, S, S]."""
        return self.copies[:, 0]


class Painted(NamedTuple):
    """Patches [2 R, 3, s, s] cut from faces and generated, and their AU's label [2 R, 1]."""

    real: Tensor
    fake: Tensor
    labels: Tensor


def reader(config: RTATL.Config, facts: DataFacts, *, dim: int) -> Regions | Overall:
    """What tells AUs from maps; of the whole face alone beside the jigsaw task, whose tiles leave no regions."""
    count = len(facts.aus)
    if "jigsaw" in config.tasks:
        return Overall(dim, aus=count)
    graph = config.relation == "graph"
    relation = GraphConvolution(facts.aus, dim=DIM) if graph else Transformer(count, dim=DIM, hidden=config.hidden)
    return Regions(dim, aus=count, size=facts.image_size, relation=relation)
