"""A whole pipeline: render (if asked), list, work through the items on Ray, merge, report.

Nothing is done twice: a finished data set of the same recipe and source is left as it is, and an unfinished one goes
on where it stopped.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from facscale.data import DataError, Dataset
from facscale.data.manifest import MANIFEST
from facscale.data.storage import Folder
from facscale.ingest import detectors, layouts
from facscale.ingest.items import Item, Listing, list_files, open_root
from facscale.ingest.merge import merge
from facscale.ingest.parts import Parts, Status
from facscale.ingest.report import Report, summarise
from facscale.ingest.sheet import write_sheet
from facscale.ingest.stills import batches
from facscale.progress import Progress
from facscale.spec import Pipeline, SpecError

RECIPE_VERSION = 1  # rises when the same spec gives other crops


def run(pipeline: Pipeline, *, progress: bool = True) -> Report:
    """Make the data set of a pipeline, on Ray. Videos that cannot be used are in the report; they never end the run.

    Raises DataError when the source or the output cannot be used at all, or the output holds something else;
    SpecError for a detector that cannot run.
    """
    recipe = recipe_of(pipeline)
    finished = Dataset(pipeline.output) if Folder(pipeline.output).exists(MANIFEST) else None
    if finished and _recipe_without_listing(finished) != recipe:
        raise _other_recipe(pipeline, finished, recipe)
    if pipeline.render and finished:
        return _already_there(pipeline)  # the recipe says all about rendered faces
    if pipeline.render:
        _render(pipeline, progress=progress)
    listing = list_files(pipeline.source.root)
    items = _items(pipeline, listing)
    recipe_and_listing = {**recipe, "listing": listing.fingerprint(items)}
    if finished and finished.manifest.recipe != recipe_and_listing:
        raise _other_recipe(pipeline, finished, recipe_and_listing)
    if finished:
        return _already_there(pipeline)
    return _make(pipeline, listing=listing, items=items, recipe=recipe_and_listing, progress=progress)


def recipe_of(pipeline: Pipeline) -> dict[str, Any]:
    """All that decides what the crops look like; where they come from and go to, and how fast, does not."""
    source = pipeline.source
    some: dict[str, Any] = {"flow": pipeline.flow.model_dump(mode="json")} if pipeline.flow else {}
    if classes := layouts.expressions(source):
        some["expressions"] = list(classes)
    return some | {
        "version": RECIPE_VERSION,
        "layout": source.layout,
        "every": source.every,
        "limit": source.limit,
        "aus": list(source.aus),
        "detector": {"name": pipeline.detector.name, **detectors.options(pipeline).model_dump(mode="json")},
        "crop": pipeline.crop.model_dump(mode="json"),
        "render": pipeline.render.model_dump(mode="json") if pipeline.render else None,
    }


def _items(pipeline: Pipeline, listing: Listing) -> tuple[Item, ...]:
    if layouts.expressions(pipeline.source):
        if pipeline.flow:
            raise SpecError(f"flow: the layout {pipeline.source.layout} has single images, which no other one follows")
        return batches(pipeline.source, listing)
    layout = layouts.find(pipeline.source.layout)
    items = tuple(sorted(layout.items(listing.files), key=lambda item: item.order))
    if not items:
        raise DataError(
            f"{pipeline.source.root}: none of its {len(listing.files)} files lies where the layout "
            f'"{pipeline.source.layout}" expects videos; check source.root and source.layout'
        )
    return items[: pipeline.source.limit or None]


def _make(
    pipeline: Pipeline, *, listing: Listing, items: Sequence[Item], recipe: dict[str, Any], progress: bool
) -> Report:
    begun = time.monotonic()
    parts = Parts(pipeline.output)
    parts.claim({key: value for key, value in recipe.items() if key != "listing"})
    keys = {item.key(listing.files): item for item in items}
    done = parts.statuses(set(keys))
    todo = [(key, item) for key, item in keys.items() if key not in done]
    statuses = _in_order([*done.values(), *_work(todo, pipeline=pipeline, done=len(done), progress=progress)])
    report = summarise(
        name=pipeline.name,
        output=pipeline.output,
        statuses=statuses,
        faults=listing.faults,
        reused=len(done),
        wall_s=time.monotonic() - begun,
    )
    report.write(statuses)
    if not report.faces:
        raise DataError(f"{pipeline.source.root}: not one face could be used, no data set was made\n{report.table()}")
    total = sum(status.faces > 0 for status in statuses)
    with Progress("shards", total=total, unit="items", shown=progress) as bar:
        merge(statuses, pipeline=pipeline, parts=parts, recipe=recipe, advance=bar.advance)
    _finish(pipeline)
    return report


def _work(todo: Sequence[tuple[str, Item]], *, pipeline: Pipeline, done: int, progress: bool) -> list[Status]:
    if not todo:
        return []
    from facscale.ingest.pool import work

    statuses: list[Status] = []
    frames = faces = skipped = 0
    title = f"faces of {pipeline.name or pipeline.output}"
    with Progress(title, total=len(todo), unit="items", shown=progress) as bar:
        for status in work(todo, pipeline=pipeline, run=uuid.uuid4().hex):
            statuses.append(status)
            frames, faces, skipped = frames + status.frames, faces + status.faces, skipped + (status.faces == 0)
            text = f"{frames} frames, {faces} faces, {skipped} skipped"
            bar.advance(note=f"{text}, {done} done before" if done else text)
    return statuses


def _in_order(statuses: Sequence[Status]) -> list[Status]:
    return sorted(statuses, key=lambda status: status.order)


def _finish(pipeline: Pipeline) -> None:
    """What comes after the manifest, and is made up for when a run was killed before it."""
    write_sheet(pipeline.output)
    Parts(pipeline.output).remove()


def _already_there(pipeline: Pipeline) -> Report:
    _finish(pipeline)
    report = Report.read(pipeline.output)
    if report is None:
        raise DataError(f"{pipeline.output}: its report is missing; the data set itself is whole")
    return Report(**{**vars(report), "outcome": "already there"})


def _render(pipeline: Pipeline, *, progress: bool) -> None:
    from facscale import synthetic

    assert pipeline.render is not None
    system, root = open_root(pipeline.source.root)
    if not isinstance(system, LocalFileSystem):
        raise SpecError(
            f"faces are rendered into a local folder only; {pipeline.source.root} is none: change source.root"
        )
    match pipeline.source.layout:
        case "voxceleb2" | "bp4d" | "disfa" as layout:
            workers = pipeline.ingest.workers
            synthetic.write_tree(root, layout=layout, render=pipeline.render, workers=workers, progress=progress)
        case "rafdb":
            synthetic.write_expressions(
                root, render=pipeline.render, workers=pipeline.ingest.workers, progress=progress
            )
        case other:
            raise SpecError(
                f'faces are rendered as voxceleb2, bp4d, disfa or rafdb; the layout "{other}" has no tree of its own'
            )


def _recipe_without_listing(finished: Dataset) -> dict[str, Any]:
    return {key: value for key, value in finished.manifest.recipe.items() if key != "listing"}


def _other_recipe(pipeline: Pipeline, finished: Dataset, recipe: dict[str, Any]) -> DataError:
    old = finished.manifest.recipe
    changed = sorted(key for key in recipe if old.get(key) != recipe[key])
    what = "other source files" if changed == ["listing"] else f"another recipe (different: {', '.join(changed)})"
    return DataError(
        f"{pipeline.output} already holds a finished data set from {what}; data sets never change: choose another output"
    )
