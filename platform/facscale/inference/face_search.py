"""Searches a data set for the frames with the most similar facial movements, by a photo or a stored frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from facscale.data import DataError, Dataset, augment, pixels
from facscale.inference.embed import Embeddings
from facscale.inference.retrieval import find_nearest
from facscale.ingest import detectors
from facscale.ingest.crops import crop_faces
from facscale.ingest.frames import Frame, decode_image
from facscale.ingest.tracking import FaceTracker
from facscale.methods import Method
from facscale.spec import SpecError, suggest_nearest
from facscale.spec.models import Augment
from facscale.spec.pipelines import Crop, DetectorBlock

AUGMENT = Augment()  # evaluation uses its centre crop


@dataclass(frozen=True)
class Face:
    """A stored frame or the face of a photo, aligned in the same way."""

    name: str
    image: np.ndarray  # [S, S, 3] uint8
    active: frozenset[int] | None = None  # AU numbers; None: not labelled
    identity: str | None = None  # None: no subject of the data set
    video: str | None = None


@dataclass(frozen=True)
class Match:
    """A frame that a search returns: its row among the embeddings, and its cosine similarity to the query."""

    row: int
    similarity: float


class NamedEmbedding(nn.Module):
    """One of the embeddings of a method, as an encoder."""

    def __init__(self, method: Method, name: str, *, dim: int) -> None:
        super().__init__()
        self.method, self.name, self.dim = method, name, dim
        # The cache key is made from weights and buffers, and all embeddings of a method have the same weights.
        self.register_buffer("letters", torch.tensor(list(name.encode())))

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, dim]."""
        return self.method.embed(images)[self.name]


def select_embedding(method: Method, name: str, *, source: str) -> nn.Module:
    """The module that computes the embedding `name`: images [N, 3, S, S] -> [N, dim].

    Raises SpecError for an unknown name; `source` is the method's file, for the message.
    """
    if name == "encoder":
        return method.encoder
    size = method.recipe.facts.image_size
    with torch.no_grad():
        embeddings = method.embed(torch.zeros(1, 3, size, size))
    if name not in embeddings:
        raise SpecError(
            f'{source}: {method.recipe.method} has no embedding "{name}"{suggest_nearest(name, list(embeddings))}'
        )
    return NamedEmbedding(method, name, dim=embeddings[name].shape[1])


def load_queries(queries: Sequence[str], dataset: Dataset) -> list[Face]:
    """The face of each query: an image file, or IDENTITY/VIDEO/FRAME of the data set. Raises DataError for others."""
    files = {query: Path(query).expanduser() for query in queries if Path(query).expanduser().is_file()}
    names = list_frame_names(dataset) if len(files) < len(set(queries)) else []
    return [
        load_photo(files[query], dataset) if query in files else load_frame(dataset, find_row(query, names, dataset))
        for query in queries
    ]


def load_photo(path: Path, dataset: Dataset) -> Face:
    """The largest face in a photo, detected and aligned as the faces of the data set were.

    Raises DataError if the file is no image or shows no face.
    """
    try:
        image = decode_image(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}; give a JPEG or PNG file") from None
    recipe = (
        dataset.manifest.recipe if "version" in dataset.manifest.recipe else {}
    )  # only facscale's describe alignment
    options = {"name": DetectorBlock().name, **recipe.get("detector", {})}
    detector = detectors.find(options.pop("name"))
    renamed = (
        detector.Config.renamed
    )  # older data sets have these; they set how a face is followed, which a photo is not
    config = detector.Config.model_validate({key: value for key, value in options.items() if key not in renamed})
    margin = dataset.manifest.margin
    stored = {"size": round(dataset.manifest.image_size / (1 + 2 * margin)), "margin": margin}
    crop = Crop.model_validate(recipe.get("crop", stored))
    tracks = FaceTracker(detector(config), config=config).track([Frame(0, 0.0, image)])
    face = next(crop_faces(tracks, crop), None)
    if face is None:
        raise DataError(
            f"{path}: no face is found in it; give a photo of an upright face, seen from the front, that fills a good "
            "part of the picture"
        )
    return Face(path.name, face.image)


def load_frame(dataset: Dataset, row: int) -> Face:
    """The frame in a row of the data set. Raises DataError for a damaged image, CorruptError for a damaged shard."""
    groups = [
        (shard, number, group.rows)
        for shard, file in enumerate(dataset.manifest.shards)
        for number, group in enumerate(file.row_groups)
    ]
    ends = np.cumsum([rows for *_, rows in groups])
    position = int(np.searchsorted(ends, row, side="right"))
    shard, number, rows = groups[position]
    columns = ["identity", "video", "frame", "jpeg", *(["au"] if dataset.manifest.au else [])]
    table = dataset.read(shard=shard, row_group=number, columns=columns).slice(row - int(ends[position]) + rows, 1)
    values = {column: cells[0] for column, cells in table.to_pydict().items()}
    identity, video = values["identity"], values["video"]
    (name,) = format_frame_names([identity], [video], [values["frame"]])
    try:
        image = pixels.decode_jpeg(values["jpeg"])
    except ValueError as error:
        raise DataError(f"{name} of {dataset.url} is damaged: {error}; choose another frame") from None
    return Face(name, image, select_active(values.get("au", []), dataset.manifest.au), identity, video)


def select_active(labels: Sequence[int] | np.ndarray, aus: Sequence[int]) -> frozenset[int] | None:
    """The AUs of `aus` whose label is 1; None if none is labelled at all (all -1)."""
    if all(label < 0 for label in labels):
        return None
    return frozenset(au for au, label in zip(aus, labels, strict=True) if label == 1)


def list_frame_names(dataset: Dataset) -> list[str]:
    """IDENTITY/VIDEO/FRAME of all frames, in stored order."""
    table = dataset.read_columns(["identity", "video", "frame"])
    return format_frame_names(*(table[column].to_pylist() for column in ("identity", "video", "frame")))


def format_frame_names(identity: Iterable[str], video: Iterable[str], frame: Iterable[int]) -> list[str]:
    """IDENTITY/VIDEO/FRAME of each frame."""
    return ["/".join(map(str, parts)) for parts in zip(identity, video, frame, strict=True)]


def find_row(query: str, names: Sequence[str], dataset: Dataset) -> int:
    """The row of the first frame with this name: two tracks of a video may have the same frame numbers.

    Raises DataError if there is none.
    """
    if query in names:
        return names.index(query)
    siblings = [name for name in names if name.rpartition("/")[0] == query.rpartition("/")[0]]
    hint = f"its frames are {siblings[0]} to {siblings[-1]}" if siblings else f"one of its frames is {names[0]}"
    raise DataError(
        f"{query}: neither an image file (you are in {Path.cwd()}) nor a frame IDENTITY/VIDEO/FRAME of "
        f"{dataset.url}: {hint}"
    )


def embedded_rows(embeddings: Embeddings, dataset: Dataset) -> np.ndarray:
    """Rows [N] of the data set that have an embedding: all except frames that cannot be read."""
    if len(embeddings) == dataset.manifest.counts["frames"]:
        return np.arange(len(embeddings))
    names = enumerate(list_frame_names(dataset))
    embedded = format_frame_names(embeddings.identity, embeddings.video, embeddings.frame)
    return np.array([next(row for row, name in names if name == wanted) for wanted in embedded])


def sample_queries(embeddings: Embeddings, *, number: int, seed: int) -> np.ndarray:
    """`number` random rows of the embeddings; frames that show an AU come first."""
    rows = np.random.default_rng(seed).permutation(len(embeddings))
    is_inactive = ~(embeddings.au[rows] == 1).any(axis=1)
    return rows[np.argsort(is_inactive, kind="stable")][:number]


def compute_features(encoder: nn.Module, faces: Sequence[Face], *, size: int, margin: float) -> np.ndarray:
    """The embedding of each face, [Q, D]; `size` is the side of the encoder's images, `margin` that of the faces."""
    parameters = torch.from_numpy(augment.eval_params(AUGMENT, margin=margin))[None]
    with torch.no_grad():
        images = (augment.apply(torch.from_numpy(face.image[None]), parameters, size=size) for face in faces)
        return np.concatenate([encoder(image).float().numpy() for image in images])


def search(
    faces: Sequence[Face], features: np.ndarray, embeddings: Embeddings, *, k: int, exclude_identity: bool
) -> list[list[Match]]:
    """For each face, the k nearest frames, at most one of each video; fewer if there are not as many.

    features [Q, D]: of the faces. Excluded are all frames of a face's own subject, or with `exclude_identity` off only
    those of its own video.
    """
    videos = [f"{identity}/{video}" for identity, video in zip(embeddings.identity, embeddings.video, strict=True)]
    group = np.unique(videos, return_inverse=True)[1]
    excluded = [embeddings.identity == face.identity for face in faces]
    if not exclude_identity:
        excluded = [same & (embeddings.video == face.video) for same, face in zip(excluded, faces, strict=True)]
    rows, similarities = find_nearest(
        embeddings.features, queries=features, allowed=~np.stack(excluded), k=k, group=group
    )
    return [
        [Match(int(row), float(value)) for row, value in zip(*line, strict=True) if np.isfinite(value)]
        for line in zip(rows, similarities, strict=True)
    ]
