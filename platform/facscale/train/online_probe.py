"""The online probe: diagnostics of the encoder during training, on a few labelled frames."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from facscale.data import Dataset, augment, pixels
from facscale.evaluate.diagnostics import diagnose
from facscale.spec import Job

CHUNK = 64


class OnlineProbe:
    """`probe(encoder)` -> {"probe/f1": ..., "effective_rank": ..., ...}, see `evaluate.diagnostics`; lives on rank 0.

    It reads `train.probe_frames` evenly spaced frames of a data set once. `people` must not include anybody on whom the
    finished encoder is tested, since a sweep chooses by these numbers. Without labels, diagnostics that need them are left
    out. A second, augmented copy of each frame gives the positives of `alignment`.
    """

    def __init__(self, url: str, *, people: Collection[str] | None = None, job: Job, device: torch.device) -> None:
        dataset = Dataset(url)
        images, self.au, self.identity = read_spread_frames(dataset, count=job.train.probe_frames, people=people)
        self._images = torch.from_numpy(images)
        random = np.random.default_rng(job.seed)
        spec, margin = job.data.augment, dataset.manifest.margin
        augmented = augment.sample_params(spec, shape=(len(images),), random=random, margin=margin)
        plain = np.broadcast_to(augment.eval_params(spec, margin=margin), augmented.shape)
        self._parameters = torch.from_numpy(np.stack([plain, augmented], 1))  # [N, 2, P]
        self._size, self._device = job.data.image_size, device

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """All diagnostics of `encoder`, in eval mode; its mode is restored."""
        training = encoder.training
        encoder.eval()
        parts = zip(self._images.split(CHUNK), self._parameters.split(CHUNK), strict=True)
        features = torch.cat([self._embed(encoder, images, parameters) for images, parameters in parts])
        encoder.train(training)
        diagnostics = diagnose(features[:, 0], au=self.au, identity=self.identity, positives=features[:, 1])
        return {f"online/{name}": value for name, value in diagnostics.items()}

    @torch.no_grad()
    def _embed(self, encoder: nn.Module, images: Tensor, parameters: Tensor) -> Tensor:
        """[n, H, W, 3] and [n, 2, P] -> [n, 2, D]."""
        faces = augment.apply(images.to(self._device), parameters.to(self._device), size=self._size)
        return encoder(faces.flatten(0, 1)).unflatten(0, faces.shape[:2]).float().cpu()


def read_spread_frames(
    dataset: Dataset, *, count: int, people: Collection[str] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read about `count` evenly spaced frames of `people` (of all): images [N, H, W, 3] uint8, labels [N, n] int8, identities [N].

    n is 0 where the data set has no labels.
    """
    runs, aus = dataset.runs, len(dataset.manifest.au)
    of_people = np.repeat(
        np.full(len(runs), fill_value=True) if people is None else runs.mask_subjects(people), runs.frames
    )
    wanted = np.flatnonzero(of_people)
    wanted = wanted[:: max(1, len(wanted) // count)]
    images, labels, identities, seen = [], [np.zeros((0, aus), np.int8)], [], 0
    for number, shard in enumerate(dataset.manifest.shards):
        for group, place in enumerate(shard.row_groups):
            rows = wanted[(wanted >= seen) & (wanted < seen + place.rows)] - seen
            seen += place.rows
            if not len(rows):
                continue
            columns = ["jpeg", "identity", *(["au"] if aus else [])]
            table = dataset.read(shard=number, row_group=group, columns=columns).take(rows)
            images += [pixels.decode_jpeg(jpeg) for jpeg in table["jpeg"].to_pylist()]
            identities += table["identity"].to_pylist()
            labels.append(np.array(table["au"].to_pylist() if aus else np.zeros((len(rows), 0)), np.int8))
    return np.stack(images), np.concatenate(labels), np.array(identities)
