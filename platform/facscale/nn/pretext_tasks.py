"""Self-supervised tasks to be trained beside another one.

`RotationTask`, `ExemplarTask` and `JigsawTask` are heads on an encoder of `dim` features. Each is called with V
augmented copies of N faces [N, V, 3, S, S] and the encoder, and returns its loss; all but the exemplar task use only
the first copy.
"""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, normalize

from facscale.nn.encoder import Encoder
from facscale.nn.heads import projection_head
from facscale.nn.losses import nt_xent
from facscale.nn.precision import apply_widened, widen

TILES = 3  # in each direction
ORDERS = 24  # orders of the tiles that the jigsaw task distinguishes
EXEMPLAR_DIM = 128


class RotationTask(nn.Module):
    """Predicts by how many quarter turns a face was rotated (Gidaris et al., ICLR 2018)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, 4)

    def forward(self, copies: Tensor, encoder: Encoder) -> Tensor:
        """Cross-entropy over the four rotations; each face is rotated at random."""
        faces = copies[:, 0]
        turns = torch.randint(4, (len(faces),), device=faces.device)
        return cross_entropy(self.head(encoder(rotate(faces, turns))), turns)


class ExemplarTask(nn.Module):
    """Matches copies of the same face (Dosovitskiy et al., NIPS 2014), with the NT-Xent loss in place of classes."""

    def __init__(self, dim: int, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.head = projection_head(dim, dim, EXEMPLAR_DIM)

    def forward(self, copies: Tensor, encoder: Encoder) -> Tensor:
        """NT-Xent of the two copies of each face."""
        embeddings = normalize(self.head(encoder(copies.flatten(0, 1))), dim=1)
        first, second = embeddings.unflatten(0, copies.shape[:2]).unbind(1)
        return nt_xent(first, second, temperature=self.temperature)


class JigsawTask(nn.Module):
    """Predicts the order of a face's shuffled tiles (Noroozi and Favaro, ECCV 2016)."""

    orders: Tensor  # [ORDERS, 9]

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = projection_head(TILES**2 * dim, dim, ORDERS)
        self.register_buffer("orders", torch.tensor(build_tile_orders()), persistent=False)

    def forward(self, copies: Tensor, encoder: Encoder) -> Tensor:
        """Cross-entropy over the orders; the tiles of each face are shuffled at random."""
        tiles = split_into_tiles(copies[:, 0])
        targets = torch.randint(ORDERS, (len(tiles),), device=tiles.device)
        shuffled = tiles.gather(1, self.orders[targets][:, :, None, None, None].expand_as(tiles))
        features = encoder(shuffled.flatten(0, 1)).unflatten(0, shuffled.shape[:2]).flatten(1)
        return cross_entropy(self.head(features), targets)


class FlowHead(nn.Sequential):
    """Two transposed convolutions: maps [N, dim, h, h] -> displacements [N, 2, 4 h, 4 h] in pixels.

    The last one runs in float32 under autocast.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(dim, dim // 4, 4, 2, padding=1, bias=False),
            nn.BatchNorm2d(dim // 4),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(dim // 4, 2, 4, 2, padding=1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[N, dim, h, h] -> [N, 2, 4 h, 4 h]."""
        *layers, last = self
        for layer in layers:
            maps = layer(maps)
        return apply_widened(last, maps)


def rotate(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate images [N, 3, S, S] by quarter turns [N], counter-clockwise."""
    rotated = torch.stack([images.rot90(number, (2, 3)) for number in range(4)], 1)
    index = turns.view(-1, 1, 1, 1, 1).expand(-1, 1, *images.shape[1:])
    return rotated.gather(1, index)[:, 0]


def flow_error(predicted: Tensor, flow: Tensor) -> Tensor:
    """Mean absolute difference of a predicted flow [N, 2, h, h] and the true one [N, 2, H, H], ignoring nan."""
    errors = (widen(predicted) - adaptive_avg_pool2d(widen(flow), predicted.shape[-1])).abs()
    is_valid = ~errors.isnan()
    return errors.where(is_valid, 0).sum() / is_valid.sum().clamp(min=1)


def split_into_tiles(images: Tensor) -> Tensor:
    """Split images [N, 3, S, S] into nine tiles [N, 9, 3, s, s], row by row; a remainder of S / 3 is cut off."""
    side = images.shape[-1] // TILES
    grid = images[:, :, : TILES * side, : TILES * side].unflatten(3, (TILES, side)).unflatten(2, (TILES, side))
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


@lru_cache
def build_tile_orders() -> tuple[tuple[int, ...], ...]:
    """Return `ORDERS` orders of the tiles, each as different as possible from those before it."""
    generator = random.Random(0)
    candidates = [tuple(generator.sample(range(TILES**2), TILES**2)) for _ in range(1000)]
    orders = [candidates[0]]
    while len(orders) < ORDERS:
        nearest = {c: min(sum(a != b for a, b in zip(c, o, strict=True)) for o in orders) for c in candidates}
        orders.append(max(candidates, key=lambda candidate: nearest[candidate]))
    return tuple(orders)
