"""Tries a pipeline on a sample of its items, with the code of the pipeline itself, to estimate what all of them take.

Quantities are scaled from the sample by the bytes of the items' files, or by the number of images where all items have
images, since these are known of every item. Where the source is not at hand, published counts of the data set take its
place, and a few rendered faces that of the sample.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq

from facscale.data import DataError
from facscale.data.manifest import MANIFEST
from facscale.data.published_sizes import SIZES, find_counts
from facscale.data.storage import Folder
from facscale.ingest import layouts
from facscale.ingest.build import Selection
from facscale.ingest.containers import get_container
from facscale.ingest.estimate import REST, WAITING, PipelineEstimate, SampledItem, Totals
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.frames import AV_OPTIONS
from facscale.ingest.items import Files, ImageBatch, Item, Listing, list_files, open_root
from facscale.ingest.pipeline import SELECTION, list_items, render_source
from facscale.ingest.work_store import ItemStatus
from facscale.progress import Progress
from facscale.spec import Pipeline
from facscale.spec.document import VARIABLE
from facscale.spec.pipelines import Render, Source

SAMPLE = 8  # items
MAX_FRAMES = 500  # that are read of an item; VoxCeleb's have 200
STAND_IN = Render(identities=2, videos=1, seconds=2.0)  # takes the place of a source that is not at hand
STAND_IN_BYTES = 1.5  # bytes of a real face / bytes of a rendered one: 20.1 kB and 13.3 kB at 256 pixels
MIN_KEPT = 4  # frames of each video of the stand-in, if only each n-th is kept
MIN_RENDERED_STILLS = 5  # people with single images: every fifth of them is in the test part, which must exist
MAX_NOTES = 10
UNSCALED = SELECTION - {"labels", "identities"}  # keys of a selection that published counts do not follow


def estimate_pipeline(
    pipeline: Pipeline, *, sample: int = SAMPLE, price: float = 0.0, progress: bool = True
) -> PipelineEstimate:
    """Estimate what a pipeline takes, from `sample` of its items. Nothing is stored, and Ray is not started.

    `price`: of a core for an hour. Raises SpecError for a pipeline that cannot run; DataError for a source that does not
    fit its layout, or that is not at hand and has no published counts.
    """
    notes = list(_note_output(pipeline.output))
    with tempfile.TemporaryDirectory(prefix="facscale-") as folder:
        if pipeline.render:
            trial = _try_rendered(pipeline, pipeline.render, Path(folder), sample=sample, progress=progress)
        else:
            trial = _try_source(pipeline, Path(folder), sample=sample, progress=progress)
    return replace(trial, price=price, notes=(*notes, *trial.notes))


def _try_source(pipeline: Pipeline, folder: Path, *, sample: int, progress: bool) -> PipelineEstimate:
    try:
        listing = _list_source(pipeline.source.root)
    except DataError as error:
        published = find_published_totals(pipeline.source)
        if published is None:
            raise
        totals, notes = published
        trial = _try_stand_in(pipeline, totals, folder, progress=progress)
        return replace(trial, notes=(f"the source is not at hand: {error}", *notes, *trial.notes))
    selection = list_items(pipeline, listing)
    totals = count_totals(selection.items, listing.files, every=pipeline.source.every)
    sampled = choose_sample(selection.items, listing.files, count=sample)
    trial = _try_items(pipeline, sampled, listing.files, folder, progress=progress)
    return replace(trial, totals=totals, notes=tuple(_note_selection(selection, listing)))


def _list_source(root: str) -> Listing:
    if variable := VARIABLE.search(root):
        raise DataError(f"{root}: the environment variable {variable[1]} is not set; export {variable[1]}=…")
    return list_files(root)


def _try_stand_in(pipeline: Pipeline, totals: Totals, folder: Path, *, progress: bool) -> PipelineEstimate:
    """Try a pipeline on rendered faces instead of its source, whose totals have the number of frames as their weight."""
    seconds = max(STAND_IN.seconds, MIN_KEPT * pipeline.source.every / STAND_IN.fps)
    render = STAND_IN.model_copy(update={"seconds": seconds})
    source = Source(layout="voxceleb2", root=str(folder / "raw"), every=pipeline.source.every)
    stand_in = pipeline.model_copy(update={"source": source, "render": render})
    trial = _try_rendered(stand_in, render, folder, sample=render.identities, progress=progress)
    rendering_s = trial.stages["render"] / len(trial.sample)
    frames_of_item = totals.weight / totals.items
    sample = []
    for item in trial.sample:
        stored = STAND_IN_BYTES * item.stored_bytes
        sample.append(
            replace(
                item,
                weight=item.frames,
                seconds=item.seconds - rendering_s,
                stored_bytes=stored,
                tracks=item.frames / frames_of_item,
                track_bytes=(stored / item.frames * frames_of_item,),
            )
        )
    return replace(
        trial,
        totals=totals,
        sample=tuple(sample),
        stages={name: spent for name, spent in trial.stages.items() if name != "render"},
        notes=(
            f"the speed is that of rendered faces in pictures of {render.size} x {render.size} pixels, each in all frames",
            f"the bytes are {STAND_IN_BYTES:g} times those of rendered faces, as was seen on real ones",
        ),
    )


def _try_rendered(pipeline: Pipeline, render: Render, folder: Path, *, sample: int, progress: bool) -> PipelineEstimate:
    """Render some of the people of a pipeline, and try it on them."""
    is_still = layouts.open_layout(pipeline.source).has_images
    videos = 1 if is_still else render.videos
    people = min(render.identities, max(MIN_RENDERED_STILLS if is_still else 1, sample // videos))
    small = pipeline.model_copy(
        update={
            "render": render.model_copy(update={"identities": people, "videos": videos}),
            "source": pipeline.source.model_copy(update={"root": str(folder / "raw")}),
            "ingest": pipeline.ingest.model_copy(update={"workers": 1}),
        }
    )
    started = time.perf_counter()
    render_source(small, progress=progress)
    seconds = time.perf_counter() - started
    listing = list_files(small.source.root)
    items = list_items(small, listing).items
    totals = count_totals(items, listing.files, every=small.source.every)
    keys = [(item.compute_key(listing.files), item) for item in items]
    trial = _try_items(pipeline, keys, listing.files, folder, root=small.source.root, progress=progress)
    factor = render.identities * render.videos / (people * videos)
    return replace(
        trial,
        totals=replace(
            totals,
            people=render.identities,
            items=round(totals.items * factor),
            weight=totals.weight * factor,
            read_bytes=factor * (totals.read_bytes or 0.0),
        ),
        sample=tuple(replace(item, seconds=item.seconds + seconds / len(items)) for item in trial.sample),
        stages={**trial.stages, "render": seconds},
        notes=(f"{people} of {render.identities} people were rendered as a sample",),
    )


def _try_items(
    pipeline: Pipeline,
    sampled: Sequence[tuple[str, Item]],
    files: Files,
    folder: Path,
    *,
    root: str = "",
    progress: bool,
) -> PipelineEstimate:
    """Extract the faces of items into `folder`, and time it. The totals are those of the sample alone."""
    source = pipeline.source.model_copy(update={"root": root or pipeline.source.root})
    trial = pipeline.model_copy(update={"output": str(folder / "trial"), "source": source})
    extractor = FaceExtractor(trial, run="sample", max_frames=MAX_FRAMES)
    by_images = all(item.numbers for _, item in sampled)
    items: list[SampledItem] = []
    stages: dict[str, float] = {}
    with Progress("sample", total=len(sampled), unit="items", is_shown=progress) as bar:
        for key, item in sampled:
            before, started = dict(extractor.clock.seconds), time.process_time()
            status = extractor(item, key)
            worked = time.process_time() - started
            factor = _count_frames(item, status, trial.source) / max(status.frames, 1)
            spent = {name: seconds - before[name] for name, seconds in extractor.clock.seconds.items()}
            rest = {REST: worked - sum(spent.values()), WAITING: status.seconds - worked}
            for name, seconds in {**spent, **rest}.items():
                stages[name] = stages.get(name, 0.0) + factor * max(0.0, seconds)
            path = Path(extractor.store.url) / f"{key}.parquet"
            items.append(
                SampledItem(
                    weight=weigh_item(item, files, by_images=by_images),
                    frames=factor * status.frames,
                    faces=factor * status.faces,
                    tracks=factor * status.tracks,
                    stored_bytes=factor * path.stat().st_size if status.faces else 0.0,
                    seconds=factor * status.seconds,
                    track_bytes=_measure_tracks(path) if status.faces else (),
                    faults=status.faults,
                )
            )
            bar.advance(note=f"{status.frames} frames")
    return PipelineEstimate(
        name=pipeline.name,
        output=pipeline.output,
        workers=pipeline.ingest.workers,
        cpus_per_worker=pipeline.ingest.cpus_per_worker,
        row_group_mb=pipeline.ingest.row_group_mb,
        shard_mb=pipeline.ingest.shard_mb,
        totals=count_totals([item for _, item in sampled], files, every=source.every),
        sample=tuple(items),
        stages=stages,
    )


def choose_sample(items: Sequence[Item], files: Files, *, count: int) -> list[tuple[str, Item]]:
    """Choose `count` items evenly, the same each time, and return them with their keys."""
    pairs = [(item.compute_key(files), item) for item in items]
    return sorted(pairs, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())[:count]


def count_totals(items: Sequence[Item], files: Files, *, every: int) -> Totals:
    """Count what a source holds. `every`: only each n-th image of a video is read."""
    are_single = isinstance(items[0], ImageBatch)
    by_images = all(item.numbers for item in items)
    names = {
        get_container(name)
        for item in items
        for name in (*(item.files[::every] if item.numbers else item.files), *item.labels)
    }
    return Totals(
        people=None if are_single else len({item.identity for item in items}),
        items=sum(len(item.files) for item in items) if are_single else len(items),
        unit="images" if are_single else "videos",
        weight=sum(weigh_item(item, files, by_images=by_images) for item in items),
        read_bytes=float(sum(files.get(name, 0) for name in names)),
    )


def weigh_item(item: Item, files: Files, *, by_images: bool) -> float:
    """Weigh an item: the number of its images, or else the bytes of its files (at least 1)."""
    if by_images:
        return float(len(item.numbers))
    return float(max(1, sum(files.get(get_container(name), 0) for name in item.files)))


def find_published_totals(source: Source) -> tuple[Totals, list[str]] | None:
    """Return what the selection of a source holds by published counts, and notes on them; None if nothing is known.

    The weight is the number of frames that are kept.
    """
    name = layouts.open_layout(source).published
    counts, size = find_counts(name), next((size for size in SIZES if size.name == name), None)
    videos = counts.videos if counts and counts.videos else size.tracks if size else None
    if videos is None:
        return None
    people = counts.people if counts and counts.people else size.people if size else None
    is_still = layouts.open_layout(source).has_images
    frames = float(videos) if is_still or not size else size.frames * videos / size.tracks
    share = min(1.0, source.identities / people) if people and source.identities else 1.0
    share = min(share, source.limit / videos) if source.limit else share
    if not size and not is_still:
        return None  # the videos are known, but not how long they are
    origins = "; ".join(dict.fromkeys(record.source for record in (size, counts) if record))
    notes = [f"published counts of {name} take its place ({origins})"]
    if size and size.aus:
        notes.append("only the frames that are labelled are counted; the videos may have more")
    if ignored := [f"source.{key}" for key in sorted(UNSCALED) if getattr(source, key)]:
        notes.append(f"{', '.join(ignored)} cannot be considered without the source: the counts are of everything")
    totals = Totals(
        people=min(people, source.identities or people) if people else None,
        items=round(share * videos),
        unit="images" if is_still else "videos",
        weight=share * frames / source.every,
    )
    return totals, notes


def _count_frames(item: Item, status: ItemStatus, source: Source) -> float:
    """Count the frames that would be kept if the whole item were read: by the header of a video file."""
    if status.frames < MAX_FRAMES:
        return status.frames
    if item.numbers:
        return len(range(0, len(item.numbers), source.every))
    return max(status.frames, _read_frame_count(source.root, item.files[0]) / source.every)


def _read_frame_count(root: str, name: str) -> float:
    """Read the number of frames, or else the duration times the rate, from the header of a video; 0 if it has neither."""
    system, base = open_root(root)
    with (
        system.open(f"{base}/{name}", "rb") as file,
        av.open(file, metadata_errors="replace", options=AV_OPTIONS) as container,
    ):
        stream = container.streams.best("video")
        if stream is None:
            return 0.0
        if stream.frames:
            return float(stream.frames)
        seconds = float(container.duration or 0) / av.time_base
        return seconds * float(stream.average_rate or 0)


def _measure_tracks(path: Path) -> tuple[float, ...]:
    """Return the bytes of each track in a file of faces: those of its JPEGs, and a share of all else."""
    table = pq.read_table(path, columns=["track", "jpeg"])
    tracks, lengths = table["track"].to_numpy(), np.array([len(jpeg) for jpeg in table["jpeg"].to_pylist()])
    rest = (path.stat().st_size - lengths.sum()) / len(lengths)
    return tuple(float((lengths[tracks == track] + rest).sum()) for track in np.unique(tracks))


def _note_output(output: str) -> Iterator[str]:
    if VARIABLE.search(output):
        return
    try:
        is_there = Folder(output).exists(MANIFEST)
    except DataError as error:
        yield f"the output cannot be looked at: {error}"
        return
    if is_there:
        yield f"{output} holds a finished data set; a run with the settings that made it changes nothing"


def _note_selection(selection: Selection, listing: Listing) -> Iterator[str]:
    yield from selection.notes
    faults = (*listing.faults, *selection.faults)
    yield from (f"{fault.item}: {fault.reason}" for fault in faults[:MAX_NOTES])
    if len(faults) > MAX_NOTES:
        yield f"{len(faults) - MAX_NOTES} more such faults of the listing"
    if selection.passed_over:
        yield f"{selection.passed_over:,} files of the source belong to no item"
