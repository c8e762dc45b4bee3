"""Runs a pipeline: renders (if configured), lists the source, and has a version of the data set built from its items.

No work is repeated: a finished data set of the same recipe and source is left unchanged, an unfinished one is resumed, and
one whose source has changed is extended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from facscale.data import DataError
from facscale.data.derivation import TERMS
from facscale.ingest import detectors, layouts
from facscale.ingest.build import Selection, Source, VersionBuilder, finish_output
from facscale.ingest.changes import Previous, compare_items, drop_forgotten, find_previous
from facscale.ingest.images import batch_images, build_batches
from facscale.ingest.items import Fault, ImageBatch, Item, Listing, list_files, open_root
from facscale.ingest.lock import OutputLock
from facscale.ingest.passed_over import find_passed_over
from facscale.ingest.records import (
    Record,
    RecordLayout,
    build_images,
    build_items,
    drop_contradictions,
    drop_missing,
    has_identities,
)
from facscale.ingest.report import IngestReport
from facscale.ingest.selection import select_items
from facscale.ingest.tasks import Pool, list_records
from facscale.spec import Pipeline, SpecError

# Absent from a recipe unless they are set.
SELECTION = {"labels", "parts", "include", "exclude", "identities", "videos_per_identity", "clips_per_video"}
RECIPE_VERSION = 2  # increase it when the same spec gives different crops


def run(
    pipeline: Pipeline, *, progress: bool = True, should_retry: bool = False, pool: Pool | None = None
) -> IngestReport:
    """Build the data set of a pipeline, on `pool` (Ray). Videos that cannot be used are in the report; they never end the run.

    If the source has changed since, the next version is written beside it (OUTPUT-v2), from the last one and the items that
    have changed. `should_retry`: items that failed are processed again.

    Raises DataError when the source or the output cannot be used at all, the output holds something else, or another run
    is writing there; SpecError for a detector that cannot run.
    """
    get_pool = partial(_make_pool, pool)
    recipe = build_recipe(pipeline)
    previous = find_previous(pipeline.output, recipe)
    if pipeline.render and previous:
        return _reuse_dataset(previous)  # the recipe determines rendered faces completely: no need to list them
    source = None if pipeline.render else _read_source(pipeline, previous, get_pool)
    if previous and source and not _has_changed(source, previous, should_retry=should_retry):
        return _reuse_dataset(previous)
    with OutputLock(pipeline.output) as lock:
        previous = find_previous(pipeline.output, recipe)  # another run may just have ended
        if pipeline.render:
            render_source(pipeline, progress=progress)
        source = source or _read_source(pipeline, previous, get_pool)
        if previous and not _has_changed(source, previous, should_retry=should_retry):
            return _reuse_dataset(previous)
        builder = VersionBuilder(pipeline, source, recipe, previous, lock, get_pool(), progress)
        return builder.build(should_retry=should_retry)


def _make_pool(pool: Pool | None) -> Pool:
    """Return the given pool, or Ray's, which takes seconds to import."""
    if pool is not None:
        return pool
    from facscale.ingest.pool import RayPool

    return RayPool()


def build_recipe(pipeline: Pipeline) -> dict[str, Any]:
    """Collect all settings that the crops depend on: not their places and not the speed. Stored in the manifest."""
    source = pipeline.source
    optional: dict[str, Any] = pipeline.model_dump(mode="json", include={"flow", "recognition"}, exclude_none=True)
    if expressions := layouts.select_expressions(source):
        optional["expressions"] = list(expressions)
    if options := layouts.dump_options(source):
        optional["layout_options"] = options
    optional |= source.model_dump(mode="json", include=SELECTION, exclude_defaults=True)
    optional |= {term: getattr(source, term) for term in TERMS if getattr(source, term)}
    return optional | {
        "version": RECIPE_VERSION,
        "layout": source.layout,
        "every": source.every,
        "limit": source.limit,
        "aus": list(source.aus),
        "detector": {"name": pipeline.detector.name, **detectors.parse_options(pipeline).model_dump(mode="json")},
        "crop": pipeline.crop.model_dump(mode="json", exclude=None if pipeline.crop.margin else {"margin"}),
        "render": pipeline.render.model_dump(mode="json") if pipeline.render else None,
    }


def list_items(pipeline: Pipeline, listing: Listing, get_pool: Callable[[], Pool] | None = None) -> Selection:
    """List the items that a pipeline reads. Raises SpecError, or DataError for a source that does not fit its layout.

    `get_pool`: gives the workers that read tar files or tables of a remote source; without it, threads do.
    """
    source, root = pipeline.source, pipeline.source.root
    layout = layouts.open_layout(source)
    faults: list[Fault] = []
    also_read: set[str] = set()
    notes: list[str] = []
    if layout.has_images:
        if pipeline.flow:
            raise SpecError(f"flow: the layout {source.layout} has single images, and flow needs videos; remove flow")
        listed: tuple[Item, ...] = build_batches(source, listing, add_fault=faults.append, also_read=also_read)
        items = listed
    else:
        listed = _list_videos(pipeline, layout, listing, faults.append, get_pool)
        if not listed:
            raise DataError(
                f"{root}: none of its {len(listing.files)} files is where the layout "
                f'"{source.layout}" expects videos; check source.root and source.layout'
            )
        if layout.label_place and source.labels and not any(item.labels for item in listed):
            raise DataError(
                f'{root}: there is no label file where the layout "{source.layout}" expects them '
                f"({layout.label_place}); unpack them there, or set source.labels=false to store no labels"
            )
        is_anonymous = isinstance(listed[0], ImageBatch)  # its parts and number are selected already
        items, notes = (listed, []) if is_anonymous else select_items(source, listed)
    also_read.add(getattr(layout.config, "table", ""))
    count, remarks = find_passed_over(listing.files, listed, also_read)
    return Selection(items, tuple(faults), (*notes, *remarks), count)


def _list_videos(
    pipeline: Pipeline,
    layout: layouts.Layout,
    listing: Listing,
    add_fault: Callable[[Fault], None],
    get_pool: Callable[[], Pool] | None,
) -> tuple[Item, ...]:
    """List the items of a layout of videos or of records: those of records that name nobody are batches of images."""
    if not isinstance(layout, RecordLayout):
        return tuple(layout.list_items(listing.files))
    source = pipeline.source
    try:
        records = drop_contradictions(_list_records(pipeline, layout, listing, get_pool), add_fault)
        records = drop_missing(records, listing.files, add_fault)
        if has_identities(records, layout.config):
            if layout.config.expression:
                raise SpecError("source.expression: images with expressions must not name people; set source.identity")
            return tuple(build_items(records, layout.config))
        images = build_images(records, layout.config)
    except ValueError as error:
        raise DataError(f"{source.root}: {error}") from None
    parts = ("train", "test") if layout.config.expression else ()
    return batch_images(images, source, listing, parts=parts, add_fault=add_fault)


def _list_records(
    pipeline: Pipeline, layout: RecordLayout, listing: Listing, get_pool: Callable[[], Pool] | None
) -> Sequence[Record]:
    containers = layout.list_containers(listing.files)
    is_local = isinstance(open_root(pipeline.source.root)[0], LocalFileSystem)
    if not containers or is_local or get_pool is None:
        return layout.list_records(listing.files, pipeline.source.root)
    return list_records(containers, pipeline=pipeline, pool=get_pool())


def _read_source(pipeline: Pipeline, previous: Previous | None, get_pool: Callable[[], Pool]) -> Source:
    """List the source, without the people whom a version of the data set has forgotten."""
    listing = list_files(pipeline.source.root)
    selection = list_items(pipeline, listing, get_pool)
    items, dropped = drop_forgotten(selection.items, previous)
    if dropped:
        note = f"{dropped} items of people whom a version of this data set has forgotten are left out"
        selection = selection._replace(items=items, notes=(*selection.notes, note))
    return Source(listing, selection)


def _has_changed(source: Source, previous: Previous, *, should_retry: bool) -> bool:
    """Return whether something has to be done. Raises DataError if that concerns a data set that cannot be extended."""
    if previous.statuses is not None:
        return bool(compare_items(source.list_tasks(), previous, should_retry=should_retry))
    stored = previous.dataset.manifest.recipe.get("listing")
    if stored == source.listing.fingerprint(source.selection.items) and not should_retry:
        return False
    raise DataError(
        f"{previous.dataset.url} already holds a finished data set from other source files; it was written by an earlier "
        "release, or by another command, and lacks what is needed to extend it: choose another output"
    )


def _reuse_dataset(previous: Previous) -> IngestReport:
    url = previous.dataset.url
    finish_output(url)
    report = IngestReport.read(url)
    if report is None:
        raise DataError(
            f"{url}: report.json is missing, the data set itself is complete; to get a report again, run the "
            "pipeline with another output"
        )
    return IngestReport(**{**vars(report), "outcome": "already there"})


def render_source(pipeline: Pipeline, *, progress: bool) -> None:
    """Render the faces of a pipeline's block `render` into its source. Raises SpecError."""
    from facscale import synthetic

    assert pipeline.render is not None
    system, root = open_root(pipeline.source.root)
    if not isinstance(system, LocalFileSystem):
        raise SpecError(
            f"faces can be rendered into a local folder only, and {pipeline.source.root} is not local; change source.root"
        )
    match pipeline.source.layout:
        case "voxceleb2" | "bp4d" | "disfa" as layout:
            workers = pipeline.ingest.workers
            synthetic.write_tree(root, layout=layout, render=pipeline.render, workers=workers, progress=progress)
        case "rafdb":
            synthetic.write_expressions(
                root, render=pipeline.render, workers=pipeline.ingest.workers, progress=progress
            )
        case layout:
            raise SpecError(
                f'faces cannot be rendered in the layout "{layout}"; set source.layout to voxceleb2, bp4d, disfa or rafdb'
            )
