"""Writes data sets from extracted items in this process, as a pipeline does on its workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from facscale.data.manifest import Manifest
from facscale.data.storage import Folder
from facscale.data.writer import finish_dataset
from facscale.ingest import layouts
from facscale.ingest.merge import Merge, PartWriter, find_most_common, has_published_split
from facscale.ingest.parts import Part, plan_parts
from facscale.ingest.work_store import ItemStatus, WorkStore
from facscale.spec import Pipeline


def merge_items(
    statuses: Sequence[ItemStatus],
    *,
    pipeline: Pipeline,
    recipe: dict[str, Any],
    arrange: Callable[[list[Part]], Sequence[Part]] = list,
) -> Manifest:
    """Write the data set at the output of a pipeline; `arrange` decides in which order its parts are written."""
    au = tuple(sorted({number for status in statuses if status.faces for number in status.au}))
    merge = Merge(pipeline, au, "run", has_split=has_published_split(statuses))
    parts = plan_parts(statuses, settings=merge.settings, shard_mb=pipeline.ingest.shard_mb)
    for part in arrange(parts):
        PartWriter(merge)(part)
    records = WorkStore(pipeline.output).read_parts([part.key for part in parts])
    return finish_dataset(
        Folder(pipeline.output),
        [records[part.key] for part in parts],
        name=pipeline.name,
        au=au,
        expressions=layouts.select_expressions(pipeline.source),
        image_size=pipeline.crop.stored_size,
        margin=pipeline.crop.margin,
        fps=find_most_common(statuses, "fps"),
        every=find_most_common(statuses, "step"),
        recipe=recipe,
    )
