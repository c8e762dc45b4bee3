"""What a pipeline file may say: raw videos or images to a data set of face shards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from facscale.spec.block import Block
from facscale.spec.models import Fraction, Url
from facscale.spec.safety import Name


class Source(Block):
    """Raw videos or images as a data set's authors lay them out."""

    layout: Literal["voxceleb2", "bp4d", "disfa", "affwild2", "rafdb", "affectnet", "videos"]
    root: Url
    every: PositiveInt = 1  # keep each n-th frame
    limit: NonNegativeInt = 0  # videos, or single images of each part, read at most; 0: all
    aus: tuple[PositiveInt, ...] = ()  # action units to keep, those of the protocol; none named: all that are coded
    expressions: tuple[str, ...] = ()  # classes to keep, in the order of the tables; none named: all of the layout


class Detector(Block):
    """Names a face detector; its other keys are that detector's own."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "dlib"


class Crop(Block):
    """The aligned face: a similarity transform brings the eyes to fixed places of a square."""

    size: PositiveInt = 256  # pixels
    eyes_y: Fraction = 0.34  # height of the eye line, from the top, as a share of the side
    eyes_distance: Fraction = 0.28  # between the eye centres, as a share of the side: brows to chin stay in the crop
    quality: int = Field(default=92, ge=1, le=100)  # JPEG


class Flow(Block):
    """TV-L1 optical flow to a later frame, which is aligned as this one is; stored with each frame, 4 times smaller."""

    frames: PositiveInt = 3  # ahead, of those that are kept


class Render(Block):
    """Synthetic faces, rendered into `source.root` in the tree of `source.layout` before they are read."""

    identities: PositiveInt = 24
    videos: PositiveInt = 2  # per identity; in the layout rafdb: images, so that seconds and fps say nothing
    seconds: PositiveFloat = 3.0
    fps: PositiveInt = 25
    size: PositiveInt = 224  # pixels, side of the video
    first_identity: NonNegativeInt = 0  # data sets that must not share people start at different numbers
    seed: NonNegativeInt = 0


class Ingest(Block):
    """What the pipeline asks Ray for."""

    workers: PositiveInt = 2
    cpus_per_worker: PositiveFloat = 1.0
    row_group_mb: Annotated[float, Field(ge=0.1, le=64)] = 8.0
    shard_mb: Annotated[float, Field(ge=1, le=4096)] = 256.0


class Pipeline(Block):
    """One file under pipelines/: raw videos to a data set of face shards."""

    name: Name = ""
    source: Source
    render: Render | None = None
    detector: Detector = Detector()
    crop: Crop = Crop()
    flow: Flow | None = None  # none: not computed; TV-L1 takes 4.5 hours of a core for 10,000 frames of 256 pixels
    output: Url
    ingest: Ingest = Ingest()
