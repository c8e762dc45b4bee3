"""The online probe: what the encoder is worth right now, on a few labelled frames."""

from __future__ import annotations

import numpy as np
import simplejpeg
import torch
from torch import Tensor, nn

from facscale.data import Dataset, augment
from facscale.evaluate import diagnose
from facscale.spec import Job

CHUNK = 64


class OnlineProbe:
    """`probe(encoder)` -> {"probe/f1": ..., "effective_rank": ..., ...}, see `evaluate.diagnostics`; lives on rank 0.

    It reads `train.probe_frames` frames of a labelled data set, evenly spaced, once. They are for watching a run:
    nothing is chosen by them. A second, augmented copy of each gives the positives of `alignment`.
    """

    def __init__(self, url: str, *, job: Job, device: torch.device) -> None:
        images, self.au, self.identity = labelled_frames(Dataset(url), count=job.train.probe_frames)
        self._images = torch.from_numpy(images)
        random = np.random.default_rng(job.seed)
        moved = augment.draw(job.data.augment, shape=(len(images),), random=random)
        still = np.broadcast_to(augment.still(job.data.augment), moved.shape)
        self._parameters = torch.from_numpy(np.stack([still, moved], 1))  # [N, 2, P]
        self._size, self._device = job.data.image_size, device

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """All diagnostics of `encoder`, in eval mode; it is left as it was found."""
        training = encoder.training
        encoder.eval()
        parts = zip(self._images.split(CHUNK), self._parameters.split(CHUNK), strict=True)
        features = torch.cat([self._features(encoder, images, parameters) for images, parameters in parts])
        encoder.train(training)
        found = diagnose(features[:, 0], au=self.au, identity=self.identity, positives=features[:, 1])
        return {f"online/{name}": value for name, value in found.items()}

    @torch.no_grad()
    def _features(self, encoder: nn.Module, images: Tensor, parameters: Tensor) -> Tensor:
        """[n, H, W, 3] and [n, 2, P] -> [n, 2, D]."""
        faces = augment.apply(images.to(self._device), parameters.to(self._device), size=self._size)
        return encoder(faces.flatten(0, 1)).unflatten(0, faces.shape[:2]).float().cpu()


def labelled_frames(dataset: Dataset, *, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """About `count` evenly spaced frames: images [N, H, W, 3] uint8, labels [N, n] int8, identities [N]."""
    every = max(1, dataset.manifest.counts["frames"] // count)
    images, labels, identities, seen = [], [], [], 0
    for number, shard in enumerate(dataset.manifest.shards):
        for group, place in enumerate(shard.row_groups):
            rows = np.arange(-seen % every, place.rows, every)
            seen += place.rows
            if not len(rows):
                continue
            table = dataset.read(shard=number, row_group=group, columns=["jpeg", "au", "identity"]).take(rows)
            images += [simplejpeg.decode_jpeg(jpeg) for jpeg in table["jpeg"].to_pylist()]
            labels += table["au"].to_pylist()
            identities += table["identity"].to_pylist()
    return np.stack(images), np.array(labels, np.int8), np.array(identities)
