"""Builds one version of a data set: extracts the items that are new, has its parts written, and writes the manifest last.

Whatever is there already is used: the version before, and what an earlier run of this version has left in the work store.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow.compute as pc

from facscale.data import DataError, Dataset
from facscale.data.manifest import ABOUT
from facscale.data.storage import Folder, open_fsspec
from facscale.data.versions import find_next_version
from facscale.data.writer import WrittenTracks, finish_dataset, normalize_columns
from facscale.ingest import layouts
from facscale.ingest.changes import Previous, Task, compare_items, list_changes, select_settings
from facscale.ingest.contact_sheet import write_contact_sheet
from facscale.ingest.items import Fault, Item, Listing
from facscale.ingest.lock import OutputLock
from facscale.ingest.merge import Merge, find_most_common, has_published_split
from facscale.ingest.parts import Part, locate_items, plan_parts, rename_part
from facscale.ingest.people import MixedIdentity, find_mixed_identities
from facscale.ingest.published import compare_published
from facscale.ingest.report import IngestReport, build_report
from facscale.ingest.tasks import LocalPool, Pool, extract_items, hash_contents, write_parts
from facscale.ingest.work_store import READERS, ItemStatus, WorkStore, delete_files
from facscale.progress import Progress
from facscale.spec import Pipeline

STEM = re.compile(r"shard-\d{5}(-[0-9a-f]{8})?")
SHARD = re.compile(rf"{STEM.pattern}(-\d{{3}})?\.parquet")
PARTIAL = re.compile(r"\..*\.[0-9a-f]+\.partial")  # of a process that was killed while it put a file in place


class Selection(NamedTuple):
    """The items that a pipeline reads, and what its report says about the other files."""

    items: tuple[Item, ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    passed_over: int  # files


class Source(NamedTuple):
    """What a pipeline reads."""

    listing: Listing
    selection: Selection

    def list_tasks(self) -> list[Task]:
        """List the items with their keys and stamps, each once."""
        files, stamps = self.listing.files, self.listing.stamps
        tasks = (Task(item.compute_key(files), item, item.compute_stamp(stamps)) for item in self.selection.items)
        return list({task.key: task for task in tasks}.values())


@dataclass
class VersionBuilder:
    """Builds the version that follows `previous`, or the first one, at the output of `pipeline`."""

    pipeline: Pipeline
    source: Source
    recipe: dict[str, Any]
    previous: Previous | None
    lock: OutputLock
    pool: Pool
    progress: bool

    def __post_init__(self) -> None:
        if self.previous:
            self.pipeline = self.pipeline.model_copy(update={"output": find_next_version(self.pipeline.output)})
        self.folder, self.store = Folder(self.pipeline.output), WorkStore(self.pipeline.output)
        self.run = uuid.uuid4().hex
        self.started = time.monotonic()

    def build(self, *, should_retry: bool = False) -> IngestReport:
        """Build the data set; with `should_retry`, items that failed are processed again. Raises DataError, SpecError.

        If its faces would be those of the previous version, there is no new one.
        """
        self.store.check_recipe(select_settings(self.recipe))
        kept, pending = self._select_pending(should_retry=should_retry)
        done = self._read_done(pending, should_retry=should_retry)
        remaining = [task for task in pending if task.key not in done]
        self.store.delete_items([task.key for task in remaining])
        with self.pool.connect() if remaining else nullcontext():
            return self._build(kept, list(done.values()), remaining, pending)

    def _build(
        self, kept: list[ItemStatus], done: list[ItemStatus], remaining: list[Task], pending: list[Task]
    ) -> IngestReport:
        reused = len(kept) + len(done)
        new = self._extract(remaining, reused=reused)
        statuses = sorted([*kept, *done, *new], key=lambda status: status.sort_key)
        report = self._build_report(statuses, reused=reused)
        if not report.faces:
            report.write(statuses)
            raise DataError(
                f"{self.pipeline.source.root}: no face could be used, so no data set was written\n{report.format_text()}"
            )
        merge = self._make_merge(statuses)
        parts = self._plan(statuses, merge, kept)
        if self.previous and [part.key for part in parts] == list_origins(self.previous.dataset):
            return self._keep_previous(report, statuses)
        report.write(statuses)  # before the shards, so that faults are seen early
        self._write_parts(parts, merge, pending)
        report = replace(report, wall_s=round(time.monotonic() - self.started, 1))
        self._finish(parts, merge, report, statuses)
        return report

    def _select_pending(self, *, should_retry: bool) -> tuple[list[ItemStatus], list[Task]]:
        """Return the statuses of items that the previous version has as they are now, and the other items."""
        comparison = compare_items(self.source.list_tasks(), self.previous, should_retry=should_retry)
        kept, pending = list(comparison.kept), list(comparison.pending)
        if comparison.touched:
            tasks = [task for task, _ in comparison.touched]
            with Progress("compared", total=len(tasks), unit="items", is_shown=self.progress) as bar:
                contents = {}
                for key, content in hash_contents(tasks, pipeline=self.pipeline, pool=self.pool):
                    contents[key] = content
                    bar.advance()
            for task, old in comparison.touched:
                if contents[task.key] == old.content:
                    kept.append(replace(old, stamp=task.stamp, split=task.item.split))
                else:
                    pending.append(task)
        return kept, pending

    def _read_done(self, pending: Sequence[Task], *, should_retry: bool) -> dict[str, ItemStatus]:
        """Read the statuses of items that an earlier run has completed, and that have not changed since, by key."""
        stored = self.store.read_statuses([task.key for task in pending])
        stamps = {task.key: task.stamp for task in pending}
        return {
            key: status
            for key, status in stored.items()
            if status.is_measured
            and (status.stamp == stamps[key] or not (status.stamp and stamps[key]))
            and not (should_retry and status.is_failed)
        }

    def _extract(self, tasks: Sequence[Task], *, reused: int) -> list[ItemStatus]:
        if not tasks:
            return []
        statuses: list[ItemStatus] = []
        frames = faces = skipped = 0
        title = f"faces of {self.pipeline.name or self.pipeline.output}"
        with Progress(title, total=len(tasks), unit="items", is_shown=self.progress) as bar:
            for status in extract_items(tasks, pipeline=self.pipeline, run=self.run, pool=self.pool):
                statuses.append(status)
                frames, faces, skipped = frames + status.frames, faces + status.faces, skipped + (status.faces == 0)
                note = f"{frames} frames, {faces} faces, {skipped} skipped"
                bar.advance(note=f"{note}, {reused} done before" if reused else note)
        return statuses

    def _build_report(self, statuses: Sequence[ItemStatus], *, reused: int) -> IngestReport:
        listing, selection = self.source
        return build_report(
            name=self.pipeline.name,
            output=self.pipeline.output,
            statuses=statuses,
            faults=(*listing.faults, *selection.faults),
            notes=(*selection.notes, *compare_published(self.pipeline, statuses)),
            passed_over=selection.passed_over,
            mixed=self._find_mixed_identities(statuses),
            reused=reused,
            wall_s=time.monotonic() - self.started,
            previous=self.previous.dataset.url if self.previous else "",
            changes=list_changes(self.previous, statuses) if self.previous else {},
        )

    def _find_mixed_identities(self, statuses: Sequence[ItemStatus]) -> tuple[MixedIdentity, ...]:
        """Find the identities of the items that were processed now; those of the others were found before."""
        recognition = self.pipeline.recognition
        if not recognition:
            return ()
        mixed_now = list(find_mixed_identities(statuses, max_distance=recognition.max_distance))
        old = IngestReport.read(self.previous.dataset.url) if self.previous else None
        identities = {status.identity for status in statuses} - {mixed.identity for mixed in mixed_now}
        return (*mixed_now, *(mixed for mixed in (old.mixed if old else ()) if mixed.identity in identities))

    def _make_merge(self, statuses: Sequence[ItemStatus]) -> Merge:
        au = tuple(sorted({number for status in statuses if status.faces for number in status.au}))
        previous = self.previous.dataset.url if self.previous else ""
        return Merge(self.pipeline, au, self.run, previous=previous, has_split=has_published_split(statuses))

    def _plan(self, statuses: Sequence[ItemStatus], merge: Merge, kept: Sequence[ItemStatus]) -> list[Part]:
        rows = {}
        if self.previous and self.previous.statuses is not None:
            located = locate_items(self.previous.dataset, self.previous.statuses)
            rows = {status.key: located[status.key] for status in kept}
        return plan_parts(statuses, settings=merge.settings, shard_mb=self.pipeline.ingest.shard_mb, rows=rows)

    def _keep_previous(self, report: IngestReport, statuses: Sequence[ItemStatus]) -> IngestReport:
        """Keep the previous version, whose faces are all the same, and store what is now known of its items."""
        assert self.previous is not None
        url = self.previous.dataset.url
        old = IngestReport.read(url)
        report = replace(
            report, output=url, previous=old.previous if old else "", changes=dict(old.changes) if old else {}
        )
        report.write(statuses)
        self.store.delete()
        if self.folder.is_local:
            with suppress(OSError):
                self.folder.path.rmdir()
        return replace(report, outcome="already there")

    def _write_parts(self, parts: list[Part], merge: Merge, pending: Sequence[Task]) -> None:
        """Have the shards of all parts put in place; `parts` get the names that their shards have."""
        files = self.store.list_files()
        keys = {part.key for part in parts}
        self.store.delete_files([name for name in files if name.endswith(".tracks") and name[:-7] not in keys])
        stored = self.store.read_parts([part.key for part in parts if f"{part.key}.tracks" in files])
        done = self._check_stored(stored)
        taken = {get_stem(written) for written in done.values()}
        parts[:] = [part if part.key in done else rename_part(part, taken) for part in parts]
        with Progress("shards", total=len(parts), unit="parts", is_shown=self.progress) as bar:
            bar.update(len(done))
            for part in parts:
                if part.key in done:  # a run that was killed may have left them
                    left = [f"{item.key}.parquet" for item in part.items if f"{item.key}.parquet" in files]
                    self.store.delete_files(left)
            missing = [part for part in parts if part.key not in done]
            copied = self._take_over(missing, advance=bar.advance)
            missing = [part for part in missing if part.key not in copied]
            if not missing:
                return
            self._restore_faces(missing, pending)
            pool = self.pool if len(missing) > 1 else LocalPool()
            for _ in write_parts(missing, merge=merge, pool=pool):
                bar.advance()

    def _check_stored(self, stored: dict[str, WrittenTracks]) -> dict[str, WrittenTracks]:
        """Return the records whose shards are there; the others are deleted."""

        def is_there(written: WrittenTracks) -> bool:
            return all(self.folder.measure(shard.file) == shard.bytes for shard in written.shards)

        with ThreadPoolExecutor(READERS) as pool:
            checked = dict(zip(stored, pool.map(is_there, stored.values()), strict=True))
        self.store.delete_files([f"{key}.tracks" for key, is_intact in checked.items() if not is_intact])
        return {key: written for key, written in stored.items() if checked[key]}

    def _take_over(self, parts: Sequence[Part], *, advance: Any) -> set[str]:
        """Take over the shards of parts that the previous version has too; return the keys of these parts."""
        if self.previous is None:
            return set()
        dataset = self.previous.dataset
        positions: dict[str, list[int]] = {}
        for number, shard in enumerate(dataset.manifest.shards):
            positions.setdefault(shard.origin, []).append(number)
        index, columns = dataset.read_index(), normalize_columns(dataset.arrow_schema)

        def take_over(part: Part) -> str:
            numbers = positions[part.key]
            shards = []
            for position, number in enumerate(numbers):
                shard = dataset.manifest.shards[number]
                name = part.name_shard(position)
                self.folder.take_over(name, source=dataset.folder, source_name=shard.file)
                shards.append(replace(shard, file=name))
            chosen = pc.and_(pc.greater_equal(index["shard"], numbers[0]), pc.less_equal(index["shard"], numbers[-1]))
            runs = index.filter(chosen)
            column = pc.subtract(runs["shard"], numbers[0]).cast("int32")
            runs = runs.set_column(runs.column_names.index("shard"), index.schema.field("shard"), column)
            self.store.save_part(part.key, WrittenTracks(tuple(shards), runs, columns))
            return part.key

        self.folder.create()
        copied = set()
        with ThreadPoolExecutor(READERS) as pool:
            for key in pool.map(take_over, [part for part in parts if part.key in positions]):
                copied.add(key)
                advance()
        return copied

    def _restore_faces(self, parts: Sequence[Part], pending: Sequence[Task]) -> None:
        """Process items again whose stored faces went into a part that is no longer one, since the source has changed."""
        files = self.store.list_files()
        needed = {item.key: item for part in parts for item in part.items if not item.rows}
        lost = [task for task in pending if task.key in needed and f"{task.key}.parquet" not in files]
        if not lost:
            return
        self.store.delete_items([task.key for task in lost])
        for status in self._extract(lost, reused=0):
            if status.checksum != needed[status.key].checksum:
                raise DataError(
                    f"{self.pipeline.source.root}/{status.source} gave other faces than before; run the pipeline again"
                )

    def _finish(
        self, parts: Sequence[Part], merge: Merge, report: IngestReport, statuses: Sequence[ItemStatus]
    ) -> None:
        """Write report, index and manifest, in this order."""
        records = self.store.read_parts([part.key for part in parts])
        written = [records[part.key] for part in parts]
        rows = sum(shard.rows for record in written for shard in record.shards)
        if rows != report.faces:
            raise DataError(
                f"{self.folder.url}: its shards have {rows} faces instead of {report.faces}; delete {self.store.url} and run "
                "the pipeline again"
            )
        self.lock.check()
        self._remove_strays({shard.file for record in written for shard in record.shards})
        report.write(statuses)
        finish_dataset(
            self.folder,
            written,
            every=find_most_common(statuses, "step"),
            name=self.pipeline.name,
            au=merge.au,
            expressions=layouts.select_expressions(self.pipeline.source),
            image_size=self.pipeline.crop.stored_size,
            margin=self.pipeline.crop.margin,
            fps=find_most_common(statuses, "fps"),
            recipe=self._extend_recipe(),
            version=self.previous.dataset.manifest.version + 1 if self.previous else 1,
            previous=self.previous.dataset.manifest.fingerprint if self.previous else "",
            changes=dict(report.changes),
        )
        finish_output(self.pipeline.output)

    def _extend_recipe(self) -> dict[str, Any]:
        listing, selection = self.source
        recipe = {**self.recipe, "listing": listing.fingerprint(selection.items)}
        if self.previous is None:
            return recipe
        manifest = self.previous.dataset.manifest
        step = {"command": "extend", "from": [{"name": manifest.name, "fingerprint": manifest.fingerprint}]}
        return {**recipe, "history": [*self.previous.history, step]}

    def _remove_strays(self, shards: set[str]) -> None:
        """Remove shards that do not belong to the data set: a reader of the folder would take them for a part of it."""
        for url, is_stray in (
            (self.folder.url, lambda name: (SHARD.fullmatch(name) and name not in shards) or PARTIAL.fullmatch(name)),
            (f"{self.folder.url}/{ABOUT}", PARTIAL.fullmatch),
        ):
            system, path = open_fsspec(url, use_listings_cache=False)
            if system.exists(path):
                names = [str(name).rstrip("/").rpartition("/")[2] for name in system.ls(path, detail=False)]
                delete_files(url, [name for name in names if is_stray(name)])


def get_stem(written: WrittenTracks) -> str:
    """Return the stem of the part to which shards belong."""
    match = STEM.match(written.shards[0].file)
    assert match
    return match[0]


def list_origins(dataset: Dataset) -> list[str]:
    """List the keys of the parts of a data set, in their order."""
    return list(dict.fromkeys(shard.origin for shard in dataset.manifest.shards))


def finish_output(url: str) -> None:
    """Do what follows the manifest; repeated by the next run if this one was killed before it."""
    write_contact_sheet(url)
    WorkStore(url).delete()
