"""The tasks of a pipeline, which a pool of workers carries out: extracting items, writing parts, comparing files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import Protocol

from facscale.data import DataError
from facscale.ingest import layouts
from facscale.ingest.changes import Task
from facscale.ingest.extract import FaceExtractor
from facscale.ingest.items import Item, hash_content
from facscale.ingest.merge import Merge, PartWriter
from facscale.ingest.parts import Part
from facscale.ingest.records import Record, RecordLayout
from facscale.ingest.work_store import ItemStatus
from facscale.spec import Pipeline

Action = Callable[[str], str]


class Pool(Protocol):
    """Workers that carry out actions."""

    def connect(self) -> AbstractContextManager[None]:
        """Stay connected to the workers between calls of `run`."""

    def run(self, action: Action, rows: Sequence[str], *, pipeline: Pipeline) -> Iterator[str]:
        """Yield the results of an action for each row, in any order. Raises DataError, SpecError.

        A row whose worker died is tried again, without end: actions count their attempts.
        """


class LocalPool:
    """Carries out the actions in this process, in order: for tests, and where there is only one thing to do."""

    def connect(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def run(self, action: Action, rows: Sequence[str], *, pipeline: Pipeline) -> Iterator[str]:  # noqa: ARG002
        """Yield the results in the order of the rows."""
        yield from map(action, rows)


def extract_items(tasks: Sequence[Task], *, pipeline: Pipeline, run: str, pool: Pool) -> Iterator[ItemStatus]:
    """Yield the statuses of items as they complete, in any order. Raises DataError, SpecError."""
    rows = [json.dumps([task.key, task.item.to_json(), task.stamp]) for task in tasks]
    action = partial(_extract, pipeline=pipeline.model_dump_json(), run=run)
    yield from map(ItemStatus.from_json, pool.run(action, rows, pipeline=pipeline))


def list_records(containers: Sequence[str], *, pipeline: Pipeline, pool: Pool) -> list[Record]:
    """List the images in tar files or tables, each read by one worker, in the order of `containers`. Raises DataError."""
    found: dict[int, list[Record]] = {}
    rows = [json.dumps([number, name]) for number, name in enumerate(containers)]
    for text in pool.run(partial(_list_container, pipeline=pipeline.model_dump_json()), rows, pipeline=pipeline):
        number, records = json.loads(text)
        found[number] = [Record(*record) for record in records]
    return [record for number in sorted(found) for record in found[number]]


def write_parts(parts: Sequence[Part], *, merge: Merge, pool: Pool) -> Iterator[None]:
    """Write parts of a data set; yields after each. Raises DataError."""
    pipeline = merge.pipeline.model_dump_json()
    action = partial(
        _write, pipeline=pipeline, au=merge.au, run=merge.run, previous=merge.previous, has_split=merge.has_split
    )
    for _ in pool.run(action, [part.to_json() for part in parts], pipeline=merge.pipeline):
        yield


def hash_contents(tasks: Sequence[Task], *, pipeline: Pipeline, pool: Pool) -> Iterator[tuple[str, str]]:
    """Yield (key, hash of the content) of items, in any order; see `hash_content`."""
    rows = [json.dumps([task.key, *task.item.files, *task.item.labels]) for task in tasks]
    for text in pool.run(partial(_hash, root=pipeline.source.root), rows, pipeline=pipeline):
        key, content = json.loads(text)
        yield key, content


def _extract(text: str, *, pipeline: str, run: str) -> str:
    key, item, stamp = json.loads(text)
    return _get_extractor(pipeline, run)(Item.from_json(item), key, stamp).to_json()


def _list_container(text: str, *, pipeline: str) -> str:
    number, name = json.loads(text)
    source = Pipeline.model_validate_json(pipeline).source
    layout = layouts.open_layout(source)
    assert isinstance(layout, RecordLayout)
    try:
        records = layout.read_container(source.root, name)
    except (ValueError, OSError) as error:
        raise DataError(f"{source.root}: {error}") from None
    return json.dumps([number, [(record.file, record.fields, record.place) for record in records]], default=str)


def _write(text: str, *, pipeline: str, au: tuple[int, ...], run: str, previous: str, has_split: bool) -> str:
    _get_part_writer(pipeline, au, run, previous, has_split)(Part.from_json(text))
    return ""


def _hash(text: str, *, root: str) -> str:
    key, *names = json.loads(text)
    return json.dumps([key, hash_content(root, names)])


@lru_cache(maxsize=1)
def _get_extractor(pipeline: str, run: str) -> FaceExtractor:
    """Return the extractor of this worker process, which Ray reuses for all tasks: weights are loaded once."""
    return FaceExtractor(Pipeline.model_validate_json(pipeline), run=run)


@lru_cache(maxsize=1)
def _get_part_writer(pipeline: str, au: tuple[int, ...], run: str, previous: str, has_split: bool) -> PartWriter:  # noqa: FBT001 - the key of a cache
    return PartWriter(Merge(Pipeline.model_validate_json(pipeline), au, run, previous=previous, has_split=has_split))
