"""`facscale retrieve`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import ray
import torch
from rich.console import Console
from torch import Tensor, nn

from facscale.cli.retrieval_view import Answer, Face, active, drawing, table
from facscale.cluster import join
from facscale.data import DataError, Dataset, augment, pixels
from facscale.inference import export
from facscale.inference.embed import Embeddings, OfFace, embed
from facscale.inference.retrieval import nearest
from facscale.ingest import detectors
from facscale.ingest.crops import crops
from facscale.ingest.frames import Frame, decode_image
from facscale.ingest.tracking import Tracker
from facscale.job.inputs import read
from facscale.methods import Method
from facscale.spec import SpecError
from facscale.spec import nearest as hint
from facscale.spec.models import Augment
from facscale.spec.pipelines import Crop

CACHE = Path("~/.cache/facscale/embeddings").expanduser()
AUGMENT = Augment()  # evaluation takes its centre crop


class Embedding(nn.Module):
    """One of a method's several embeddings, as an encoder."""

    def __init__(self, method: Method, name: str, *, dim: int) -> None:
        super().__init__()
        self.method, self.name, self.dim = method, name, dim
        # the cache goes by weights and buffers, and the weights are the same for all of a method's embeddings
        self.register_buffer("letters", torch.tensor(list(name.encode())))

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> [N, dim]."""
        return self.method.embeddings(images)[self.name]


def retrieve_faces(
    source: str, data_url: str, queries: Sequence[str], *, embedding: str, k: int, sheet: Path | None, strangers: bool,
    seed: int, number: int,
) -> None:  # fmt: skip
    """Print the k nearest frames of each query, and draw them where `sheet` says. Raises SpecError, DataError."""
    refuse_wrong(k=k, number=number)
    dataset = Dataset(data_url)
    method = export.load(read(source), source=source)
    encoder, size = chosen(method, embedding, source=source), method.recipe.facts.image_size
    asked = faces(queries, dataset)
    refuse_lonely(dataset, asked, strangers=strangers)
    join()
    workers, gpus = share(dataset)
    found = embed(
        OfFace(encoder), dataset.url, image_size=size, spec=AUGMENT, cache_dir=str(CACHE), workers=workers, gpus=gpus
    )
    rows = places(found, dataset)
    asked = asked or [stored(dataset, int(rows[row])) for row in drawn(found, number=number, seed=seed)]
    answers = answered(asked, features(encoder, asked, size=size), found, k=k, strangers=strangers)
    whose = "other people" if strangers else "anyone"
    title = (
        f"Nearest frames of {whose} in {dataset.manifest.name}, by the {embedding} embedding of {method.recipe.method}"
    )
    console = Console(highlight=False)
    console.print(f"{title} ({found.features.shape[1]} numbers, {len(found):,} frames)", markup=False)
    for face, nearby in zip(asked, answers, strict=True):
        console.print()
        console.print(table(face, nearby, found, k=k))
    if sheet:
        pictures = [[stored(dataset, int(rows[answer.row])) for answer in nearby] for nearby in answers]
        drawing(asked, answers, pictures, title=f"{title} (blue: AUs as asked)").savefig(sheet, dpi=150)
        console.print(f"\ncontact sheet: {sheet}", markup=False)


def refuse_wrong(*, k: int, number: int) -> None:
    """Raise SpecError for options that ask for nothing."""
    for name, count in {"k": k, "number": number}.items():
        if count < 1:
            raise SpecError(f"--{name} {count}: there is nothing to show; ask for at least 1")


def refuse_lonely(dataset: Dataset, asked: Sequence[Face], *, strangers: bool) -> None:
    """Raise DataError where a frame of the data set is asked about and nobody is there to answer."""
    crowd = dataset.runs.identities if strangers else dataset.runs.videos
    if len(crowd) == 1 and not (asked and all(face.identity is None for face in asked)):
        whose, more = ("person", "; --anyone lets that person's other videos answer") if strangers else ("video", "")
        raise DataError(f"{dataset.url}: nobody can answer, all its frames are of one {whose}, {crowd[0]}{more}")


def chosen(method: Method, embedding: str, *, source: str) -> nn.Module:
    """What gives the embedding of this name: images [N, 3, S, S] -> [N, dim]. Raises SpecError for an unknown one."""
    if embedding == "encoder":
        return method.encoder
    size = method.recipe.facts.image_size
    with torch.no_grad():
        there = method.embeddings(torch.zeros(1, 3, size, size))
    if embedding not in there:
        raise SpecError(
            f'{source}: {method.recipe.method} has no embedding "{embedding}"{hint(embedding, list(there))}'
        )
    return Embedding(method, embedding, dim=there[embedding].shape[1])


def faces(queries: Sequence[str], dataset: Dataset) -> list[Face]:
    """The face of each query: an image file, or the name of a frame. Raises DataError for what is neither."""
    files = {query: Path(query).expanduser() for query in queries if Path(query).expanduser().is_file()}
    names = frame_names(dataset) if len(files) < len(set(queries)) else []
    return [
        photographed(files[query], dataset) if query in files else stored(dataset, row_of(query, names, dataset))
        for query in queries
    ]


def frame_names(dataset: Dataset) -> list[str]:
    """IDENTITY/VIDEO/FRAME of all frames, in stored order."""
    table = dataset.table(["identity", "video", "frame"])
    return named(*(table[column].to_pylist() for column in ("identity", "video", "frame")))


def named(identity: Iterable[str], video: Iterable[str], frame: Iterable[int]) -> list[str]:
    """How frames are written."""
    return ["/".join(map(str, parts)) for parts in zip(identity, video, frame, strict=True)]


def row_of(query: str, names: Sequence[str], dataset: Dataset) -> int:
    """The row of the first frame of this name (utterances of one video may number theirs alike). Raises DataError."""
    if query in names:
        return names.index(query)
    siblings = [name for name in names if name.rpartition("/")[0] == query.rpartition("/")[0]]
    help_ = f"its frames are {siblings[0]} to {siblings[-1]}" if siblings else f"one of its frames is {names[0]}"
    raise DataError(
        f"{query}: neither an image file (you are in {Path.cwd()}) nor a frame IDENTITY/VIDEO/FRAME of {dataset.url}: {help_}"
    )


def photographed(path: Path, dataset: Dataset) -> Face:
    """The largest face of a photo, found and aligned as the data set's own were. Raises DataError where there is none."""
    try:
        image = decode_image(path.read_bytes(), name="")  # by a name with .jpg it would not be turned upright
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}; give a JPEG or PNG file") from None
    recipe = dataset.manifest.recipe if "version" in dataset.manifest.recipe else {}  # only ours says how it aligns
    options = {"name": "dlib", **recipe.get("detector", {})}
    detector = detectors.find(options.pop("name"))
    config = detector.Config.model_validate(options)
    crop = Crop.model_validate(recipe.get("crop", {"size": dataset.manifest.image_size}))
    sightings = Tracker(detector(config), config=config).follow([Frame(0, 0.0, image)])
    face = next(crops(sightings, crop), None)
    if face is None:
        raise DataError(
            f"{path}: no face is found in it; give a photo of an upright face, seen from the front, that fills a good "
            "part of the picture"
        )
    return Face(path.name, face.image)


def stored(dataset: Dataset, row: int) -> Face:
    """The frame in a row of the data set. Raises DataError, CorruptError."""
    groups = [
        (shard, number, group.rows)
        for shard, file in enumerate(dataset.manifest.shards)
        for number, group in enumerate(file.row_groups)
    ]
    ends = np.cumsum([rows for *_, rows in groups])
    place = int(np.searchsorted(ends, row, side="right"))
    shard, number, rows = groups[place]
    columns = ["identity", "video", "frame", "jpeg", *(["au"] if dataset.manifest.au else [])]
    kept = dataset.read(shard=shard, row_group=number, columns=columns).slice(row - int(ends[place]) + rows, 1)
    found = {name: values[0] for name, values in kept.to_pydict().items()}
    (name,) = named([found["identity"]], [found["video"]], [found["frame"]])
    try:
        image = pixels.jpeg(found["jpeg"])
    except ValueError as error:
        raise DataError(f"{name} of {dataset.url} is damaged: {error}; ask about another frame") from None
    return Face(name, image, active(found.get("au", []), dataset.manifest.au), found["identity"], found["video"])


def share(dataset: Dataset) -> tuple[int, float]:
    """Workers that the cluster has room for and the data set work for, and the GPUs of each."""
    there = ray.cluster_resources()
    gpus, groups = int(there.get("GPU", 0)), sum(len(shard.row_groups) for shard in dataset.manifest.shards)
    return max(1, min(groups, gpus or int(there.get("CPU", 1)))), float(gpus > 0)


def places(found: Embeddings, dataset: Dataset) -> np.ndarray:
    """The rows [N] of the data set that were embedded: all but those that cannot be read."""
    if len(found) == dataset.manifest.counts["frames"]:
        return np.arange(len(found))
    names = enumerate(frame_names(dataset))
    embedded = named(found.identity, found.video, found.frame)
    return np.array([next(row for row, name in names if name == wanted) for wanted in embedded])


def drawn(found: Embeddings, *, number: int, seed: int) -> np.ndarray:
    """Rows of the embeddings, at random; frames that show an AU come first."""
    rows = np.random.default_rng(seed).permutation(len(found))
    quiet = ~(found.au[rows] == 1).any(axis=1)
    return rows[np.argsort(quiet, kind="stable")][:number]


def features(encoder: nn.Module, asked: Sequence[Face], *, size: int) -> np.ndarray:
    """Of each face, [Q, D]."""
    still = torch.from_numpy(augment.still(AUGMENT))[None]
    with torch.no_grad():
        images = (augment.apply(torch.from_numpy(np.stack([face.image])), still, size=size) for face in asked)
        return np.concatenate([encoder(image).float().numpy() for image in images])


def answered(
    asked: Sequence[Face], asked_features: np.ndarray, found: Embeddings, *, k: int, strangers: bool
) -> list[list[Answer]]:
    """For each face the k nearest frames, one of a video at most: of strangers, or of any video but its own."""
    pairs = [f"{person}/{video}" for person, video in zip(found.identity, found.video, strict=True)]
    film = np.unique(pairs, return_inverse=True)[1]
    own = [found.identity == face.identity for face in asked]
    if not strangers:
        own = [same & (found.video == face.video) for same, face in zip(own, asked, strict=True)]
    rows, similar = nearest(found.features, queries=asked_features, allowed=~np.stack(own), k=k, group=film)
    return [
        [Answer(int(row), float(value)) for row, value in zip(*line, strict=True) if np.isfinite(value)]
        for line in zip(rows, similar, strict=True)
    ]
