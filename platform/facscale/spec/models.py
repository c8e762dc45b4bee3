"""The schema of a job file: closed, frozen and typed, with units and ranges.

Only the `method:` block is open here: each method declares its own hyper-parameters (`methods/base.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from facscale.spec.block import Block, Conversion
from facscale.spec.deepspeed import DeepSpeed
from facscale.spec.paths import anchor_path
from facscale.spec.safety import Name
from facscale.spec.sweep import Sweep

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]  # with 1, a running mean never forgets its first value
Range = Annotated[tuple[float, float], Field(min_length=2, max_length=2)]
MAX_CROP = 3  # times the side of the face square
Weighting = Literal["class", "au", "none"]  # of labels in a loss, see `data.labels.compute_label_weights`
# Any fsspec URL: s3://bucket/folder, file:///folder, or a plain path.
Url = Annotated[str, AfterValidator(anchor_path)]


def choose_storage() -> str:
    """The folder of checkpoints where a spec names none: FACSCALE_RUNS, else one at home."""
    return anchor_path(os.environ.get("FACSCALE_RUNS", "~/facscale/runs"))


class MethodBlock(Block):
    """The name of a method; the other keys are its hyper-parameters (see `facscale methods`)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str


class Augment(Block):
    """Random augmentation of every training image, sampled and applied on the accelerator."""

    added: ClassVar[frozenset[str]] = frozenset({"shift", "eval_crop", "crop_per"})

    rotation: NonNegativeFloat = 10.0  # degrees, uniform in [-rotation, +rotation]
    flip: Fraction = 0.5  # probability of a left-right mirror image
    brightness: NonNegativeFloat = 0.4  # factor uniform in [1 - x, 1 + x]
    contrast: NonNegativeFloat = 0.4
    saturation: NonNegativeFloat = 0.4
    hue: Fraction = 0.0  # turns of the colour circle, uniform in [-x, +x]
    jitter: Fraction = 1.0  # probability of changing brightness, contrast, saturation and hue at all
    grey: Fraction = 0.0  # probability of a greyscale image
    blur: Fraction = 0.0  # probability of a Gaussian blur, sigma uniform in [0.1, 2] pixels at 224 x 224
    compression: Fraction = 0.0  # probability of JPEG artefacts, quality uniform in [30, 95]
    holes: Fraction = 0.0  # probability of 1 to 8 black squares, sides uniform in [1/32, 1/8] of the image's side
    # Side of the random crop as a share of the face square's side; above 1 it reaches into the margin of the stored crops
    # (`crop.margin` of a pipeline).
    crop: Range = (0.8, 1.0)
    crop_per: Literal["image", "epoch"] = "image"  # draws the side of the crop for each image, or once for an epoch
    # Largest distance of the crop's centre from that of the face square, across and down, as a share of the square's side;
    # null: as far as the crop stays within the square.
    shift: Fraction | None = None
    eval_crop: PositiveFloat | None = None  # side of evaluation's centre crop; null: mean of `crop`, within [0.875, 1]
    aspect: Annotated[float, Field(ge=1, le=4)] = 1.0  # width / height of the crop, log-uniform in [1 / x, x]

    @model_validator(mode="after")
    def _crop_is_a_range(self) -> Augment:
        if not 0 < self.crop[0] <= self.crop[1] <= MAX_CROP:
            raise ValueError(f"crop must be [smallest, largest] within (0, {MAX_CROP}]")
        return self


class EpochBlock(Block):
    """What an epoch is, the unit of `train.epochs`.

    The samples of an identity come from as many of its videos as possible, those of a video from as many of its tracks;
    parts of a track that a gap or the edge of a row group separates are one track. "frame": every frame once, where a
    sample of several frames in a row takes the place of as many.
    """

    samples_per: Literal["identity", "video", "track", "frame"] = "track"
    count: PositiveInt = 1  # samples of each identity, video or track

    @model_validator(mode="after")
    def _check_count(self) -> EpochBlock:
        if self.samples_per == "frame" and self.count > 1:
            raise ValueError("samples_per: frame sees every frame once; write count: 1, and raise train.epochs")
        return self


def update_per_track(per_track: Any) -> Any:
    """Convert `data.per_track` of an earlier release, a number or "all", to `data.epoch`."""
    return {"samples_per": "frame", "count": 1} if per_track == "all" else {"samples_per": "track", "count": per_track}


def restore_per_track(epoch: Any) -> Any:
    """Convert `data.epoch` back where both give the same samples.

    A number of `per_track` counted parts of tracks that row groups separate, so it has no exact counterpart.
    """
    return "all" if isinstance(epoch, Mapping) and epoch.get("samples_per") == "frame" else None


class Data(Block):
    """Which data sets are read, and how."""

    renamed: ClassVar[Mapping[str, str]] = {"mixed": "joint", "per_track": "epoch"}
    added: ClassVar[frozenset[str]] = frozenset({"reader"})
    converted: ClassVar[Mapping[str, Conversion]] = {"epoch": Conversion(update_per_track, restore_per_track)}

    unlabelled: tuple[Url, ...] | Url = ()
    labelled: tuple[Url, ...] | Url = ()
    joint: bool = False  # train on all labelled sets together, fold by fold; else on each set on its own
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the people held out to monitor the loss
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of the unlabelled people held out from all training
    image_size: Annotated[PositiveInt, Field(le=8192)] = 224  # pixels, side of the square input of the network
    epoch: EpochBlock = EpochBlock()
    # The order of samples depends on this, not on the number of workers.
    canonical_streams: Annotated[PositiveInt, Field(le=1_000_000)] = 64
    shuffle_block: PositiveInt = 4  # row groups of a canonical stream that are shuffled together
    threads: Annotated[PositiveInt, Field(le=1024)] = 4  # JPEG decoding threads of each worker
    reader: Literal["threads", "process"] = "threads"  # reading shares the training's process, or has its own (Linux)
    prefetch: Annotated[PositiveInt, Field(le=10_000)] = 4  # batches prepared in advance
    cache: Url = "~/.cache/facscale/shards"  # local folder for row groups of remote data sets
    cache_gb: PositiveFloat = 100.0
    max_bad: Fraction = 0.001  # the run stops at this share of unreadable frames or row groups
    augment: Augment = Augment()

    def urls(self, source: str) -> tuple[str, ...]:
        """The data sets of a source, "unlabelled" or "labelled", as a tuple whether the spec gives one or several."""
        given = self.unlabelled if source == "unlabelled" else self.labelled
        return (given,) if isinstance(given, str) else given


class Optimizer(Block):
    """SGD with momentum, Adam, AdamW, or LARS for very large batches."""

    added: ClassVar[frozenset[str]] = frozenset({"rate_in_velocity"})

    name: Literal["sgd", "adam", "adamw", "lars"] = "sgd"
    lr: PositiveFloat = 0.001
    momentum: Decay = 0.9  # sgd, lars
    betas: tuple[Decay, Decay] = (0.9, 0.999)  # adam, adamw
    weight_decay: NonNegativeFloat = 0.0
    # lars: the velocity sums steps, each with the learning rate of its time, as in LARS' paper and SimCLR's code; else it
    # sums gradients, as torch's SGD does, and a new rate applies to all of it at once.
    rate_in_velocity: bool = False

    @model_validator(mode="after")
    def _check_velocity(self) -> Optimizer:
        if self.rate_in_velocity and self.name != "lars":
            raise ValueError(f"rate_in_velocity is an option of lars; {self.name} has none")
        return self


class ScheduleBlock(Block):
    """Learning rate over the run, as a factor of `optimizer.lr`."""

    name: Literal["constant", "cosine", "step"] = "constant"
    warmup_epochs: NonNegativeFloat = 0.0
    milestones: tuple[PositiveFloat, ...] = ()  # step: epochs at which the rate is multiplied by gamma
    gamma: PositiveFloat = 0.1


class Train(Block):
    """The training loop. Batch sizes are global, over all workers, in samples (a sample of CLP is one clip)."""

    batch_size: PositiveInt = 64
    accumulate: PositiveInt = 1  # micro-batches per optimizer step
    epochs: Annotated[float, Field(ge=0, le=1e9)] = 200.0  # 0: the encoder keeps its initial weights
    optimizer: Optimizer = Optimizer()
    schedule: ScheduleBlock = ScheduleBlock()
    clip: NonNegativeFloat = 0.0  # maximum gradient norm; 0: no clipping
    precision: Literal["float32", "bf16"] = "float32"  # bf16: autocast; weights and momentum stay float32
    sync_batchnorm: bool = False  # BatchNorm statistics over the batches of all workers
    channels_last: bool = True
    compile: bool = False  # torch.compile
    log_every: PositiveInt = 10  # steps
    checkpoint_every: PositiveInt = 500  # steps
    keep_checkpoints: PositiveInt = 2
    probe_every: NonNegativeInt = 1000  # steps between online probes and collapse diagnostics; 0: never
    probe_frames: PositiveInt = 512  # labelled frames of the online probe
    # Steps between validations on the people of data.validation; 0: never. Without such people, a validation only draws
    # sample sheets of training people.
    validate_every: NonNegativeInt = 0
    validation_batches: PositiveInt = 8  # in each validation, always the same ones


class Cluster(Block):
    """The resources that the job requests from Ray, and where it stores checkpoints."""

    renamed: ClassVar[Mapping[str, str]] = {"patience": "collective_timeout_s", "regroup": "resize_interval_s"}

    workers: PositiveInt | Annotated[tuple[PositiveInt, PositiveInt], Field(min_length=2, max_length=2)] = 1
    gpus_per_worker: NonNegativeFloat = 1.0
    cpus_per_worker: PositiveFloat = 4.0
    max_failures: int = Field(default=8, ge=-1)  # restarts after lost workers; -1: no limit
    collective_timeout_s: PositiveInt = 600  # seconds until a collective operation without all workers fails
    resize_interval_s: PositiveFloat = 60.0  # seconds between checks whether an elastic job can get more workers
    autoscaling: bool = False  # the cluster grows on demand: accept a job larger than the current cluster
    storage: Url = Field(default_factory=choose_storage)  # for all nodes
    name: str = ""  # tag in MLflow; "": the host's name

    @model_validator(mode="after")
    def _workers_are_a_range(self) -> Cluster:
        if self.min_workers > self.max_workers:
            raise ValueError(f"workers must be [fewest, most], not [{self.min_workers}, {self.max_workers}]")
        return self

    @property
    def min_workers(self) -> int:
        """The job waits until it has this many workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """The job uses at most this many workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def has_one_worker(self) -> bool:
        """A training of the job needs no Ray Train: several can take turns in one process."""
        return self.max_workers == 1


class Probe(Block):
    """The linear probe: BatchNorm and a linear layer without bias on frozen embeddings. Its optimizer is Adam."""

    added: ClassVar[frozenset[str]] = frozenset({"weighting"})

    epochs: PositiveInt = 30
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 0.01
    weight_decay: NonNegativeFloat = 0.0
    # Weights of labels, also under `protocol: adapted-batchnorm`. "class": positives and negatives of an AU have the same
    # total weight. "au": rare AUs weigh more, their positives and negatives alike. Among expressions, which exclude each
    # other, both are the same.
    weighting: Weighting = "class"


class Adaptation(Block):
    """Training of BatchNorm and a linear probe, with all other layers of the encoder frozen. The optimizer is Adam."""

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 64  # over all workers
    lr: PositiveFloat = 0.001
    weight_decay: NonNegativeFloat = 0.0


class Evaluate(Block):
    """Subject-exclusive cross-validated F1."""

    renamed: ClassVar[Mapping[str, str]] = {"across": "cross_dataset"}
    added: ClassVar[frozenset[str]] = frozenset({"official_split", "adaptation", "detector"})

    # How a pre-trained encoder is tested. "linear-probe": a probe on the frozen encoder. "adapted-batchnorm" (CLP): in each
    # fold, the encoder's BatchNorm layers are trained with the probe; the frozen encoder has a table of its own beside it.
    protocol: Literal["linear-probe", "adapted-batchnorm"] = "linear-probe"
    folds: int = Field(default=3, ge=2)
    # Cross-validations, each with another split of the people; the published split is first.
    repeats: Annotated[PositiveInt, Field(le=1000)] = 1
    # true: a data set that is stored with its authors' split (Aff-Wild2, GFT) has this as its only fold; false: `folds`
    official_split: bool = True
    threshold: Fraction = 0.5
    seed: NonNegativeInt = 0  # of the split, for data sets without published folds
    transfer: tuple[Url, ...] = ()  # labelled sets on which the model of each fold is tested too, and never trained
    # Cross-dataset evaluation. "pairs": train on each labelled set, test on every one. "leave-one-out": train on all
    # sets but one together, test on that one.
    cross_dataset: Literal["", "pairs", "leave-one-out"] = ""
    expressions: tuple[
        Url, ...
    ] = ()  # sets of facial expressions, for a probe on the frozen encoder by their own split
    subjects: NonNegativeInt = 0  # number of people of each fold's training part to train on; 0: all
    # The detector that each row leaves behind. "all": it learns from all labelled people; a method with a head of its own is
    # trained once more for that. "folds": the models of the folds, whose logits are averaged. "auto": all for probes on a
    # frozen encoder, folds for methods with heads of their own, neither of which takes a further training. "none": there is
    # none.
    detector: Literal["auto", "all", "folds", "none"] = "auto"
    probe: Probe = Probe()
    adaptation: Adaptation = Adaptation()  # of protocol: adapted-batchnorm
    rendered_people: NonNegativeInt = 40  # rendered with known ground truth, to measure disentanglement; 0: none
    map_frames: NonNegativeInt = 1000  # test frames in the t-SNE map of the embedding, by AU and person; 0: no map
    attention_faces: NonNegativeInt = 6  # test faces in the figure of attention maps; 0: no figure
    pairs: NonNegativeInt = 6400  # frame pairs whose movement is measured, for methods that predict motion; 0: none
    baselines: dict[Name, dict[str, Any] | None] = {}  # further rows of the tables: patches over this spec; null: none


class Track(Block):
    """MLflow tracking. Without `uri`, MLFLOW_TRACKING_URI is used, and without that a SQLite file beside the runs."""

    uri: str = ""
    experiment: str = ""  # "": the name of the first labelled data set
    tags: dict[str, str] = {}


class Input(Block):
    """A trained method as an input of another: an earlier stage of the same job, an exported file or public weights."""

    stage: str = ""
    url: Url = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{8,64})?$")] = ""  # of the file at `url`, or its first digits

    @model_validator(mode="after")
    def _check_source(self) -> Input:
        if bool(self.stage) == bool(self.url) or bool(self.url) != bool(self.sha256):
            raise ValueError("write either {stage: NAME} or {url: FILE, sha256: CHECKSUM}")
        return self


class Job(Block):
    """A file under jobs/: pre-train (or train in each fold), evaluate, compare."""

    name: Name = ""  # "": the file's name
    seed: NonNegativeInt = 0
    seeds: Annotated[PositiveInt, Field(le=1000)] = (
        1  # trainings of every row, with seed, seed + 1, ...; tables show mean and spread
    )
    method: MethodBlock
    stages: dict[Name, dict[str, Any]] = {}  # trained first, in this order: patches over this spec
    inputs: dict[str, Input | None] = {}  # trained methods that the method takes, by parameter; null: none
    start: Input | None = None  # initial weights: those of an earlier training that fit by name and shape
    data: Data = Data()
    train: Train = Train()
    cluster: Cluster = Field(default_factory=Cluster)
    deepspeed: DeepSpeed = DeepSpeed()  # passed to DeepSpeed as it is written
    evaluate: Evaluate = Evaluate()
    sweep: Sweep | None = None
    track: Track = Track()

    @model_validator(mode="after")
    def _check_consistency(self) -> Job:
        if self.evaluate.cross_dataset and (
            self.data.joint or len(self.data.labelled) < 2 or isinstance(self.data.labelled, str)
        ):
            raise ValueError(
                f"evaluate.cross_dataset={self.evaluate.cross_dataset} trains on some sets of data.labelled and tests on "
                "others: give two or more sets there, and leave out data.joint"
            )
        if self.sweep and self.sweep.search == "pbt" and self.train.keep_checkpoints < 2:
            raise ValueError(
                "sweep.search=pbt has trials resume from other trials' earlier checkpoints: train.keep_checkpoints must be "
                "2 or more"
            )
        batch_size, cluster = self.evaluate.adaptation.batch_size, self.cluster
        uneven = [count for count in range(cluster.min_workers, cluster.max_workers + 1) if batch_size % count]
        if uneven and self.evaluate.protocol == "adapted-batchnorm":
            raise ValueError(
                f"{uneven[0]} workers cannot share evaluate.adaptation.batch_size={batch_size} evenly; make it a multiple "
                "of every number of workers that cluster.workers allows"
            )
        for place, source in self.dependencies.items():
            if source.stage and source.stage not in self.stages:
                raise ValueError(f'{place} names the stage "{source.stage}", which is not under stages, or comes later')
        return self

    @property
    def dependencies(self) -> dict[str, Input]:
        """All trained methods that the job takes, by their key in the spec ("inputs.fan", "start")."""
        sources = {f"inputs.{name}": source for name, source in self.inputs.items()} | {"start": self.start}
        return {place: source for place, source in sources.items() if source is not None}
