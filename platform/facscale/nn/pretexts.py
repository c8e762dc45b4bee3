"""Tasks that need no labels, to be learned beside another one.

`Rotation`, `Exemplar` and `Jigsaw` are heads on an encoder of `dim` features. Called with V augmented copies of N faces
[N, V, 3, S, S] and the encoder, each gives its loss; all but the exemplar task look at the first copy alone.
"""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, normalize

from facscale.nn.contrast import nt_xent
from facscale.nn.encoder import Encoder
from facscale.nn.heads import projection_head

TILES, ORDERS = 3, 24  # each way; orders of them that the jigsaw task tells apart
EXEMPLAR_DIM = 128


class Rotation(nn.Module):
    """By how many quarters was the face turned? Gidaris et al., ICLR 2018."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, 4)

    def forward(self, copies: Tensor, encoder: Encoder) -> Tensor:
        """Cross-entropy over the four turns, one of them at random for each face."""
        faces = copies[:, 0]
        turns = torch.randint(4, (len(faces),), device=faces.device)
        turned = torch.stack([face.rot90(int(k), (1, 2)) for face, k in zip(faces, turns, strict=True)])
        return cross_entropy(self.head(encoder(turned)), turns)


class Exemplar(nn.Module):
    """Which two are copies of one face? Dosovitskiy et al., NIPS 2014, with the NT-Xent loss in place of classes."""

    def __init__(self, dim: int, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.head = projection_head(dim, dim, EXEMPLAR_DIM)

    def forward(self, copies: Tensor, encoder: Encoder) -> Tensor:
        """NT-Xent of two copies of each face."""
        told = normalize(self.head(encoder(copies.flatten(0, 1))), dim=1)
        first, second = told.unflatten(0, copies.shape[:2]).unbind(1)
        return nt_xent(first, second, temperature=self.temperature)


class Jigsaw(nn.Module):
    """In which order are the face's tiles? Noroozi and Favaro, ECCV 2016."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = projection_head(TILES**2 * dim, dim, ORDERS)

    def forward(self, copies: Tensor, encoder: Encoder) -> Tensor:
        """Cross-entropy over the orders, one of them at random for each face."""
        pieces = tiles(copies[:, 0])
        orders = torch.tensor(far_orders(), device=pieces.device)
        which = torch.randint(ORDERS, (len(pieces),), device=pieces.device)
        mixed = pieces.gather(1, orders[which][:, :, None, None, None].expand_as(pieces))
        features = encoder(mixed.flatten(0, 1)).unflatten(0, mixed.shape[:2]).flatten(1)
        return cross_entropy(self.head(features), which)


def flow_head(dim: int) -> nn.Sequential:
    """Two transposed convolutions: maps [N, dim, h, h] -> displacements [N, 2, 4 h, 4 h] in pixels."""
    return nn.Sequential(
        nn.ConvTranspose2d(dim, dim // 4, 4, 2, padding=1, bias=False), nn.BatchNorm2d(dim // 4), nn.ReLU(inplace=True),
        nn.ConvTranspose2d(dim // 4, 2, 4, 2, padding=1),
    )  # fmt: skip


def flow_error(told: Tensor, flow: Tensor) -> Tensor:
    """Mean absolute difference of flows, told [N, 2, h, h] and true [N, 2, H, H]; a flow that is not known is nan."""
    apart = (told - adaptive_avg_pool2d(flow, told.shape[-1])).abs()
    there = ~apart.isnan()
    return apart.where(there, 0).sum() / there.sum().clamp(min=1)


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
