"""RTATL: labelled and unlabelled faces at once; removed regions are painted again, and motion is told from one image."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import (
    adaptive_avg_pool2d,
    binary_cross_entropy_with_logits,
    cross_entropy,
    interpolate,
    normalize,
    softplus,
)

from facscale.data.views import Batch, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import ResNet, masked_bce, nt_xent, projection_head
from facscale.nn.patches import PatchGenerator, PatchJudge
from facscale.nn.relation import GraphConvolution, Transformer
from facscale.nn.rois import SHARE, centres, covered, cut, known, without

Task = Literal["inpainting", "flow", "rotation", "exemplar", "jigsaw"]
DIM = 128  # d: of an AU's regional feature
TILES, ORDERS = 3, 24  # each way; orders of them that the jigsaw task tells apart


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
    convolutions of 64 and 128 channels averaged to 3 x 3 (with these the paper's 19.12 M parameters and 5.57 GFLOPs
    come out); half of the faces lose a square; D and C are DCGAN's and shared by all AUs; C learns with D; class
    weights; jigsaw with 24 orders, rotations by quarters, exemplar as NT-Xent of two augmented copies, each weighted by
    `task_weight`. Only frames with stored flow train Eq. 8.
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

    config: Config
    encoder: ResNet
    label_weights: Tensor

    def __init__(self, config: Config, facts: DataFacts, *, pretrained: Method | None = None) -> None:
        super().__init__(config, facts)
        given = pretrained.encoder if pretrained else None
        self.encoder = given if isinstance(given, ResNet) else ResNet(config.depth, width=config.width)
        dim, side, tasks = self.encoder.dim, patch_side(facts.image_size), set(config.tasks)
        self.regions = Regions(self.encoder, facts, config)
        self.tasks = nn.ModuleDict()
        if "flow" in tasks:
            self.tasks["flow"] = flow_head(dim)
        if "inpainting" in tasks:
            self.tasks["inpainting"] = PatchGenerator(DIM, side=side, width=config.patch_width)
        if "rotation" in tasks:
            self.tasks["rotation"] = nn.Linear(dim, 4)
        if "exemplar" in tasks:
            self.tasks["exemplar"] = projection_head(dim, dim, DIM)
        if "jigsaw" in tasks:
            self.tasks["jigsaw"] = projection_head(TILES**2 * dim, dim, ORDERS)
        judges = ("real", "semantic") if "inpainting" in tasks else ()
        self.adversary = nn.ModuleDict({name: PatchJudge(side=side, width=config.patch_width) for name in judges})
        self.register_buffer("label_weights", torch.tensor(facts.label_weights))
        self.painted: Painted | None = None  # by the first phase, for the second

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """A labelled frame, and an unlabelled one where a task can use it."""
        copies = 2 if "exemplar" in config.tasks else 1
        flow = ("flow",) if "flow" in config.tasks else ()
        views: dict[str, View] = {
            "labelled": Frames(source="labelled", columns=("au", "landmarks", *flow), views=copies)
        }
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
        removed = self.remove(faces) if "inpainting" in self.config.tasks else None
        seen = self.regions(self.encoder.maps(removed.images if removed else faces.images), faces.places)
        au = faces.au if removed is None else faces.au.masked_fill(removed.covered, -1)
        losses = {"supervised": Loss(masked_bce(seen.logits, au=au, weights=self.label_weights))}
        if removed is not None:
            losses |= self.paint(seen, removed, faces)
        if faces.flow is not None:
            told = self.tasks["flow"](seen.maps[-1][: len(faces.flow)])
            apart = (told - adaptive_avg_pool2d(faces.flow, told.shape[-1])).abs()
            there = ~apart.isnan()  # the last frames of a video have no later one
            flow = apart.where(there, 0).sum() / there.sum().clamp(min=1)
            losses["flow"] = Loss(flow, self.config.flow_weight)
        return losses | self.compared(batch, faces)

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
        images, landmarks = batch.face.images[:, 0, 0], batch.face.landmarks[:, 0, 0]
        logits: Tensor = self.regions(self.encoder.maps(images), self.places(landmarks)).logits
        return logits

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """The paper's Figures 5 and 6."""
        faces = self.together(batch)
        columns = {"face": faces.images}
        if "inpainting" in self.config.tasks:
            removed = self.remove(faces, share=1.0)
            seen = self.regions(self.encoder.maps(removed.images), faces.places)
            patches = self.tasks["inpainting"](self.gathered(seen, removed).flatten(0, 1))
            columns["removed"] = removed.images
            columns["painted again"] = pasted(removed.images, patches.unflatten(0, (-1, 2)), removed.hidden)
        if faces.flow is not None:
            told = self.tasks["flow"](self.encoder.maps(faces.images)[-1][: len(faces.flow)])
            columns = {name: column[: len(told)] for name, column in columns.items()}
            size = told.shape[-1]
            columns |= {"TV-L1 flow": adaptive_avg_pool2d(faces.flow, size).nan_to_num(), "flow, told": told}
        return columns

    def matrices(self) -> Mapping[str, Tensor]:
        """The paper's Figure 7: the cosine similarity of the AU indicators [A, A]."""
        relation = self.regions.relation if self.regions.local else None
        if not isinstance(relation, Transformer):
            return {}
        indicators = normalize(relation.indicators, dim=1)
        return {"AU indicators": indicators @ indicators.T}

    def together(self, batch: Batch) -> Together:
        """Labelled and unlabelled faces as one batch; the labelled ones first."""
        views = [batch[name] for name in ("labelled", "unlabelled") if name in batch]
        images = torch.cat([faces.images[:, 0, 0] for faces in views])
        landmarks = torch.cat([faces.landmarks[:, 0, 0] for faces in views])
        labels = batch.labelled.au[:, 0]
        au = labels.new_full((len(images), labels.shape[1]), -1)
        au[: len(labels)] = labels
        flow = batch.labelled.flow[:, 0, 0] if "flow" in self.config.tasks else None
        return Together(images, self.places(landmarks), au, flow)

    def places(self, landmarks: Tensor) -> Tensor:
        """The AUs' centres [N, A, 2, 2] in pixels, from landmarks [N, 68, 2]."""
        return centres(known(landmarks, size=self.facts.image_size), self.facts.aus)

    def remove(self, faces: Together, *, share: float | None = None) -> Removed:
        """Paint the two squares of one random AU white, in a share of the faces."""
        size, count = self.facts.image_size, len(faces.images)
        which = torch.randint(len(self.facts.aus), (count,), device=faces.images.device)
        lose = max(1, round((self.config.removed if share is None else share) * count))
        rows = torch.randperm(count, device=faces.images.device)[:lose].sort().values
        hidden = faces.places[rows, which[rows]]
        images = faces.images.clone()
        images[rows] = without(images[rows], hidden)
        gone = torch.zeros_like(faces.au, dtype=torch.bool)
        gone[rows] = covered(faces.places[rows], hidden, size=size)
        return Removed(images, rows, which[rows], hidden, gone)

    def paint(self, seen: Seen, removed: Removed, faces: Together) -> Losses:
        """L_G; the patches are kept for the second phase."""
        size, c = self.facts.image_size, self.config
        real = cut(faces.images[removed.rows], removed.hidden, size=size, cells=patch_side(size)).flatten(0, 1)
        fake = self.tasks["inpainting"](self.gathered(seen, removed).flatten(0, 1))
        labels = self.shown(faces, removed)
        self.painted = Painted(real, fake.detach(), labels)
        deceived, meant = self.adversary["real"](fake), self.adversary["semantic"](fake)
        return {
            "adversarial": Loss(softplus(-deceived).mean(), c.adversarial_weight),
            "reconstruction": Loss((real - fake).abs().mean(), 1 - c.adversarial_weight),
            "semantic": Loss(binary_cross_entropy_with_logits(meant, labels), c.semantic_weight),
        }

    def gathered(self, seen: Seen, removed: Removed) -> Tensor:
        """x [R, 2, D]: what the transformer says of the removed AU, on both sides."""
        return seen.regional[removed.rows, removed.which]

    @torch.no_grad()
    def shown(self, faces: Together, removed: Removed) -> Tensor:
        """y [2 R, 1]: the removed AU's label, or else what the intact face is predicted to show; for both patches."""
        labels = faces.au[removed.rows, removed.which].float()
        unknown = removed.rows[labels < 0]
        if len(unknown):
            training = self.training
            self.eval()
            logits = self.regions(self.encoder.maps(faces.images[unknown]), faces.places[unknown]).logits
            self.train(training)
            told = logits.gather(1, removed.which[labels < 0][:, None])[:, 0]
            labels[labels < 0] = (told > 0).float()
        return labels.repeat_interleave(2)[:, None]

    def compared(self, batch: Batch, faces: Together) -> Losses:
        """Rotation (Gidaris et al., 2018), exemplar (Dosovitskiy et al., 2014), jigsaw (Noroozi and Favaro, 2016)."""
        losses: dict[str, Tensor] = {}
        if "rotation" in self.config.tasks:
            turns = torch.randint(4, (len(faces.images),), device=faces.images.device)
            turned = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(faces.images, turns, strict=True)])
            losses["rotation"] = cross_entropy(self.tasks["rotation"](self.encoder(turned)), turns)
        if "exemplar" in self.config.tasks:
            copies = torch.cat([batch[name].images[:, 0] for name in self.sample(self.config)])
            told = normalize(self.tasks["exemplar"](self.encoder(copies.flatten(0, 1))), dim=1)
            first, second = told.unflatten(0, copies.shape[:2]).unbind(1)
            losses["exemplar"] = nt_xent(first, second, temperature=self.config.temperature)
        if "jigsaw" in self.config.tasks:
            orders = torch.tensor(far_orders(), device=faces.images.device)
            which = torch.randint(ORDERS, (len(faces.images),), device=faces.images.device)
            pieces = tiles(faces.images)
            mixed = pieces.gather(1, orders[which][:, :, None, None, None].expand_as(pieces))
            features = self.encoder(mixed.flatten(0, 1)).unflatten(0, mixed.shape[:2]).flatten(1)
            losses["jigsaw"] = cross_entropy(self.tasks["jigsaw"](features), which)
        return {name: Loss(value, self.config.task_weight) for name, value in losses.items()}


class Together(NamedTuple):
    """N faces, of which the first L are labelled."""

    images: Tensor  # [N, 3, S, S]
    places: Tensor  # [N, A, 2, 2] centres of the AUs, in pixels
    au: Tensor  # [N, A], -1 where not labelled
    flow: Tensor | None  # [L, 2, h, h], in pixels of the image


class Removed(NamedTuple):
    """R of the N faces lose the pair of squares of one AU."""

    images: Tensor  # [N, 3, S, S]
    rows: Tensor  # [R] which faces
    which: Tensor  # [R] the AU's column
    hidden: Tensor  # [R, 2, 2] the centres of its squares
    covered: Tensor  # [N, A] AUs that are not judged


class Seen(NamedTuple):
    """What is read from the ResNet's maps."""

    logits: Tensor  # [N, A]
    regional: Tensor  # [N, A, 2, D], both sides
    maps: list[Tensor]


class Painted(NamedTuple):
    """Patches [2 R, 3, s, s] cut from faces and generated, and their AU's label [2 R, 1]."""

    real: Tensor
    fake: Tensor
    labels: Tensor


class Regions(nn.Module):
    """Maps of a ResNet and the AUs' centres -> regional features and AU logits."""

    def __init__(self, encoder: ResNet, facts: DataFacts, config: RTATL.Config) -> None:
        super().__init__()
        self.local = "jigsaw" not in config.tasks  # as in the paper, where tiles leave no regions
        self.size, count, dim = facts.image_size, len(facts.aus), encoder.dim
        self.overall = nn.Linear(dim, count)
        if not self.local:
            return
        widths = [dim // 2**n for n in reversed(range(4))]
        self.lateral = nn.ModuleList([nn.Conv2d(width, dim, 1) for width in widths])
        self.own = nn.ModuleList([own_convolutions(dim, width=dim // 8) for _ in range(count)])
        self.relation = (
            Transformer(count, dim=DIM, hidden=config.hidden)
            if config.relation == "transformer"
            else GraphConvolution(facts.aus, dim=DIM)
        )
        self.regional = nn.Parameter(torch.empty(count, DIM))  # a fully connected layer of its own for each AU
        self.bias = nn.Parameter(torch.zeros(count))
        nn.init.normal_(self.regional, std=DIM**-0.5)

    def forward(self, maps: list[Tensor], places: Tensor) -> Seen:
        """The four stages' maps and centres [N, A, 2, 2]."""
        overall = self.overall(maps[-1].mean((2, 3)))
        if not self.local:
            return Seen(overall, overall.new_zeros(*places.shape[:3], DIM), maps)
        fused = self.fused(maps)
        squares = cut(fused, places.flatten(1, 2), size=self.size, cells=max(3, fused.shape[-1] // 4))
        squares = squares.unflatten(1, places.shape[1:3])  # [N, A, 2, C, c, c]
        features = [layers(squares[:, au].flatten(0, 1)).unflatten(0, (-1, 2)) for au, layers in enumerate(self.own)]
        sides = torch.stack(features, 2).flatten(0, 1)  # [2 N, A, D]: each side of a face is a sequence
        regional = self.relation(sides).unflatten(0, (-1, 2)).transpose(1, 2)
        local = (regional.mean(2) * self.regional).sum(-1) + self.bias
        return Seen(torch.maximum(local, overall), regional, maps)

    def fused(self, maps: list[Tensor]) -> Tensor:
        """From the top down: each map, doubled, is added to the one below it."""
        found = self.lateral[-1](maps[-1])
        for lateral, below in zip(reversed(self.lateral[:-1]), reversed(maps[:-1]), strict=True):
            found = interpolate(found, size=below.shape[-2:], mode="nearest") + lateral(below)
        return found


def own_convolutions(inputs: int, *, width: int) -> nn.Sequential:
    """An AU's own two convolutions: squares [N, inputs, c, c] -> [N, D]."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * 2 * width, DIM),
    )  # fmt: skip


def flow_head(dim: int) -> nn.Sequential:
    """Two transposed convolutions: [N, dim, h, h] -> displacements [N, 2, 4 h, 4 h] in pixels."""
    return nn.Sequential(
        nn.ConvTranspose2d(dim, dim // 4, 4, 2, padding=1, bias=False), nn.BatchNorm2d(dim // 4), nn.ReLU(inplace=True),
        nn.ConvTranspose2d(dim // 4, 2, 4, 2, padding=1),
    )  # fmt: skip


def patch_side(size: int) -> int:
    """Pixels of a removed square."""
    return round(SHARE * size)


def pasted(images: Tensor, patches: Tensor, places: Tensor) -> Tensor:
    """Images [N, 3, S, S] with patches [N, 2, 3, s, s] about places [N, 2, 2]."""
    result, side = images.clone(), patches.shape[-1]
    corners = (places.round() - side // 2).long().clamp(0, images.shape[-1] - side)
    for image, pair, (one, other) in zip(result, patches, corners.tolist(), strict=True):
        for patch, (x, y) in zip(pair, (one, other), strict=True):
            image[:, y : y + side, x : x + side] = patch
    return result


def tiles(images: Tensor) -> Tensor:
    """Images [N, 3, S, S] as nine tiles [N, 9, 3, s, s], row by row; what does not divide by three is cut off."""
    side = images.shape[-1] // TILES
    whole = images[:, :, : TILES * side, : TILES * side].unflatten(3, (TILES, side)).unflatten(2, (TILES, side))
    return whole.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


@lru_cache
def far_orders() -> tuple[tuple[int, ...], ...]:
    """Orders of the tiles, each as different as possible from those before it."""
    drawn = random.Random(0)
    candidates = [tuple(drawn.sample(range(TILES**2), TILES**2)) for _ in range(1000)]
    chosen = [candidates[0]]
    while len(chosen) < ORDERS:
        nearest = {c: min(sum(a != b for a, b in zip(c, o, strict=True)) for o in chosen) for c in candidates}
        chosen.append(max(candidates, key=lambda candidate: nearest[candidate]))
    return tuple(chosen)
