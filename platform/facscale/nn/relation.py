"""Layers that exchange information between the features of AUs: a transformer, and a convolution on a fixed graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# AUs that often occur together or exclude each other: RTATL's graph is not published, these are our reading of FACS.
COOCCURRING = (
    (1, 2),
    (1, 4),
    (4, 7),
    (4, 9),
    (6, 7),
    (6, 10),
    (6, 12),
    (7, 10),
    (10, 12),
    (12, 25),
    (14, 15),
    (15, 17),
    (17, 23),
    (17, 24),
    (23, 24),
    (25, 26),
)
EXCLUSIVE = ((12, 15), (12, 17), (2, 6), (2, 7), (24, 25), (23, 25))


class AUTransformer(nn.Module):
    """One encoder and one decoder layer over the features of A AUs: [N, A, D] -> [N, A, D].

    Yan et al., RTATL (MM 2021), Eq. 1 and Figure 3: no positions in the encoder; the queries of the decoder are one
    learned vector for each AU, its indicator.
    """

    def __init__(self, aus: int, *, dim: int = 128, heads: int = 8, hidden: int = 2048, dropout: float = 0.0) -> None:
        super().__init__()
        options = {"d_model": dim, "nhead": heads, "dim_feedforward": hidden, "dropout": dropout, "batch_first": True}
        self.encoder = nn.TransformerEncoderLayer(**options)  # type: ignore[arg-type]
        self.decoder = nn.TransformerDecoderLayer(**options)  # type: ignore[arg-type]
        self.indicators = nn.Parameter(torch.randn(aus, dim))

    def forward(self, features: Tensor) -> Tensor:
        """[N, A, D] -> [N, A, D]."""
        # `len` would fix the size of an exported batch
        queries = self.indicators[None].repeat(features.shape[0], 1, 1).to(features.dtype)
        decoded: Tensor = self.decoder(queries, self.encoder(features))
        return decoded


class AUGraphConvolution(nn.Module):
    """Two graph convolutions H -> act(D^-1/2 |R| D^-1/2 H W) on a fixed relation graph R: [N, A, D] -> [N, A, D].

    Kipf and Welling (2017), with LeakyReLU 0.2 as in the nearest public code (MLCR). `aus`: the numbers of the AUs.
    """

    relation: Tensor

    def __init__(self, aus: Sequence[int], *, dim: int = 128) -> None:
        super().__init__()
        relation = torch.eye(len(aus))
        for a, b in (*COOCCURRING, *EXCLUSIVE):
            if a in aus and b in aus:
                relation[aus.index(a), aus.index(b)] = relation[aus.index(b), aus.index(a)] = 1.0
        scale = relation.sum(1).rsqrt()
        self.register_buffer("relation", scale[:, None] * relation * scale, persistent=False)
        self.layers = nn.ModuleList([nn.Linear(dim, dim) for _ in range(2)])

    def forward(self, features: Tensor) -> Tensor:
        """[N, A, D] -> [N, A, D]."""
        for layer in self.layers:
            features = nn.functional.leaky_relu(layer(self.relation.to(features.dtype) @ features), 0.2)
        return features
