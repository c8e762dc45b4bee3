"""The report of a pipeline: counts, and every video or image that was left out, with the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from facscale.data import DataError
from facscale.data.manifest import ABOUT
from facscale.data.parquet import read_parquet
from facscale.data.storage import Folder
from facscale.ingest.items import Fault
from facscale.ingest.people import MixedIdentity
from facscale.ingest.published import count_positives
from facscale.ingest.quality import MAX_DISAGREEMENT, MAX_OUTSIDE, QualitySummary, merge_summaries
from facscale.ingest.work_store import ItemStatus, put_file

REPORT, TEXT, ITEMS = (f"{ABOUT}/{name}" for name in ("report.json", "report.txt", "items.parquet"))
MAX_FAULTS = 20  # in the text
MAX_CHANGES = 5  # of a kind, in the text
MAX_MIXED = 20  # in the text


@dataclass(frozen=True)
class IngestReport:
    """The outcome of a pipeline, also stored beside the data set. The fields are the keys of `report.json`."""

    name: str
    output: str
    outcome: Literal["made", "already there", "nothing found"]
    items: int  # videos in the source, or batches of single images
    reused: int  # of the items, processed by an earlier run
    identities: int
    tracks: int
    frames: int  # decoded
    faces: int  # kept
    faceless: int  # frames without a detected face
    dropped: int  # frames in tracks that were too short
    work_s: float  # over all workers
    wall_s: float
    faults: tuple[Fault, ...]
    label_rows: int = 0  # rows of label files that label some AU
    rows_without_image: int = 0
    frames_without_label: int = 0  # of those decoded, in items with labels
    positives: tuple[tuple[int, int, int], ...] = ()  # (AU, positive frames decoded, of these left out)
    passed_over: int = 0  # files of the source that no item reads
    notes: tuple[str, ...] = ()  # on the source as a whole
    shot_cuts: int = 0
    previous: str = ""  # URL of the version before
    changes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # since the version before, as in the manifest
    bystanders: int = 0  # faces beside the tracked ones that were seen for as long as a track lasts
    crowded: int = 0  # items in which there are such faces
    strangers: int = 0  # crops that were left out because they show another person than most of their item
    mixed: tuple[MixedIdentity, ...] = ()  # identities some of whose items show somebody else
    quality: QualitySummary = field(default_factory=QualitySummary)

    @property
    def detection_rate(self) -> float:
        """Share of the decoded frames in which a face was detected."""
        return 1 - self.faceless / self.frames if self.frames else 0.0

    @property
    def sorted_faults(self) -> tuple[Fault, ...]:
        """Faults in the order of their items."""
        return tuple(sorted(self.faults, key=lambda fault: (fault.item, fault.stage)))

    def to_json(self) -> str:
        """Serialize the report for `report.json`."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, output: str) -> Self | None:
        """Read the report beside a data set; None if there is none."""
        try:
            fields = json.loads(Folder(output).read_about(REPORT))
        except FileNotFoundError:
            return None
        fields["faults"] = tuple(Fault(**fault) for fault in fields["faults"])
        fields["positives"] = tuple(tuple(row) for row in fields.get("positives", ()))
        fields["notes"] = tuple(fields.get("notes", ()))
        fields["changes"] = {name: tuple(items) for name, items in fields.get("changes", {}).items()}
        fields["mixed"] = tuple(
            MixedIdentity(**{**entry, "others": tuple(entry["others"])}) for entry in fields.get("mixed", ())
        )
        fields["quality"] = QualitySummary(**fields.get("quality", {}))
        return cls(**fields)

    def __str__(self) -> str:
        return self.format_text()

    def format_text(self) -> str:
        """Format the counts, then the first faults, for `report.txt` and the terminal."""
        rate = f"{self.frames / self.work_s:.0f} frames/s a worker" if self.work_s else ""
        n_faulty, n_left_out = len({fault.item for fault in self.faults}), self.frames - self.faces
        lines = [
            f"{self.name} -> {self.output}: {self.outcome}",
            f"  items    {self.items:>9}   {self.reused} done before, {n_faulty} with faults",
            f"  frames   {self.frames:>9}   {rate}",
            f"  faces    {self.faces:>9}   a face was detected in {self.detection_rate:.1%} of the frames",
            f"  left out {n_left_out:>9}   {self.faceless} frames without a face, {self.dropped} in short tracks",
            f"  tracks   {self.tracks:>9}   of {self.identities} identities, {self.shot_cuts} shot cuts",
            *self._format_people(),
            *self._format_quality(),
            *self._format_changes(),
        ]
        lines += self._format_labels()
        if self.passed_over:
            lines.append(f"  unused   {self.passed_over:>9}   files of the source that belong to no item")
        lines += [f"  note     {note}" for note in self.notes]
        if self.faults:
            stages = Counter(fault.stage for fault in self.faults)
            lines.append("  faults   " + ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items())))
            faults = self.sorted_faults[:MAX_FAULTS]
            width = max(len(fault.item) for fault in faults)
            lines += [f"    {fault.item:<{width}}  {fault.stage:<7} {fault.reason}" for fault in faults]
            if len(self.faults) > MAX_FAULTS:
                lines.append(f"    ... and {len(self.faults) - MAX_FAULTS} more in {REPORT}")
        return "\n".join(lines)

    def _format_changes(self) -> Iterator[str]:
        if self.previous:
            total = sum(map(len, self.changes.values()))
            counts = ", ".join(f"{len(items)} {name}" for name, items in self.changes.items() if items)
            yield f"  changes  {total:>9}   since {self.previous}: {counts or 'only the sizes of its shards'}"
        for name, items in self.changes.items():
            if items:
                more = f", and {len(items) - MAX_CHANGES} more in {REPORT}" if len(items) > MAX_CHANGES else ""
                yield f"    {name:<9}{', '.join(items[:MAX_CHANGES])}{more}"

    def _format_labels(self) -> list[str]:
        if not self.label_rows:
            return []
        rows = f"{self.rows_without_image} without an image, {self.frames_without_label} frames without labels"
        lines = [f"  labels   {self.label_rows:>9}   {rows}"]
        total, lost = (sum(row[column] for row in self.positives) for column in (1, 2))
        if total:
            au, positive, lost_of_au = max(self.positives, key=lambda row: row[2] / max(row[1], 1))
            worst = f", most of AU{au}: {lost_of_au} of {positive}" if lost_of_au else ""
            lines.append(f"  positive {total:>9}   {lost} lost with frames that were left out{worst}")
        return lines

    def _format_people(self) -> Iterator[str]:
        if self.bystanders:
            yield f"  others   {self.bystanders:>9}   faces beside the tracked ones were not taken, in {self.crowded} items"
        if self.strangers:
            yield f"  another  {self.strangers:>9}   crops show another person than most of their video and were left out"
        if self.mixed:
            yield f"  mixed    {len(self.mixed):>9}   identities have videos that show somebody else than most of theirs"
            for mixed in self.mixed[:MAX_MIXED]:
                videos = f"{len(mixed.others)} of {mixed.items} videos, such as {mixed.others[0]}"
                yield f"    {mixed.identity}  {videos}"
            if len(self.mixed) > MAX_MIXED:
                yield f"    ... and {len(self.mixed) - MAX_MIXED} more in {REPORT}"

    def _format_quality(self) -> Iterator[str]:
        quality = self.quality
        if quality.disagreement is not None:
            yield (
                f"  doubtful {quality.doubtful:>9}   landmarks that differ by more than {MAX_DISAGREEMENT:g} eye distances "
                f"between two fits (mean of all: {quality.disagreement:.3f})"
            )
        if quality.sharpness is not None:
            yield (
                f"  cut off  {quality.cut_off:>9}   crops more than {MAX_OUTSIDE:.0%} outside of the picture; "
                f"mean sharpness {quality.sharpness:.0f}"
            )

    def write(self, statuses: Sequence[ItemStatus]) -> None:
        """Write the report beside the data set, and the statuses as a table with one row per item."""
        folder = Folder(self.output)
        rows = [status.to_row() for status in statuses]
        if rows:
            with put_file(folder, ITEMS) as path:
                pq.write_table(pa.Table.from_pylist(rows), path)
        folder.write(TEXT, f"{self.format_text()}\n".encode())
        folder.write(REPORT, self.to_json().encode())


def read_statuses(output: str) -> list[ItemStatus] | None:
    """Read the statuses of the items of a finished data set; None if it has none (a pipeline did not write it)."""
    try:
        data = Folder(output).read_about(ITEMS)
    except FileNotFoundError:
        return None
    try:
        return [ItemStatus.from_row(row) for row in read_parquet(data).to_pylist()]
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{output}/{ITEMS} is damaged: {error}") from None


def build_report(
    *,
    name: str,
    output: str,
    statuses: Sequence[ItemStatus],
    faults: Sequence[Fault],
    reused: int,
    wall_s: float,
    notes: Sequence[str] = (),
    passed_over: int = 0,
    previous: str = "",
    changes: Mapping[str, tuple[str, ...]] | None = None,
    mixed: Sequence[MixedIdentity] = (),
) -> IngestReport:
    """Sum up the statuses of all items; `faults`, `notes` and `passed_over` are those of the listing."""
    faces = sum(status.faces for status in statuses)
    identities = len({status.identity for status in statuses if status.faces and not status.stills})
    return IngestReport(
        name=name,
        output=output,
        outcome="made" if faces else "nothing found",
        items=len(statuses),
        reused=reused,
        identities=identities + sum(status.faces for status in statuses if status.stills),
        tracks=sum(status.tracks for status in statuses),
        frames=sum(status.frames for status in statuses),
        faces=faces,
        faceless=sum(status.faceless for status in statuses),
        dropped=sum(status.dropped for status in statuses),
        work_s=round(sum(status.seconds for status in statuses), 1),
        wall_s=round(wall_s, 1),
        shot_cuts=sum(status.shot_cuts for status in statuses),
        bystanders=sum(status.bystanders for status in statuses),
        crowded=sum(status.bystanders > 0 for status in statuses),
        strangers=sum(status.strangers for status in statuses),
        mixed=tuple(mixed),
        quality=merge_summaries((status.faces, vars(status)) for status in statuses),
        faults=(*faults, *(fault for status in statuses for fault in status.faults)),
        label_rows=sum(status.label_rows for status in statuses),
        rows_without_image=sum(status.rows_without_image for status in statuses),
        frames_without_label=sum(status.frames_without_label for status in statuses if status.label_rows),
        positives=tuple((au, *counts) for au, counts in count_positives(statuses).items()),
        passed_over=passed_over,
        notes=tuple(notes),
        previous=previous,
        changes=dict(changes or {}),
    )
