"""Detectors of AUs: what a judged row of a job leaves behind, as one safetensors file.

A detector maps aligned faces to calibrated probabilities, and knows how a face is aligned and cropped for it, from which
probability on it decides for an AU, and on whom and how well it was tested (its card). Its networks are one method with a
head of its own, one encoder with a linear probe, or several of them (the models of the folds), whose logits are averaged.

The file holds the weights, and under one key of its metadata a recipe as text from which the networks are built. Nothing
in it is code, so that a file from an untrusted source can do no harm; equal detectors give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NamedTuple, NotRequired, cast

import numpy as np
import safetensors.torch
import torch
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from typing_extensions import TypedDict

from facscale.data.views import Batch, Faces, View
from facscale.inference.eval_crop import EvalCrop
from facscale.inference.export import MAX_REASON, Recipe, limit_size, read_safetensors
from facscale.inference.models import FrameEncoder
from facscale.methods import Method
from facscale.nn.calibration import Calibration
from facscale.nn.heads import LinearProbe, to_intensities
from facscale.spec import SpecError
from facscale.spec.block import Block
from facscale.spec.models import Augment
from facscale.spec.pipelines import Crop, DetectorBlock

FORMAT = "1"
METADATA_KEY = "facscale.detector"
MAX_MEMBERS, MAX_PROBES, MAX_KNOTS = 64, 256, 1024
STORED_COLUMNS = {"landmarks"}  # that a face has outside of data sets
WEIGHTS_FILE = "detector.safetensors"  # in the artifacts of a run and in folders


class DetectorError(SpecError):
    """A file is no detector, or faces are not those that a detector reads."""


class Preprocessing(Block):
    """How a face becomes the input of a detector: as the data that it learned from was made, and as it was tested."""

    detector: DetectorBlock = DetectorBlock()  # of faces, with its options; "none": images are crops already
    crop: Crop = Crop()  # the stored face, [S, S] with S = crop.stored_size
    is_known: bool = True  # False: the data was cropped by others, so that faces cannot be cropped in the same way
    eval_crop: PositiveFloat = 0.9  # side of the centre crop that the networks see, in sides of the face square
    image_size: PositiveInt = 224  # pixels, side of the networks' input
    fps: NonNegativeFloat = 0.0  # frames a second of the data, for samples of several frames; 0: single images

    @property
    def share(self) -> float:
        """Side of the centre crop as a share of the stored face's side."""
        return self.eval_crop / (1 + 2 * self.crop.margin)

    def make_augment(self) -> Augment:
        """Make the settings whose evaluation shows this centre crop (`augment.eval_params`)."""
        return Augment(eval_crop=self.eval_crop)


@dataclass(frozen=True)
class MemberRecipe:
    """Plain values from which one network of a detector is built, without its weights."""

    method: Recipe
    probes: Annotated[int, Field(ge=0, le=MAX_PROBES)] = 0  # on the frozen encoder, averaged; 0: the method's own head
    intensity_probes: Annotated[int, Field(ge=0, le=MAX_PROBES)] = 0

    def build(self, *, aus: int) -> Member:
        """Build the network, freshly initialised, for `aus` AUs."""
        method = self.method.build()
        if not self.probes:
            return SupervisedMember(method)
        dim = method.encoder.dim
        probes = [LinearProbe(dim=dim, aus=aus) for _ in range(self.probes)]
        intensity_probes = [LinearProbe(dim=dim, aus=aus) for _ in range(self.intensity_probes)]
        return ProbedMember(method, probes, intensity_probes)


class CardInterval(TypedDict):
    """A value with its 95 % interval; None where it is undefined."""

    value: float | None
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class LearnedData(TypedDict):
    """A data set that a detector has learned from."""

    name: str
    fingerprint: NotRequired[str]
    people: int
    frames: int  # labelled ones
    licence: str
    consent: str


class AUCalibrationCard(TypedDict, total=False):
    """How the probability of one AU was calibrated, and on how much."""

    kind: str
    threshold: float
    ece_before: float | None
    ece_after: float | None
    log_loss_before: float | None
    log_loss_after: float | None
    frames: int
    positives: int
    people: int


class DetectorCard(TypedDict, total=False):
    """What a detector has learned from, and how well it did on people whom it had not seen. More keys are kept."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    name: str
    row: str
    method: str
    seed: int
    protocol: str
    learned: str
    data: list[LearnedData]
    people: list[str]  # hashes
    f1: dict[str, CardInterval]  # by "AU1", ...
    mean_f1: CardInterval
    f1_about: str
    tables: dict[str, float | None]
    calibration: dict[str, AUCalibrationCard]
    intensity: dict[str, dict[str, dict[str, CardInterval]]]  # by table, measure and AU
    intended_use: str
    versions: dict[str, str]


@dataclass(frozen=True)
class DetectorRecipe:
    """Plain values from which a detector is built, without its weights."""

    members: Annotated[tuple[MemberRecipe, ...], Field(min_length=1, max_length=MAX_MEMBERS)]
    aus: Annotated[tuple[Annotated[int, Field(gt=0, lt=1000)], ...], Field(min_length=1, max_length=200)]
    intensity_aus: tuple[int, ...]
    knots: Annotated[int, Field(ge=2, le=MAX_KNOTS)]
    preprocessing: Preprocessing
    card: DetectorCard = field(default_factory=DetectorCard)
    format: str = FORMAT


class Estimate(NamedTuple):
    """What a detector says of B samples."""

    probability: Tensor  # [B, n] in [0, 1], calibrated
    intensity: Tensor | None  # [B, m] from 0 to 5, for `intensity_aus`; None where there are none


class MemberOutput(NamedTuple):
    """What one network says of B samples."""

    logits: Tensor  # [B, n]
    intensities: Tensor | None  # [B, n] from 0 to 5


class Member(nn.Module):
    """One network of a detector: a batch with `views` -> `MemberOutput`."""

    views: Mapping[str, View]  # of a sample that starts at the frame
    recipe: MemberRecipe
    has_intensities: bool

    def forward(self, batch: Batch) -> MemberOutput:
        """Compute logits [B, n], and intensities [B, n] where there are any."""
        raise NotImplementedError


class SupervisedMember(Member):
    """A method that has learned AUs itself."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method, self.recipe = method, MemberRecipe(method.recipe)
        self.views = method.eval_views(method.config)
        self.has_intensities = method.predicts_intensities(method.config)

    def forward(self, batch: Batch) -> MemberOutput:
        intensities = self.method.predict_intensities(batch) if self.has_intensities else None
        return MemberOutput(self.method.predict(batch), intensities)


class ProbedMember(Member):
    """The encoder of a method with linear probes on it, whose logits are averaged; and probes for intensities."""

    def __init__(
        self, method: Method, probes: Sequence[LinearProbe], intensity_probes: Sequence[LinearProbe] = ()
    ) -> None:
        super().__init__()
        self.face = FrameEncoder(method.encoder)
        self.probes, self.intensity_probes = nn.ModuleList(probes), nn.ModuleList(intensity_probes)
        self.recipe = MemberRecipe(method.recipe, len(probes), len(intensity_probes))
        self.views, self.has_intensities = self.face.views, bool(intensity_probes)

    def forward(self, batch: Batch) -> MemberOutput:
        features = self.face(batch).float()
        logits = torch.stack([probe(features) for probe in self.probes]).mean(0)
        if not self.has_intensities:
            return MemberOutput(logits, None)
        intensities = [to_intensities(probe(features)) for probe in self.intensity_probes]
        return MemberOutput(logits, torch.stack(intensities).mean(0))


class Detector(nn.Module):
    """Aligned faces -> calibrated probabilities of n AUs.

    aus: the n AU numbers; thresholds [n] float32: an AU is present from this probability on; preprocessing: how faces are
    made; card: plain values that say what the detector has learned from and how well it did; intensity_aus: the m AUs
    whose intensities are estimated too.
    """

    thresholds: Tensor

    def __init__(
        self,
        members: Sequence[Member],
        *,
        aus: Sequence[int],
        preprocessing: Preprocessing,
        thresholds: Tensor | None = None,
        calibration: Calibration | None = None,
        intensity_aus: Sequence[int] = (),
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """thresholds: by default 0.5; calibration: by default the sigmoid.

        Raises ValueError for members with different views, or that need what a face outside of data sets lacks.
        """
        super().__init__()
        self.members, self.aus = nn.ModuleList(members), tuple(aus)
        self.preprocessing, self.card = preprocessing, dict(card or {})
        self.calibration = calibration or Calibration(aus=len(self.aus))
        has_intensities = all(member.has_intensities for member in members)
        self.intensity_aus = tuple(intensity_aus) if has_intensities else ()
        if not set(self.intensity_aus) <= set(self.aus) or len(set(self.aus)) < len(self.aus):
            raise ValueError(f"the AUs {self.aus} are not unique, or lack some of {self.intensity_aus}")
        self.views = members[0].views
        if any(member.views != self.views for member in members):
            raise ValueError("the networks of a detector need the same samples")
        if missing := {column for view in self.views.values() for column in view.columns} - STORED_COLUMNS:
            raise ValueError(f"it needs {', '.join(sorted(missing))} of each frame, which only data sets have")
        values = torch.full((len(self.aus),), 0.5) if thresholds is None else thresholds
        self.register_buffer("thresholds", values.to(torch.float32))
        size = preprocessing.image_size
        self.crop = EvalCrop(stored=preprocessing.crop.stored_size, share=preprocessing.share, size=size)
        self.eval()

    @property
    def recipes(self) -> tuple[MemberRecipe, ...]:
        """What its networks are built from."""
        return tuple(member.recipe for member in self.members)  # type: ignore[misc]

    @property
    def frames_per_sample(self) -> int:
        """The number of frames, a face's own and its neighbours, from which one frame's AUs are estimated."""
        return max(view.count for view in self.views.values())

    @property
    def needs_landmarks(self) -> bool:
        """Whether the networks read landmarks beside the image."""
        return any("landmarks" in view.columns for view in self.views.values())

    def forward(self, faces: Tensor) -> Tensor:
        """Faces [N, 3, S, S], 0 to 255, S = preprocessing.crop.stored_size -> calibrated probabilities [N, n].

        Each face stands for itself: in place of neighbours in time it is repeated, and its landmarks are unknown.
        """
        return self.estimate(self.make_batch(faces)).probability

    def make_batch(self, faces: Tensor) -> Batch:
        """Make the samples of faces that stand for themselves, as in `forward`."""
        images, count = self.crop(faces)[:, None, None], len(faces)
        batch = Batch()
        for name, view in self.views.items():
            batch[name] = Faces(
                images=images.expand(-1, view.count, -1, -1, -1, -1),
                identity=torch.zeros(count, dtype=torch.int64, device=faces.device),
                augmentation=torch.zeros(count, view.count, 1, 1, device=faces.device),
                columns={
                    column: torch.full((count, view.count, 1, 68, 2), torch.nan, device=faces.device)
                    for column in view.columns
                },
            )
        return batch

    def estimate(self, batch: Batch) -> Estimate:
        """Estimate the AUs of samples with `views`, as `augment.Augmenter` gives them."""
        outputs = [member(batch) for member in self.members]
        logits = torch.stack([output.logits.float() for output in outputs]).mean(0)
        intensity = None
        if self.intensity_aus:
            columns = [self.aus.index(au) for au in self.intensity_aus]
            intensities = [output.intensities.float() for output in outputs if output.intensities is not None]
            intensity = torch.stack(intensities).mean(0)[:, columns]
        return Estimate(self.calibration(logits), intensity)


def scale_pixels(images: np.ndarray) -> np.ndarray:
    """Return images with values from 0 to 255, whether they are integers, floats from 0 to 255 or floats from 0 to 1.

    Floats of which none is above 1 are taken to be from 0 to 1. Raises DetectorError for other values.
    """
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.number) or np.iscomplexobj(images):
        raise DetectorError(f"images of {images.dtype} are no numbers; give uint8 from 0 to 255")
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    if not (low >= 0 and high <= 255):  # nan too
        raise DetectorError(
            f"images have values from {low:g} to {high:g}; give 0 to 255, or floats from 0 to 1, and no normalised ones"
        )
    is_unit = np.issubdtype(images.dtype, np.floating) and high <= 1
    return images.astype(np.float32) * (255 if is_unit else 1)


def save_detector(detector: Detector) -> bytes:
    """Serialise a detector as safetensors; equal detectors give equal bytes."""
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in detector.state_dict().items()}
    recipe = DetectorRecipe(
        members=detector.recipes,
        aus=detector.aus,
        intensity_aus=detector.intensity_aus,
        knots=detector.calibration.knots.shape[1],
        preprocessing=detector.preprocessing,
        card=cast("DetectorCard", detector.card),
    )
    plain = {**asdict(recipe), "preprocessing": detector.preprocessing.model_dump(mode="json")}
    return safetensors.torch.save(weights, {METADATA_KEY: json.dumps(plain, sort_keys=True)})


def load_detector_bytes(data: bytes, *, source: str = "the detector") -> Detector:
    """Load what `save_detector` wrote, in eval mode.

    Raises DetectorError, which names `source`, for anything else, and for a file of another version of facscale.
    """
    try:
        weights, metadata = read_safetensors(data)
    except SafetensorError as error:
        raise DetectorError(f"{source}: not a detector (a safetensors file is expected): {error}") from None
    text = metadata.get(METADATA_KEY)
    if text is None:
        is_export = "facscale" in metadata
        what = "an exported method without calibrated thresholds" if is_export else "a file of weights alone"
        raise DetectorError(
            f"{source}: {what}, not a detector of AUs; a job leaves its detectors as {WEIGHTS_FILE}, and registers them as "
            "facscale-DATA-METHOD"
        )
    version = _read_format(text)
    if version != FORMAT:
        raise DetectorError(
            f"{source}: written in format {version or 'unknown'} by another version of facscale; this one reads {FORMAT}"
        )
    try:
        recipe = TypeAdapter(DetectorRecipe).validate_json(text)
        with limit_size(data):
            detector = Detector(
                [member.build(aus=len(recipe.aus)) for member in recipe.members],
                aus=recipe.aus,
                preprocessing=recipe.preprocessing,
                calibration=Calibration(aus=len(recipe.aus), knots=recipe.knots),
                intensity_aus=recipe.intensity_aus,
                card=recipe.card,
            )
        detector.load_state_dict(weights)
    except Exception as error:  # noqa: BLE001 - values that no job wrote can fail anywhere in a method
        reason = explain_fault(error)
        raise DetectorError(f"{source}: its recipe does not fit this version of facscale: {reason}") from None
    return detector.requires_grad_(False).eval()


def _read_format(text: str) -> str:
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return str(recipe.get("format", ""))[:20] if isinstance(recipe, dict) else ""


def explain_fault(error: Exception) -> str:
    """What is wrong with the values of a detector's file, in a line; of several faults the first, with its place."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:MAX_REASON]
    return " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
