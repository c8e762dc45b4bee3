"""Views: a method's declaration of the frames of a track that make one sample, and of their augmented copies.

A *run* is an unbroken stretch of frames of one face track. A sample is taken from one run: the stream chooses where it
starts, and each view of the method chooses its frames from there. Every view is delivered as `Faces`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from facscale.data.degrade import find_degraded

DataKind = Literal["unlabelled", "labelled"]


@dataclass(frozen=True, kw_only=True)
class View(ABC):
    """A rule that chooses the frames of a sample, with the columns and augmented copies to deliver."""

    source: DataKind = "unlabelled"
    views: int = 1  # V: independently augmented copies of every frame
    shared: bool = False  # one augmentation for all frames of a sample (each copy still has its own)
    # Delivered with the frames: "au", "intensity", "landmarks", "flow" and other stored columns, and "data_set", the
    # number of the data set.
    columns: tuple[str, ...] = ()
    pixels: bool = True  # False: only columns are read, no images

    def with_columns(self, *names: str) -> Self:
        """Return a copy that also delivers the given columns."""
        return replace(self, columns=tuple(dict.fromkeys((*self.columns, *names))))

    @property
    def is_aligned(self) -> bool:
        """Whether the frames of a sample are moved onto the middle one by their landmarks."""
        return False

    @property
    @abstractmethod
    def extent(self) -> int:
        """The number of frames that a run must have from a sample's start on."""

    @property
    @abstractmethod
    def count(self) -> int:
        """The number of frames of this view in one sample, F."""

    @abstractmethod
    def choose(self, start: int, frames: int, random: np.random.Generator) -> np.ndarray:
        """Return indices [F] into a run of `frames` frames, for a sample that starts at frame `start`."""


@dataclass(frozen=True, kw_only=True)
class FrameSequence(View):
    """`length` frames, `stride` frames apart, in temporal order."""

    length: int
    stride: int = 1

    @property
    def extent(self) -> int:
        return (self.length - 1) * self.stride + 1

    @property
    def count(self) -> int:
        return self.length

    def choose(self, start: int, frames: int, random: np.random.Generator) -> np.ndarray:
        return start + np.arange(self.length) * self.stride


@dataclass(frozen=True, kw_only=True)
class FrameOffsets(View):
    """Frames at the given distances after the sample's start, in this order; distance 0 is the start itself."""

    offsets: tuple[int, ...]

    @property
    def extent(self) -> int:
        return max(self.offsets) + 1

    @property
    def count(self) -> int:
        return len(self.offsets)

    def choose(self, start: int, frames: int, random: np.random.Generator) -> np.ndarray:
        return start + np.array(self.offsets)


@dataclass(frozen=True, kw_only=True)
class RandomFrames(View):
    """`count` different frames anywhere in the run, in random order; a single frame is the sample's start."""

    count: int = 1

    @property
    def extent(self) -> int:
        return self.count

    def choose(self, start: int, frames: int, random: np.random.Generator) -> np.ndarray:
        if self.count == 1:
            return np.array([start])
        return random.permutation(frames)[: self.count]


@dataclass(frozen=True, kw_only=True)
class FrameTriple(View):
    """The frames t - interval, t, t + interval; t itself takes the place of a neighbour beyond the ends of its run.

    `aligned`: the neighbours are moved onto frame t by five of their landmarks, before they are degraded.
    """

    interval: int
    aligned: bool = False

    def __post_init__(self) -> None:
        """Request the landmarks that an alignment needs."""
        if self.aligned and "landmarks" not in self.columns:
            object.__setattr__(self, "columns", (*self.columns, "landmarks"))

    @property
    def is_aligned(self) -> bool:
        return self.aligned

    @property
    def extent(self) -> int:
        return 1

    @property
    def count(self) -> int:
        return 3

    def choose(self, start: int, frames: int, random: np.random.Generator) -> np.ndarray:
        indices = start + self.interval * np.array([-1, 0, 1])
        return np.where((indices >= 0) & (indices < frames), indices, start)


@dataclass
class Faces:
    """One view of a batch."""

    # As decoded: [B, F, H, W, 3] uint8; augmented: [B, F, V, 3, S, S] float in [0, 1]; without pixels the sides are 0.
    images: Tensor
    identity: Tensor  # [B] int64, the number of the identity over the data sets of the stream
    augmentation: Tensor  # [B, F, V, P] float32, applied or to be applied to each image (`augment.PARAMETERS`)
    # name -> [B, F, ...], as stored, except: "au" and "intensity" have the AUs of all data sets (-1 where a set has no
    # such label), and augmentation transforms "landmarks" to [B, F, V, 68, 2] and "flow" to [B, F, V, 2, S / 4, S / 4],
    # in pixels of the augmented images.
    columns: dict[str, Tensor] = field(default_factory=dict)
    is_aligned: bool = False  # augmentation moves the frames of each sample onto the middle one
    # Numbers of the images that augmentation blurs, compresses and cuts out: the host knows how many, without waiting for
    # the device. None: not known yet.
    degraded: tuple[Tensor, ...] | None = None

    def to(self, device: torch.device) -> Faces:
        """Copy every tensor to `device`, asynchronously from pinned memory."""
        degraded = self.degraded
        if degraded is None and self.augmentation.device.type == "cpu":
            degraded = find_degraded(self.augmentation)
            if self.augmentation.is_pinned():
                degraded = tuple(numbers.pin_memory() for numbers in degraded)
        return Faces(
            images=self.images.to(device, non_blocking=True),
            identity=self.identity.to(device, non_blocking=True),
            augmentation=self.augmentation.to(device, non_blocking=True),
            columns={name: values.to(device, non_blocking=True) for name, values in self.columns.items()},
            is_aligned=self.is_aligned,
            degraded=degraded and tuple(numbers.to(device, non_blocking=True) for numbers in degraded),
        )

    def select(self, rows: np.ndarray | slice) -> Faces:
        """Return the samples with the given numbers."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Faces(self.images[rows], self.identity[rows], self.augmentation[rows], columns, self.is_aligned)

    def __getattr__(self, name: str) -> Tensor:
        """Look up a column: `faces.au` is `faces.columns["au"]`."""
        columns: dict[str, Tensor] = self.__dict__.get("columns", {})  # not set yet during unpickling
        try:
            return columns[name]
        except KeyError:
            raise AttributeError(f"this view has no {name!r}; request it with columns=({name!r},)") from None


class Batch(dict[str, Faces]):
    """The views of a batch by name: `batch.clip` is `batch["clip"]`."""

    def __getattr__(self, name: str) -> Faces:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the batch has no view {name!r}; it has {', '.join(self)}") from None

    def to(self, device: torch.device) -> Batch:
        """Copy every tensor to `device`, asynchronously from pinned memory."""
        return Batch({name: faces.to(device) for name, faces in self.items()})
