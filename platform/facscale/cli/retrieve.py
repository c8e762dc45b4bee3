"""`facscale retrieve`: embeds a data set, searches it, and shows the nearest frames as tables and a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from facscale.cluster.ray import join
from facscale.data import DataError, Dataset
from facscale.inference import export
from facscale.inference.embed import Embeddings, embed_dataset
from facscale.inference.face_search import (
    AUGMENT,
    Face,
    Match,
    compute_features,
    embedded_rows,
    load_frame,
    load_queries,
    sample_queries,
    search,
    select_active,
    select_embedding,
)
from facscale.inference.models import FrameEncoder
from facscale.job.inputs import read_export
from facscale.names import expand_cache
from facscale.report import figures
from facscale.spec import SpecError

CACHE = expand_cache("~/.cache/facscale/embeddings")


def retrieve_faces(
    source: str,
    data_url: str,
    queries: Sequence[str],
    *,
    embedding: str,
    k: int,
    sheet: Path | None,
    exclude_identity: bool,
    seed: int,
    number: int,
) -> None:
    """Print the k nearest frames of each query, and draw them to the file `sheet`. Raises SpecError, DataError."""
    check_counts(k=k, number=number)
    dataset = Dataset(data_url)
    method = export.load_export(read_export(source), source=source)
    encoder, size = select_embedding(method, embedding, source=source), method.recipe.facts.image_size
    faces = load_queries(queries, dataset)
    check_candidates(dataset, faces, exclude_identity=exclude_identity)
    join()
    workers, gpus = choose_workers(dataset)
    embeddings = embed_dataset(
        FrameEncoder(encoder),
        dataset.url,
        image_size=size,
        spec=AUGMENT,
        cache_dir=str(CACHE),
        workers=workers,
        gpus=gpus,
    )
    rows = embedded_rows(embeddings, dataset)
    faces = faces or [
        load_frame(dataset, int(rows[row])) for row in sample_queries(embeddings, number=number, seed=seed)
    ]
    features = compute_features(encoder, faces, size=size, margin=dataset.manifest.margin)
    matches = search(faces, features, embeddings, k=k, exclude_identity=exclude_identity)
    subjects = "other subjects" if exclude_identity else "all subjects"
    embedder = f"the {embedding} embedding of {method.recipe.method}"
    title = f"Nearest frames of {subjects} in {dataset.manifest.name}, by {embedder}"
    console = Console(highlight=False)
    console.print(f"{title} ({embeddings.features.shape[1]} numbers, {len(embeddings):,} frames)", markup=False)
    for face, face_matches in zip(faces, matches, strict=True):
        console.print()
        console.print(build_table(face, face_matches, embeddings, k=k))
    if sheet:
        frames = [[load_frame(dataset, int(rows[match.row])) for match in face_matches] for face_matches in matches]
        plot_sheet(faces, matches, frames, title=f"{title} (blue: AUs of the query)").savefig(sheet, dpi=150)
        console.print(f"\ncontact sheet: {sheet}", markup=False)


def check_counts(*, k: int, number: int) -> None:
    """Raise SpecError for counts below 1."""
    for name, count in {"k": k, "number": number}.items():
        if count < 1:
            raise SpecError(f"--{name} {count}: there is nothing to show; ask for at least 1")


def check_candidates(dataset: Dataset, faces: Sequence[Face], *, exclude_identity: bool) -> None:
    """Raise DataError if a query is a frame of the data set, and all other frames are excluded from its results."""
    groups = dataset.runs.identities if exclude_identity else dataset.runs.videos
    if len(groups) > 1 or (faces and all(face.identity is None for face in faces)):
        return
    if exclude_identity:
        raise DataError(
            f"{dataset.url}: all frames show the same person, {groups[0]}; use --include-identity to allow matches "
            "from that person's other videos"
        )
    raise DataError(f"{dataset.url}: all frames are of the same video, {groups[0]}; use a data set with several videos")


def choose_workers(dataset: Dataset) -> tuple[int, float]:
    """Workers for the embedding, as many as the cluster has room and the data set row groups for; and GPUs of each."""
    available = ray.cluster_resources()
    gpus, groups = int(available.get("GPU", 0)), sum(len(shard.row_groups) for shard in dataset.manifest.shards)
    return max(1, min(groups, gpus or int(available.get("CPU", 1)))), float(gpus > 0)


def build_table(face: Face, matches: Sequence[Match], embeddings: Embeddings, *, k: int) -> Table:
    """The matches of one face, the nearest first."""
    title = Text(face.name, style="bold")
    if face.active is not None:
        title = Text.assemble(title, "  ", format_aus(face.active, shared=frozenset()))
    is_short = len(matches) < k
    caption = f"no more than {len(matches)}: at most one frame of each video is shown" if is_short else None
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="", caption=caption)
    for header in (
        "",
        "similarity",
        "identity",
        "video",
        "frame",
        *(["AUs (* as in query)"] if embeddings.aus else []),
    ):
        table.add_column(header, justify="right" if header in ("", "similarity", "frame") else "left")
    for rank, match in enumerate(matches, 1):
        row = match.row
        place = (embeddings.identity[row], embeddings.video[row], str(embeddings.frame[row]))
        cells = [Text(cell) for cell in (str(rank), f"{match.similarity:.3f}", *place)]
        if embeddings.aus:
            active = select_active(embeddings.au[row], embeddings.aus)
            cells.append(format_aus(active, shared=face.active or frozenset()))
        table.add_row(*cells)
    return table


def format_aus(active: frozenset[int] | None, *, shared: frozenset[int]) -> Text:
    """Active AUs in one line; those that the query shows too are marked with a star."""
    if active is None:
        return Text("not labelled", style="dim")
    words = [Text(f"AU{au}*", style="bold green") if au in shared else Text(f"AU{au}") for au in sorted(active)]
    return Text(" ").join(words) if words else Text("no AU", style="dim")


def plot_sheet(
    faces: Sequence[Face], matches: Sequence[Sequence[Match]], frames: Sequence[Sequence[Face]], *, title: str
) -> Figure:
    """The contact sheet: a row for each query; below each match its similarity, shared AUs and other AUs.

    `frames` are the frames of the `matches`.
    """
    rows, captions = [], []
    for face, face_matches, face_frames in zip(faces, matches, frames, strict=True):
        rows.append([face.image, *(frame.image for frame in face_frames)])
        wanted = face.active or frozenset()
        lines = [(face.name, format_plain(wanted), "")]
        for match, frame in zip(face_matches, face_frames, strict=True):
            active = frame.active or frozenset()
            lines.append((f"{match.similarity:.3f}", format_plain(active & wanted), format_plain(active - wanted)))
        captions.append(lines)
    return figures.plot_retrieval(rows, captions=captions, title=title)


def format_plain(aus: frozenset[int]) -> str:
    """AUs as in "AU 6 12"; "" for none."""
    return " ".join(["AU", *map(str, sorted(aus))]) if aus else ""
