"""What a method may ask of the stream: which frames of a track make one sample, and how often each is augmented.

A *run* is an unbroken stretch of frames of one face track. A sample is drawn from one run: the stream picks where it
starts, each view of the method picks its frames from there. Every view arrives as `Faces`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

Source = Literal["unlabelled", "labelled"]


@dataclass(frozen=True, kw_only=True)
class View(ABC):
    """A rule that picks frames, and what is to be done with them."""

    source: Source = "unlabelled"
    views: int = 1  # V: independently augmented copies of every frame
    shared: bool = False  # one augmentation for all frames of a sample (each copy still has its own)
    columns: tuple[str, ...] = ()  # to deliver with the frames: the stored ones "au", "intensity", "landmarks", "flow",
    # and "data_set", the number of the data set
    pixels: bool = True  # False: no images are read, only columns

    def with_columns(self, *names: str) -> Self:
        """The same frames, with these columns too."""
        return replace(self, columns=tuple(dict.fromkeys((*self.columns, *names))))

    @property
    @abstractmethod
    def extent(self) -> int:
        """Frames that a run must have from a sample's start on."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Frames of this view in one sample: F."""

    @abstractmethod
    def choose(self, start: int, frames: int, random: np.random.Generator) -> np.ndarray:
        """Indices [F] into a run of `frames` frames, for a sample that starts at frame `start`."""


@dataclass(frozen=True, kw_only=True)
class Sequence(View):
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
class Offsets(View):
    """Frames at the given distances after the sample's start, in this order; the first distance is 0 for the start."""

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
class Frames(View):
    """`count` different frames anywhere in the run, in random order; a single frame is the sample's start itself."""

    count: int = 1

    @property
    def extent(self) -> int:
        return self.count

    def choose(self, start: int, frames: int, random: np.random.Generator) -> np.ndarray:
        if self.count == 1:
            return np.array([start])
        return random.permutation(frames)[: self.count]


@dataclass(frozen=True, kw_only=True)
class Triple(View):
    """The frames t - interval, t, t + interval; at the ends of a run the nearest frame stands in."""

    interval: int

    @property
    def extent(self) -> int:
        return 1

    @property
    def count(self) -> int:
        return 3

    def choose(self, start: int, frames: int, random: np.random.Generator) -> np.ndarray:
        chosen: np.ndarray = np.clip(start + self.interval * np.array([-1, 0, 1]), 0, frames - 1)
        return chosen


@dataclass
class Faces:
    """One view of a batch."""

    images: (
        Tensor  # [B, F, V, 3, S, S] float in [0, 1], augmented; as decoded: [B, F, H, W, 3] uint8; sides 0: no pixels
    )
    identity: Tensor  # [B] int64, the number of the identity in its data set(s)
    augmentation: Tensor  # [B, F, V, P] float32, what was or will be done to each image (`augment.PARAMETERS`)
    columns: dict[str, Tensor] = field(default_factory=dict)  # name -> [B, F, ...], as stored, but "au" and "intensity"
    # with the AUs of all data sets (-1 where a set has no such label); augmented images move their landmarks
    # [B, F, V, 68, 2] and flow [B, F, V, 2, S / 4, S / 4] with them, in pixels of the images

    def chosen(self, rows: np.ndarray | slice) -> Faces:
        """Some of the samples, by their numbers."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Faces(self.images[rows], self.identity[rows], self.augmentation[rows], columns)

    def __getattr__(self, name: str) -> Tensor:
        """`faces.au` is `faces.columns["au"]`."""
        columns: dict[str, Tensor] = self.__dict__.get("columns", {})  # not there yet while it is unpickled
        try:
            return columns[name]
        except KeyError:
            raise AttributeError(f"this view has no {name!r}; ask for it with columns=({name!r},)") from None


class Batch(dict[str, Faces]):
    """Views by name: `batch.clip` is `batch["clip"]`."""

    def __getattr__(self, name: str) -> Faces:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the batch has no view {name!r}; it has {', '.join(self)}") from None

    def to(self, device: torch.device) -> Batch:
        """Copy every tensor to `device`, without waiting when the memory is pinned."""
        return Batch(
            {
                name: Faces(
                    images=faces.images.to(device, non_blocking=True),
                    identity=faces.identity.to(device, non_blocking=True),
                    augmentation=faces.augmentation.to(device, non_blocking=True),
                    columns={key: value.to(device, non_blocking=True) for key, value in faces.columns.items()},
                )
                for name, faces in self.items()
            }
        )
