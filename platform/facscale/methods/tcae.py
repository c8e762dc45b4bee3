"""TCAE: the twin-cycle autoencoder takes the movements of facial actions apart from those of the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from facscale.data.views import Batch, Frames, View
from facscale.methods.base import DataFacts, Loss, Losses, Method, MethodConfig, trains
from facscale.nn import Encoder
from facscale.nn.curriculum import Curriculum
from facscale.nn.displacement import Decoder, down, in_pixels, moved, widths, within


class TCAE(Method):
    """Li et al., "Self-supervised Representation Learning from Videos for Facial Action Unit Detection", CVPR 2019.

    A source I_s and a target I_t of one face have AU embeddings phi and pose embeddings psi; two decoders tell
    displacements T and masks from the AU and from the pose embeddings of both. W x H pixels, a_A + a_p = 1::

        T       = a_A T_A + a_p T_p
        L_1     = sum |T_A|                                                                        (1)
        L_rec   = |T(I_s) - I_t|                                                                   (2)
        L_cyc_A = |T_-A(T_A(I_s)) - I_s|                                                           (3)
        L_cyc_p = |T_-p(T_p(I_s)) - I_s|                                                           (4)
        L_emb_A = |psi(T_A(I_s)) - psi_s|^2 + |phi(T_A(I_s)) - phi_t|^2                            (5)
        L_emb_p = |phi(T_p(I_s)) - phi_s|^2 + |psi(T_p(I_s)) - psi_t|^2                            (6)
        L = L_rec / 3WH + l1 L_1 / 2WH + l2 (L_cyc_A + L_cyc_p) / 3WH + l3 (L_emb_A + L_emb_p) / 256

    Letters: l1 `sparsity_weight`, l2 `cycle_weight`, l3 `embedding_weight`; T_-A and T_-p lead back, from the embeddings
    of the changed face and of the source. Only a window of each batch's losses is trained, from easy to hard; it moves
    on when the validation loss no longer falls.

    As in the published code the masks are a softmax over tanh, so neither movement is ever off, and pixels are taken from
    images without gradient. Its ways that are not the paper's are options: `order: term` sorts every loss by itself,
    `windows: 5`, and `target_weight: 0.1` asks the rebuilt target for the target's embeddings. Images smaller than 256
    pixels pass fewer layers. The encoder that is kept and judged gives the AU embedding.
    """

    class Config(MethodConfig):
        """Hyper-parameters, with the paper's values."""

        sparsity_weight: NonNegativeFloat = 0.01  # l1
        cycle_weight: NonNegativeFloat = 0.1  # l2
        embedding_weight: NonNegativeFloat = 0.1  # l3
        target_weight: NonNegativeFloat = 0.0  # of the rebuilt target's embeddings; 0.1 in the published code
        order: Literal["sample", "term"] = "sample"  # what the curriculum sorts
        windows: PositiveInt = 3  # of the curriculum: 0-50, 10-60, 20-70 per cent
        patience: PositiveInt = 15  # validations without a lower loss before it moves on

    config: Config
    encoder: TwinEncoder

    def __init__(self, config: Config, facts: DataFacts) -> None:
        super().__init__(config, facts)
        self.encoder = TwinEncoder(facts.image_size)
        pair = 2 * self.encoder.dim
        self.au_decoder = Decoder(facts.image_size, inputs=pair, outputs=3)
        self.pose_decoder = Decoder(facts.image_size, inputs=pair, outputs=3)
        self.curriculum = Curriculum(windows=config.windows, patience=config.patience)

    @staticmethod
    def sample(config: Config) -> Mapping[str, View]:
        """Two frames anywhere in a track."""
        return {"pair": Frames(count=2)}

    @trains("encoder", "au_decoder", "pose_decoder")
    def twin_cycles(self, batch: Batch) -> Losses:
        """L, of the samples that the curriculum chooses."""
        errors = self.errors(*batch.pair.images[:, :, 0].unbind(1))
        c = self.config
        weights = {
            "reconstruction": 1.0,
            "sparsity": c.sparsity_weight,
            "au_cycle": c.cycle_weight,
            "pose_cycle": c.cycle_weight,
            "au_embedding": c.embedding_weight,
            "pose_embedding": c.embedding_weight,
            "target_embedding": c.target_weight,
        }
        weights = {name: weights[name] for name in errors}
        chosen = self.curriculum.select(errors, weights, each=c.order == "term")
        return {name: Loss(value, weights[name]) for name, value in chosen.items()}

    def errors(self, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each term of L for each sample [N], as means over pixels or over the 256 numbers of an embedding."""
        s, t = self.encoder.both(source), self.encoder.both(target)
        apart = self._apart(s, t)
        rebuilt = moved(source, apart.together)
        au_changed, pose_changed = moved(source, apart.au), moved(source, apart.pose)
        a, p = self.encoder.both(au_changed), self.encoder.both(pose_changed)
        au_back = within(self.au_decoder(torch.cat([a.au, s.au], 1))[:, :2])
        pose_back = within(self.pose_decoder(torch.cat([p.pose, s.pose], 1))[:, :2])
        errors = {
            "reconstruction": absolute(rebuilt, target),
            "sparsity": apart.au.abs().mean((1, 2, 3)),
            "au_cycle": absolute(moved(au_changed.detach(), au_back), source),
            "pose_cycle": absolute(moved(pose_changed.detach(), pose_back), source),
            "au_embedding": squared(a.pose, s.pose) + squared(a.au, t.au),
            "pose_embedding": squared(p.au, s.au) + squared(p.pose, t.pose),
        }
        if self.config.target_weight:
            r = self.encoder.both(rebuilt)
            errors["target_embedding"] = squared(r.au, t.au) + squared(r.pose, t.pose)
        return errors

    def after_validation(self, loss: float) -> None:
        """The curriculum may move on."""
        self.curriculum.after_validation(loss)

    def embeddings(self, images: Tensor) -> Mapping[str, Tensor]:
        """phi and psi."""
        found = self.encoder.both(images)
        return {"encoder": found.au, "pose": found.pose}

    def movements(self, source: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """T_A, T_p and T, in pixels."""
        apart = self._apart(self.encoder.both(source), self.encoder.both(target))
        return {"au": in_pixels(apart.au), "pose": in_pixels(apart.pose), "all": in_pixels(apart.together)}

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """The sheet of the paper's Figure 4."""
        source, target = batch.pair.images[:, :, 0].unbind(1)
        apart = self._apart(self.encoder.both(source), self.encoder.both(target))
        return {
            "source": source,
            "target": target,
            "AU displacements": in_pixels(apart.au),
            "AU changed": moved(source, apart.au),
            "pose displacements": in_pixels(apart.pose),
            "pose changed": moved(source, apart.pose),
            "rebuilt": moved(source, apart.together),
        }

    def _apart(self, s: Twins, t: Twins) -> Apart:
        """From the embeddings of source and target, the movements between them."""
        au, pose = self.au_decoder(torch.cat([s.au, t.au], 1)), self.pose_decoder(torch.cat([s.pose, t.pose], 1))
        share = torch.stack([au[:, 2], pose[:, 2]], 1).softmax(1)
        au_moves, pose_moves = within(au[:, :2]), within(pose[:, :2])
        together = share[:, :1] * au[:, :2] + share[:, 1:] * pose[:, :2]
        return Apart(au_moves, pose_moves, within(together))


class Twins(NamedTuple):
    """The embeddings of images, [N, 256] each."""

    au: Tensor
    pose: Tensor


class Apart(NamedTuple):
    """Displacements [N, 2, S, S] of a source; the image is 2 long."""

    au: Tensor
    pose: Tensor
    together: Tensor


class TwinEncoder(Encoder):
    """A trunk and two branches: images [N, 3, size, size] in [0, 1] -> the AU embedding [N, 256]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        channels = (3, *widths(size))
        split = len(channels) - 4  # the branches have three layers of their own
        self.trunk = torch.nn.Sequential(*(down(channels[n], channels[n + 1]) for n in range(split)))
        self.au_branch, self.pose_branch = (
            torch.nn.Sequential(
                *(
                    down(channels[n], channels[n + 1], norm=n < split + 2, activation=n < split + 2)
                    for n in range(split, split + 3)
                )
            )
            for _ in range(2)
        )
        self.dim = channels[-1]

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, size, size] -> phi [N, 256]."""
        return self.au_branch(self.trunk(images)).flatten(1)

    def both(self, images: Tensor) -> Twins:
        """phi and psi."""
        shared = self.trunk(images)
        return Twins(self.au_branch(shared).flatten(1), self.pose_branch(shared).flatten(1))


def absolute(one: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference of images, of each sample [N]."""
    return (one - other).abs().mean((1, 2, 3))


def squared(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of embeddings, of each sample [N]."""
    return (one - other).square().mean(1)
