"""What a job file may say: closed, frozen, typed, with units and ranges.

The `method:` block is the one part that this room does not know: a method owns its hyper-parameters
(`methods/base.py`), so here it is a name and whatever else stands in the block.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from facscale.spec.block import Block
from facscale.spec.deepspeed import refuse_reserved
from facscale.spec.safety import Name
from facscale.spec.sweep import Sweep

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Range = Annotated[tuple[float, float], Field(min_length=2, max_length=2)]
Url = str  # any fsspec URL: s3://bucket/folder, file:///folder, or a plain path


class Method(Block):
    """Names a method; its other keys are that method's own (see `facscale methods`)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str


class Augment(Block):
    """Random changes to every training image, drawn and applied on the accelerator."""

    rotation: NonNegativeFloat = 10.0  # degrees, uniform in [-rotation, +rotation]
    flip: Fraction = 0.5  # probability of a left-right mirror image
    brightness: NonNegativeFloat = 0.4  # factor uniform in [1 - x, 1 + x]
    contrast: NonNegativeFloat = 0.4
    saturation: NonNegativeFloat = 0.4
    hue: Fraction = 0.0  # turns of the colour circle, uniform in [-x, +x]
    jitter: Fraction = 1.0  # probability that brightness, contrast, saturation and hue change at all
    grey: Fraction = 0.0  # probability that all colour goes
    blur: Fraction = 0.0  # probability of a Gaussian blur, sigma uniform in [0.1, 2] pixels of 224
    compression: Fraction = 0.0  # probability of JPEG artefacts, quality uniform in [30, 95]
    holes: Fraction = 0.0  # probability of 1 to 8 black squares, sides uniform in [1/32, 1/8] of the image's
    crop: Range = (0.8, 1.0)  # side of the random crop as a share of the image's side
    aspect: Annotated[float, Field(ge=1, le=4)] = 1.0  # width / height of the crop, log-uniform in [1 / x, x]

    @model_validator(mode="after")
    def _crop_is_a_range(self) -> Augment:
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ValueError("crop must be [smallest, largest] within (0, 1]")
        return self


class Data(Block):
    """Which shards are read, and how."""

    unlabelled: tuple[Url, ...] | Url = ()
    labelled: tuple[Url, ...] | Url = ()
    mixed: bool = False  # the labelled sets are learned from together, each fold of all at once; else each on its own
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the people whose loss is only watched
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the unlabelled people that no training looks at
    image_size: PositiveInt = 224  # pixels, side of the network's square input
    per_track: PositiveInt | Literal["all"] = 1  # samples an epoch takes from each track; "all": those that fit in it
    canonical_streams: PositiveInt = 64  # the order of samples depends on this, never on the number of workers
    shuffle_block: PositiveInt = 4  # row groups of a canonical stream that are shuffled together
    threads: PositiveInt = 4  # JPEG decoding threads of each worker
    prefetch: PositiveInt = 4  # batches prepared ahead
    cache: Url = "~/.cache/facscale/shards"  # local folder for row groups of remote data sets
    cache_gb: PositiveFloat = 100.0
    max_bad: Fraction = 0.001  # share of unreadable frames or row groups at which the run stops
    augment: Augment = Augment()


class Optimizer(Block):
    """SGD with momentum, Adam, AdamW, or LARS for very large batches."""

    name: Literal["sgd", "adam", "adamw", "lars"] = "sgd"
    lr: PositiveFloat = 0.001
    momentum: Fraction = 0.9  # sgd, lars
    betas: Range = (0.9, 0.999)  # adam, adamw
    weight_decay: NonNegativeFloat = 0.0


class Schedule(Block):
    """Learning rate over the run, as a factor of `optimizer.lr`."""

    name: Literal["constant", "cosine", "step"] = "constant"
    warmup_epochs: NonNegativeFloat = 0.0
    milestones: tuple[PositiveFloat, ...] = ()  # step: epochs at which the rate is multiplied by gamma
    gamma: PositiveFloat = 0.1


class Train(Block):
    """The training loop. A batch is the global one, over all workers, in samples (a CLP sample is one clip)."""

    batch_size: PositiveInt = 64
    accumulate: PositiveInt = 1  # micro-batches per optimizer step
    epochs: NonNegativeFloat = 200.0  # 0: the encoder stays as it was initialised
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    clip: NonNegativeFloat = 0.0  # largest gradient norm; 0: never clip
    precision: Literal["float32", "bf16"] = "float32"  # bf16: autocast; weights and momentum stay float32
    sync_batchnorm: bool = False  # BatchNorm over the batches of all workers together
    channels_last: bool = True
    compile: bool = False  # torch.compile
    log_every: PositiveInt = 10  # steps
    checkpoint_every: PositiveInt = 500  # steps
    keep_checkpoints: PositiveInt = 2
    probe_every: NonNegativeInt = 1000  # steps between online probes and collapse diagnostics; 0: never
    probe_frames: PositiveInt = 512  # labelled frames of the online probe
    validate_every: NonNegativeInt = 0  # steps between looks at the people of data.validation (without any: at sheets
    # of pictures of the others alone); 0: never
    validation_batches: PositiveInt = 8  # at each look, the same ones


class Cluster(Block):
    """What the job asks Ray for, and where it keeps its state (`storage`: checkpoints)."""

    workers: PositiveInt | Annotated[tuple[PositiveInt, PositiveInt], Field(min_length=2, max_length=2)] = 1
    gpus_per_worker: NonNegativeFloat = 1.0
    cpus_per_worker: PositiveFloat = 4.0
    max_failures: int = Field(default=8, ge=-1)  # restarts after lost workers; -1: without end
    patience: PositiveInt = 600  # seconds that a worker waits for the others in one operation; then it has failed
    regroup: PositiveFloat = 60.0  # seconds between two looks whether an elastic job could have more workers
    autoscaling: bool = False  # the cluster grows on demand: do not refuse a job larger than what stands now
    storage: Url = Field(default_factory=lambda: os.environ.get("FACSCALE_RUNS", "~/facscale/runs"))  # for all nodes
    name: str = ""  # tag in MLflow; "" takes the host's name

    @property
    def fewest_workers(self) -> int:
        """With fewer, the job waits."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """More would not be used."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


class Probe(Block):
    """BatchNorm and a bias-free linear layer on frozen embeddings."""

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 0.01
    weight_decay: NonNegativeFloat = 0.0


class Evaluate(Block):
    """Subject-exclusive cross-validated F1."""

    protocol: Literal["linear-probe", "adapted-batchnorm"] = "linear-probe"
    folds: int = Field(default=3, ge=2)
    repeats: PositiveInt = 1  # cross-validations, each with another split of the people; the published one comes first
    threshold: Fraction = 0.5
    seed: NonNegativeInt = 0  # of the split, where a data set has no published folds
    transfer: tuple[Url, ...] = ()  # labelled sets that nothing learns from: what each fold learned is tested there too
    across: Literal["", "pairs", "leave-one-out"] = ""  # labelled sets as test sets of each other: each is learned from
    # and tested on every one; or all others are learned from together, and the one left out is tested
    expressions: tuple[Url, ...] = ()  # sets of facial expressions: a probe on the frozen encoder, by their own split
    subjects: NonNegativeInt = 0  # people of each fold's training part that are learned from; 0: all of them
    probe: Probe = Probe()
    rendered_people: NonNegativeInt = 40  # rendered with known truth, to measure disentanglement; 0: none
    map_frames: NonNegativeInt = 1000  # test frames in the picture of the embedding (t-SNE, by AU and person); 0: none
    attention_faces: NonNegativeInt = 6  # test faces in the picture of where the network looks; 0: none
    pairs: NonNegativeInt = 6400  # of frames, whose movements are measured where a method tells some; 0: none
    baselines: dict[Name, dict[str, Any] | None] = {}  # further rows: patches over this very spec; null: none


class Track(Block):
    """MLflow. Without a `uri`, MLFLOW_TRACKING_URI; without that, a SQLite file beside the runs."""

    uri: str = ""
    experiment: str = ""  # "" takes the first labelled data set's name
    tags: dict[str, str] = {}


class Input(Block):
    """A trained method that another one builds on: an earlier stage of the same job, an exported file, public weights."""

    stage: str = ""
    url: Url = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{8,64})?$")] = ""  # of the file at `url`, or how it begins

    @model_validator(mode="after")
    def _from_one_place(self) -> Input:
        if bool(self.stage) == bool(self.url) or bool(self.url) != bool(self.sha256):
            raise ValueError("write either {stage: NAME} or {url: FILE, sha256: CHECKSUM}")
        return self


class Job(Block):
    """One file under jobs/: pre-train (or train per fold), evaluate, compare."""

    name: Name = ""  # "" takes the file's name
    seed: NonNegativeInt = 0
    seeds: PositiveInt = 1  # trainings of every row, with seed, seed + 1, ...: the tables show their mean and spread
    method: Method
    stages: dict[Name, dict[str, Any]] = {}  # trained first, in this order: each a patch over this very spec
    inputs: dict[str, Input | None] = {}  # what the method's constructor takes beyond its hyper-parameters; null: none
    start: Input | None = None  # the same method, trained before: weights that fit by name and shape are begun with
    data: Data = Data()
    train: Train = Train()
    cluster: Cluster = Field(default_factory=Cluster)
    deepspeed: dict[str, Any] = {}  # passed on verbatim
    evaluate: Evaluate = Evaluate()
    sweep: Sweep | None = None
    track: Track = Track()

    @model_validator(mode="after")
    def _one_way_to_say_each_thing(self) -> Job:
        refuse_reserved(self.deepspeed)
        if self.evaluate.across and (
            self.data.mixed or len(self.data.labelled) < 2 or isinstance(self.data.labelled, str)
        ):
            raise ValueError(
                f"evaluate.across={self.evaluate.across} learns from some of data.labelled and tests on others: name two "
                "sets or more there, without data.mixed"
            )
        for name, source in self.built_on.items():
            if source.stage and source.stage not in self.stages:
                raise ValueError(f'{name} names the stage "{source.stage}", which is not under stages, or comes later')
        return self

    @property
    def built_on(self) -> dict[str, Input]:
        """All trained methods that it takes, by where they are written."""
        given = {f"inputs.{name}": source for name, source in self.inputs.items()} | {"start": self.start}
        return {place: source for place, source in given.items() if source is not None}
