"""Runs a pipeline: renders (if configured), lists the source, processes the items on Ray, merges and reports.

No work is repeated: a finished data set of the same recipe and source is left unchanged, and an unfinished one is
resumed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem

from facscale.data import DataError, Dataset
from facscale.data.manifest import MANIFEST
from facscale.data.storage import Folder
from facscale.ingest import detectors, layouts
from facscale.ingest.contact_sheet import write_contact_sheet
from facscale.ingest.images import batch_images, build_batches
from facscale.ingest.items import Fault, ImageBatch, Item, Listing, list_files, open_root
from facscale.ingest.merge import merge_items
from facscale.ingest.passed_over import find_passed_over
from facscale.ingest.published import compare_published
from facscale.ingest.records import (
    RecordLayout,
    build_images,
    build_items,
    drop_contradictions,
    drop_missing,
    has_identities,
)
from facscale.ingest.report import IngestReport, build_report
from facscale.ingest.selection import select_items
from facscale.ingest.work_store import ItemStatus, WorkStore
from facscale.progress import Progress
from facscale.spec import Pipeline, SpecError

# Absent from a recipe unless they are set.
SELECTION = {"labels", "parts", "include", "exclude", "identities", "videos_per_identity", "clips_per_video"}
RECIPE_VERSION = 2  # increase it when the same spec gives different crops


class Selection(NamedTuple):
    """The items that a pipeline reads, and what its report says about the other files."""

    items: tuple[Item, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    passed_over: int  # files


def run(pipeline: Pipeline, *, progress: bool = True) -> IngestReport:
    """Build the data set of a pipeline, on Ray. Videos that cannot be used are in the report; they never end the run.

    Raises DataError when the source or the output cannot be used at all, or the output holds something else;
    SpecError for a detector that cannot run.
    """
    recipe = build_recipe(pipeline)
    dataset = Dataset(pipeline.output) if Folder(pipeline.output).exists(MANIFEST) else None
    if dataset and _without_listing(dataset.manifest.recipe) != recipe:
        raise _recipe_error(pipeline, dataset, recipe)
    if pipeline.render and dataset:
        return _reuse_dataset(pipeline)  # the recipe determines rendered faces completely: no need to list them
    if pipeline.render:
        _render(pipeline, progress=progress)
    listing = list_files(pipeline.source.root)
    selection = _list_items(pipeline, listing)
    recipe = {**recipe, "listing": listing.fingerprint(selection.items)}
    if dataset and dataset.manifest.recipe != recipe:
        raise _recipe_error(pipeline, dataset, recipe)
    if dataset:
        return _reuse_dataset(pipeline)
    return _build_dataset(pipeline, listing=listing, selection=selection, recipe=recipe, progress=progress)


def build_recipe(pipeline: Pipeline) -> dict[str, Any]:
    """Collect all settings that the crops depend on: not their places and not the speed. Stored in the manifest."""
    source = pipeline.source
    optional: dict[str, Any] = {"flow": pipeline.flow.model_dump(mode="json")} if pipeline.flow else {}
    if expressions := layouts.select_expressions(source):
        optional["expressions"] = list(expressions)
    if options := layouts.dump_options(source):
        optional["layout_options"] = options
    optional |= source.model_dump(mode="json", include=SELECTION, exclude_defaults=True)
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


def _list_items(pipeline: Pipeline, listing: Listing) -> Selection:
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
        listed = _list_videos(pipeline, layout, listing, faults.append)
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
    pipeline: Pipeline, layout: layouts.Layout, listing: Listing, add_fault: Callable[[Fault], None]
) -> tuple[Item, ...]:
    """List the items of a layout of videos or of records: those of records that name nobody are batches of images."""
    if not isinstance(layout, RecordLayout):
        return tuple(layout.list_items(listing.files))
    source = pipeline.source
    try:
        records = drop_contradictions(layout.list_records(listing.files, source.root), add_fault)
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


def _build_dataset(
    pipeline: Pipeline, *, listing: Listing, selection: Selection, recipe: dict[str, Any], progress: bool
) -> IngestReport:
    started = time.monotonic()
    store = WorkStore(pipeline.output)
    store.check_recipe(_without_listing(recipe))
    items_by_key = {item.compute_key(listing.files): item for item in selection.items}
    reused = store.read_statuses(set(items_by_key))
    pending = [(key, item) for key, item in items_by_key.items() if key not in reused]
    new = _extract_pending(pending, pipeline=pipeline, reused=len(reused), progress=progress)
    statuses = sorted([*reused.values(), *new], key=lambda status: status.sort_key)
    report = build_report(
        name=pipeline.name,
        output=pipeline.output,
        statuses=statuses,
        faults=(*listing.faults, *selection.faults),
        notes=(*selection.notes, *compare_published(pipeline, statuses)),
        passed_over=selection.passed_over,
        reused=len(reused),
        wall_s=time.monotonic() - started,
    )
    report.write(statuses)
    if not report.faces:
        raise DataError(
            f"{pipeline.source.root}: no face could be used, so no data set was written\n{report.format_text()}"
        )
    total = sum(status.faces > 0 for status in statuses)
    with Progress("shards", total=total, unit="items", is_shown=progress) as bar:
        merge_items(statuses, pipeline=pipeline, store=store, recipe=recipe, advance=bar.advance)
    _finish(pipeline)
    return report


def _extract_pending(
    pending: Sequence[tuple[str, Item]], *, pipeline: Pipeline, reused: int, progress: bool
) -> list[ItemStatus]:
    if not pending:
        return []
    from facscale.ingest.pool import extract_items

    statuses: list[ItemStatus] = []
    frames = faces = skipped = 0
    title = f"faces of {pipeline.name or pipeline.output}"
    with Progress(title, total=len(pending), unit="items", is_shown=progress) as bar:
        for status in extract_items(pending, pipeline=pipeline, run=uuid.uuid4().hex):
            statuses.append(status)
            frames, faces, skipped = frames + status.frames, faces + status.faces, skipped + (status.faces == 0)
            note = f"{frames} frames, {faces} faces, {skipped} skipped"
            bar.advance(note=f"{note}, {reused} done before" if reused else note)
    return statuses


def _finish(pipeline: Pipeline) -> None:
    """Do what follows the manifest; repeated by the next run if this one was killed before it."""
    write_contact_sheet(pipeline.output)
    WorkStore(pipeline.output).delete()


def _reuse_dataset(pipeline: Pipeline) -> IngestReport:
    _finish(pipeline)
    report = IngestReport.read(pipeline.output)
    if report is None:
        raise DataError(
            f"{pipeline.output}: report.json is missing, the data set itself is complete; to get a report again, run the "
            "pipeline with another output"
        )
    return IngestReport(**{**vars(report), "outcome": "already there"})


def _render(pipeline: Pipeline, *, progress: bool) -> None:
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


def _without_listing(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key != "listing"}


def _recipe_error(pipeline: Pipeline, dataset: Dataset, recipe: dict[str, Any]) -> DataError:
    keys = sorted(key for key in recipe if dataset.manifest.recipe.get(key) != recipe[key])
    difference = "other source files" if keys == ["listing"] else f"another recipe (different: {', '.join(keys)})"
    return DataError(
        f"{pipeline.output} already holds a finished data set from {difference}; data sets never change: choose another "
        "output"
    )
