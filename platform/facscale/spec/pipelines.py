"""The schema of a pipeline file, which turns raw videos or images into a data set of face shards."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from facscale.spec.block import Block
from facscale.spec.models import MAX_CROP, Fraction, Url
from facscale.spec.safety import Name

MAX_MARGIN = (MAX_CROP - 1) / 2  # enough for every `data.augment.crop`


class Source(Block):
    """Raw videos or images in the folder layout of a public data set. Further keys are options of the layout."""

    model_config = ConfigDict(extra="allow", frozen=True)
    layout: str
    root: Url
    every: PositiveInt = 1  # keep each n-th frame
    parts: tuple[str, ...] = ()  # of the published split (train, validation, test); empty: all
    include: tuple[str, ...] = ()  # identities, patterns such as id100*, or @URL of a file with one on each line
    exclude: tuple[str, ...] = ()  # likewise; empty: nobody is left out
    identities: NonNegativeInt = 0  # maximum number of people, chosen evenly; 0: all
    videos_per_identity: NonNegativeInt = 0  # maximum, chosen evenly, with all utterances of a video; 0: all
    clips_per_video: NonNegativeInt = 0  # maximum number of files of a video, such as VoxCeleb's utterances; 0: all
    limit: NonNegativeInt = 0  # maximum number of videos in the order of names, or of images of each part; 0: all
    labels: bool = True  # false: read no action units, also where there are label files
    aus: tuple[PositiveInt, ...] = ()  # action units to keep (those of the protocol); empty: all that are coded
    expressions: tuple[str, ...] = ()  # classes to keep, in the order of the tables; empty: all of the layout
    licence: str = ""  # of the material, in free words; stored with the data set
    consent: str = ""  # what the people on it have agreed to, in free words; stored with the data set


class DetectorBlock(Block):
    """The name of a face detector; the other keys are its options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "mediapipe"


class Crop(Block):
    """The aligned face: a similarity transform moves the eyes to fixed points of a square, the face square.

    A `margin` is stored around it for augmentation that shows more than the square (`data.augment.crop` above 1).
    """

    size: PositiveInt = 256  # pixels, side of the face square
    margin: Annotated[float, Field(ge=0, le=MAX_MARGIN)] = 0.0  # on each side, as a share of the square's side
    eyes_y: Fraction = 0.34  # height of the eye line, from the top, as a share of the side
    eyes_distance: Fraction = 0.28  # between the eye centres, as a share of the side; the crop spans brows to chin
    quality: int = Field(default=92, ge=1, le=100)  # JPEG

    @property
    def stored_size(self) -> int:
        """Side of the stored image in pixels: the face square with its margins."""
        return round(self.size * (1 + 2 * self.margin))


class FlowBlock(Block):
    """TV-L1 optical flow to a later frame under the same alignment; stored with each frame at a quarter of its size."""

    frames: PositiveInt = 3  # distance, in kept frames


class RecognitionBlock(Block):
    """A check that all faces of a video are the same person; those of others are left out. dlib's network, on the CPU."""

    every_s: PositiveFloat = 2.0  # between two recognitions within a track; its first and last face are always compared
    max_distance: PositiveFloat = 0.6  # between two faces of a person; 0.6 is dlib's own for its network


class Render(Block):
    """Synthetic faces, rendered into `source.root` in the tree of `source.layout` before they are read."""

    identities: PositiveInt = 24
    videos: PositiveInt = 2  # per identity; in the layout rafdb: images, where seconds and fps have no effect
    seconds: PositiveFloat = 3.0
    fps: PositiveInt = 25
    size: PositiveInt = 224  # pixels, side of the video
    first_identity: NonNegativeInt = 0  # give data sets that must not share people different first numbers
    seed: NonNegativeInt = 0


class Ingest(Block):
    """The resources that the pipeline requests from Ray, and the sizes of its output."""

    workers: PositiveInt = 2
    cpus_per_worker: PositiveFloat = 1.0
    row_group_mb: Annotated[float, Field(ge=0.1, le=64)] = 8.0
    shard_mb: Annotated[float, Field(ge=1, le=4096)] = 256.0


class Pipeline(Block):
    """A file under pipelines/: from raw videos or images to a data set of face shards."""

    name: Name = ""
    source: Source
    render: Render | None = None
    detector: DetectorBlock = DetectorBlock()
    crop: Crop = Crop()
    recognition: RecognitionBlock | None = None  # null: not checked; each face that is compared takes 0.1 s
    flow: FlowBlock | None = None  # null: not computed; TV-L1 takes 4.5 core hours for 10,000 frames of 256 pixels
    output: Url
    ingest: Ingest = Ingest()
