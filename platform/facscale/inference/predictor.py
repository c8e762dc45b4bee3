"""AUs of videos, images and frames: decode, follow the faces, crop them as a detector's data were, and run it in batches.

Everything is a stream, so that memory does not grow with the length of a video. Decoding and face detection run in a thread
of their own, cropping in another one, beside the networks.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from pydantic import ValidationError

from facscale.data import Dataset, augment, pixels
from facscale.data.augment import Augmenter
from facscale.data.rows import to_numpy
from facscale.data.tracks import Track, TrackKey, iterate_tracks
from facscale.data.views import Batch, View
from facscale.inference.detector import Detector, DetectorError, Estimate, explain_fault, scale_pixels
from facscale.inference.face_tracks import FaceFrame, FaceSetTracker, RunKey
from facscale.inference.head_pose import estimate_head_pose
from facscale.inference.models import stack_samples
from facscale.ingest import detectors
from facscale.ingest.crops import RADIUS, align_face
from facscale.ingest.detectors.base import Box
from facscale.ingest.frames import Frame
from facscale.ingest.quality import MAX_DISAGREEMENT
from facscale.spec.pipelines import Crop

BATCH_SIZE = 64
PICTURES_AHEAD = 4  # frames that wait with their picture, to be cropped
AHEAD = 4  # frames that are cropped in advance, beside those that a batch needs
Item = TypeVar("Item")


class FaceResult(NamedTuple):
    """What is said of one face in one frame."""

    face: int  # the same over a video
    confidence: float  # 0 to 1, see `rate_landmarks`; nan where the detector of faces has no landmarks
    box: Box
    pose: np.ndarray  # (pitch, yaw, roll) [3] in degrees, see `estimate_head_pose`
    points: np.ndarray  # [68, 2] in pixels of the frame
    probability: np.ndarray  # [n] float32
    intensity: np.ndarray | None  # [m] float32, 0 to 5


class FrameResult(NamedTuple):
    """What is said of one frame."""

    number: int
    time_s: float
    faces: tuple[FaceResult, ...]  # by number; empty: there is no face


class CroppedFace(NamedTuple):
    """A face as a detector reads it, and where it was."""

    image: np.ndarray  # [S, S, 3] uint8
    points: np.ndarray  # [68, 2] float32 in pixels of `image`
    box: Box
    frame_points: np.ndarray  # [68, 2] in pixels of the frame
    pose: np.ndarray  # [3]
    confidence: float


@dataclass(frozen=True)
class CroppedFrame:
    """The faces of a frame, without its picture."""

    number: int
    time_s: float
    faces: Mapping[RunKey, CroppedFace]


class Predictor:
    """Applies a detector to streams of frames. `device`: "cuda", "cpu", ...; "": a GPU where there is one."""

    def __init__(self, detector: Detector, *, batch_size: int = BATCH_SIZE, device: str = "") -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.detector, self.batch_size = detector.to(self.device).eval(), batch_size
        preprocessing = detector.preprocessing
        self._prepare = Augmenter(size=preprocessing.image_size)
        parameters = augment.eval_params(preprocessing.make_augment(), margin=preprocessing.crop.margin)
        self._parameters = torch.from_numpy(parameters)

    @cached_property
    def face_detector(self) -> tuple[detectors.Detector, detectors.DetectorConfig]:
        """The detector of faces that the data was made with, and its options. Raises DetectorError where it is not known."""
        preprocessing = self.detector.preprocessing
        if not preprocessing.is_known:
            raise DetectorError(
                f"{self.detector.card.get('name', 'this detector')} has learned from crops of which nobody recorded how they "
                "were made, so that faces cannot be cropped in the same way; give it such crops as a data set of shards"
            )
        name, options = preprocessing.detector.name, preprocessing.detector.model_extra or {}
        cv2.setNumThreads(1)  # in a thread beside the networks
        face_detector = detectors.find(name)
        try:
            config = face_detector.Config.model_validate(options)
        except ValidationError as error:
            raise DetectorError(
                f"{self.detector.card.get('name', 'this detector')} needs the detector of faces {name} with options that this "
                f"version of facscale does not have: {explain_fault(error)}"
            ) from None
        return face_detector(config), config

    def predict_frames(
        self, frames: Iterable[Frame], *, interval_s: float, step: int = 1, is_live: bool = False
    ) -> Iterator[FrameResult]:
        """Yield the AUs of all faces of frames, in order, a few frames late.

        interval_s: seconds between two of them, of which any may be missing; 0: single images. step: difference of the
        numbers of neighbours. is_live: run on each frame as soon as it is certain, rather than in batches.
        """
        face_detector, config = self.face_detector
        tracker = FaceSetTracker(face_detector, config=config, step=step, interval_s=interval_s)
        tracked = tracker.track(frames)
        if not is_live:
            tracked = read_in_thread(tracked, size=PICTURES_AHEAD)
        cropped = crop_frames(tracked, crop=self.detector.preprocessing.crop)
        if not is_live:
            cropped = read_in_thread(cropped, size=self.batch_size + AHEAD)
        yield from self.predict_crops(cropped, interval_s=interval_s, batch_size=1 if is_live else self.batch_size)

    def predict_crops(
        self, frames: Iterable[CroppedFrame], *, interval_s: float, batch_size: int = 0
    ) -> Iterator[FrameResult]:
        """Yield the AUs of faces that are cropped already."""
        stride = compute_stride(interval_s, fps=self.detector.preprocessing.fps)
        waiting: deque[_Sample] = deque()
        count = 0
        for sample in collect_samples(frames, views=self.detector.views, stride=stride):
            waiting.append(sample)
            count += len(sample.faces)
            if count >= (batch_size or self.batch_size) or len(waiting) >= 4 * self.batch_size:
                yield from self._run(waiting)
                count = 0
        yield from self._run(waiting)

    @torch.no_grad()
    def _run(self, waiting: deque[_Sample]) -> Iterator[FrameResult]:
        """Estimate the AUs of the frames that wait, and empty the queue."""
        faces = [(sample, key) for sample in waiting for key in sample.faces]
        parts = [faces[start : start + self.batch_size] for start in range(0, len(faces), self.batch_size)]
        estimates = [self._estimate([sample.faces[key] for sample, key in part]) for part in parts]
        probability = np.concatenate([part[0] for part in estimates]) if estimates else np.empty((0, 0))
        intensity = [part[1] for part in estimates if part[1] is not None]
        intensities = np.concatenate(intensity) if intensity else None
        row = 0
        while waiting:
            sample = waiting.popleft()
            results = []
            for key, views in sample.faces.items():
                face = views.face
                rated = None if intensities is None else intensities[row]
                results.append(
                    FaceResult(key[0], face.confidence, face.box, face.pose, face.frame_points, probability[row], rated)
                )
                row += 1
            ordered = tuple(sorted(results, key=lambda result: result.face))
            yield FrameResult(sample.number, sample.time_s, ordered)

    def apply_networks(self, batch: Batch) -> Estimate:
        """Crop the faces of a batch as in evaluation, and estimate their AUs."""
        return self.detector.estimate(self._prepare(batch.to(self.device)))

    def _estimate(self, samples: Sequence[_SampleFaces]) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities [B, n] and intensities [B, m] of faces with their neighbours."""
        rows: dict[int, int] = {}
        stored: list[CroppedFace] = []
        view_rows: dict[str, np.ndarray] = {}
        for name in self.detector.views:
            numbers = []
            for sample in samples:
                for face in sample.views[name]:
                    if id(face) not in rows:
                        rows[id(face)] = len(stored)
                        stored.append(face)
                numbers.append([rows[id(face)] for face in sample.views[name]])
            view_rows[name] = np.array(numbers)
        columns = {"landmarks": np.stack([face.points.reshape(136) for face in stored])}
        images = {number: face.image for number, face in enumerate(stored)}
        batch = stack_samples(
            self.detector.views, view_rows, images=images, columns=columns, parameters=self._parameters
        )
        estimate = self.apply_networks(batch)
        intensity = None if estimate.intensity is None else estimate.intensity.float().cpu().numpy()
        return estimate.probability.float().cpu().numpy(), intensity


class _SampleFaces(NamedTuple):
    """A face with its neighbours, by view."""

    face: CroppedFace
    views: Mapping[str, Sequence[CroppedFace]]


class _Sample(NamedTuple):
    """A frame that is ready to be estimated."""

    number: int
    time_s: float
    faces: Mapping[RunKey, _SampleFaces]


def rate_landmarks(disagreement: float) -> float:
    """Turn the distance between two fits of the landmarks, in eye distances, to a confidence: 1 for none, 0 from 0.2 on."""
    return (
        float(np.clip(1 - disagreement / (2 * MAX_DISAGREEMENT), 0, 1)) if np.isfinite(disagreement) else float("nan")
    )


def compute_stride(interval_s: float, *, fps: float) -> int:
    """Compute how many frames of a video lie between two that are neighbours at the `fps` of the training data."""
    return max(1, round(1 / (interval_s * fps))) if interval_s and fps else 1


def crop_frames(frames: Iterable[FaceFrame], *, crop: Crop) -> Iterator[CroppedFrame]:
    """Crop the faces of frames as the crops of a data set are made: with the eyes smoothed over RADIUS frames each way.

    Faces whose eyes coincide are left out.
    """
    for window, middle in _slide(frames, behind=RADIUS, ahead=RADIUS):
        entry = window[middle]
        height, width = entry.frame.image.shape[:2]
        faces: dict[RunKey, CroppedFace] = {}
        for key, face in entry.faces.items():
            neighbours = [other.faces[key] for other in window if key in other.faces]
            aligned = align_face(face, neighbours, crop)
            if aligned is None:
                continue
            image, points, _ = aligned
            pose = estimate_head_pose(face.points, height=height, width=width)
            confidence = rate_landmarks(face.disagreement)
            faces[key] = CroppedFace(image, points, face.box, face.points, pose, confidence)
        yield CroppedFrame(entry.frame.number, entry.frame.time_s, faces)


def collect_samples(frames: Iterable[CroppedFrame], *, views: Mapping[str, View], stride: int = 1) -> Iterator[_Sample]:
    """Give each face the neighbours that `views` choose from its own unbroken run, every `stride`-th frame of it."""
    offsets = [offset * stride for view in views.values() for offset in _list_offsets(view)]
    behind, ahead = max(0, -min(offsets)), max(0, *offsets)
    random = np.random.default_rng(0)  # no view of an evaluation is random
    for window, middle in _slide(frames, behind=behind, ahead=ahead):
        entry = window[middle]
        faces = {}
        for key, face in entry.faces.items():
            before = [window[place].faces.get(key) for place in range(middle - stride, -1, -stride)]
            after = [window[place].faces.get(key) for place in range(middle + stride, len(window), stride)]
            earlier = [other for other in before if other is not None][::-1]
            run = [*earlier, face, *[other for other in after if other is not None]]
            chosen = {
                name: [run[min(row, len(run) - 1)] for row in view.choose(len(earlier), len(run), random).tolist()]
                for name, view in views.items()
            }
            faces[key] = _SampleFaces(face, chosen)
        yield _Sample(entry.number, entry.time_s, faces)


def read_crops(dataset: Dataset, detector: Detector) -> Iterator[tuple[TrackKey, float, Iterator[CroppedFrame]]]:
    """Yield the tracks of a data set of shards as cropped frames: the track's key, seconds between its frames, and these.

    Raises DetectorError for crops of another kind than the detector learned from, and DataError.
    """
    check_crops(dataset, detector)
    for track in iterate_tracks(dataset):
        yield track.key, track.every / track.fps if track.fps and track.every else 0.0, _decode_track(track)


def _decode_track(track: Track) -> Iterator[CroppedFrame]:
    unknown = np.full(3, np.nan)
    points = to_numpy(track.rows["landmarks"]).reshape(-1, 68, 2)
    for number, row in enumerate(track.rows.select(["frame", "time_s", "jpeg"]).to_pylist()):
        image = pixels.decode_jpeg(row["jpeg"])
        box = Box(0, 0, len(image), len(image))
        face = CroppedFace(image, points[number], box, points[number], unknown, float("nan"))
        yield CroppedFrame(row["frame"], row["time_s"], {(0, 0, 0): face})


def check_crops(dataset: Dataset, detector: Detector) -> None:
    """Raise DetectorError where a data set's crops differ from those that the detector learned from."""
    manifest, preprocessing = dataset.manifest, detector.preprocessing
    recipe = manifest.recipe if isinstance(manifest.recipe.get("version"), int) else {}
    crop = recipe.get("crop") or {}
    own: dict[str, Any] = {
        "size": manifest.image_size,
        "margin": manifest.margin,
        "detector": (recipe.get("detector") or {}).get("name"),
        "eyes_y": crop.get("eyes_y"),
        "eyes_distance": crop.get("eyes_distance"),
    }
    learned = {
        "size": preprocessing.crop.stored_size,
        "margin": preprocessing.crop.margin,
        "detector": preprocessing.detector.name if preprocessing.is_known else None,
        "eyes_y": preprocessing.crop.eyes_y if preprocessing.is_known else None,
        "eyes_distance": preprocessing.crop.eyes_distance if preprocessing.is_known else None,
    }
    different = [
        f"{name} {own[name]} instead of {learned[name]}"
        for name in own
        if own[name] is not None and learned[name] is not None and own[name] != learned[name]
    ]
    if different:
        raise DetectorError(
            f"{dataset.url}: its crops are of another kind than those that the detector learned from ({', '.join(different)}); "
            "make the data set again with the detector's pipeline, or give the videos themselves"
        )


def make_frames(images: Iterable[np.ndarray], *, fps: float) -> Iterator[Frame]:
    """Make frames of RGB arrays [H, W, 3], [H, W] or [H, W, 4], in whatever range `scale_pixels` recognises.

    fps: of their time stamps; 0: single images. Raises DetectorError for other arrays.
    """
    for number, image in enumerate(images):
        yield Frame(number, number / fps if fps else 0.0, to_rgb(np.asarray(image)))


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Convert a grey picture [H, W], RGB [H, W, 3] or RGBA [H, W, 4] to RGB [H, W, 3] uint8. Raises DetectorError."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise DetectorError(f"a picture is an array [height, width, 3], not {list(image.shape)}")
    image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
    return np.ascontiguousarray(np.rint(scale_pixels(image)).astype(np.uint8))


def read_in_thread(items: Iterable[Item], *, size: int) -> Iterator[Item]:
    """Yield items that a thread produces in advance, at most `size`. Its error is raised here, in its place."""
    ready: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=size)
    stopped = threading.Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            for item in items:
                put((True, item))
                if stopped.is_set():
                    return
            put((False, None))
        except BaseException as error:  # noqa: BLE001 - it is raised in the consumer
            put((False, error))

    thread = threading.Thread(target=produce, name="frames", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = ready.get()
            if is_item:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        stopped.set()
        thread.join()


def _list_offsets(view: View) -> list[int]:
    """List the places of a view's frames, relative to the sample's own, far from the ends of a run."""
    start = 10_000
    return (view.choose(start, 2 * start, np.random.default_rng(0)) - start).tolist() if view.count > 1 else [0]


def _slide(items: Iterable[Item], *, behind: int, ahead: int) -> Iterator[tuple[list[Item], int]]:
    """Yield each item in a window with up to `behind` items before it and `ahead` after it, and its place in the window."""
    window: deque[Item] = deque()
    middle = 0  # place of the next item to be yielded
    for item in items:
        window.append(item)
        if len(window) - middle > ahead:
            yield list(window), middle
            middle += 1
            if middle > behind:
                window.popleft()
                middle -= 1
    while middle < len(window):
        yield list(window), middle
        middle += 1
        if middle > behind:
            window.popleft()
            middle -= 1
