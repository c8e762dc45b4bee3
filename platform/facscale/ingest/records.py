"""Items from records: images with a row of fields each, from a table, from tar files or from Hugging Face datasets.

Which fields there are decides what is built. With an identity, a video and a frame number, images are the frames of
videos. With an identity alone (or no frame number), each image is a track of its own of that person. Without an identity
nobody is named, and each image is a person of its own.

Fields whose name is that of an AU (AU1, AU01, 'AU 1', AU01_c) hold its occurrence: 0, 1, or one of 9, -1, 999, NaN and
nothing for a frame that is not labelled. A field named as `source.expression` holds the class, one of
`source.expressions`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from pydantic import PositiveFloat

from facscale.ingest.containers import get_container, get_plain_name
from facscale.ingest.items import Fault, Files, Item, LabelledImage
from facscale.ingest.label_files import parse_au, parse_code, parse_whole
from facscale.ingest.layouts.base import FrameFolders, Layout, LayoutConfig

OCCURRENCE = {"0": 0, "1": 1, "9": -1, "-1": -1, "999": -1, "NaN": -1, "nan": -1, "None": -1}
SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "dev": "validation"}
LISTS = ("au", "aus")  # names of fields with several AUs
READERS = 8  # threads that read containers
STILLS = "image"  # the stored video name of images without a video


@dataclass(frozen=True)
class Record:
    """One image and its fields."""

    file: str  # name in the source, or place in a container
    fields: Mapping[str, Any]
    place: str  # for errors: file and line


class RecordConfig(LayoutConfig):
    """The names of the fields of records. A field that no record has is as if it were not named."""

    identity: str = "identity"
    video: str = "video"
    frame: str = "frame"
    split: str = "split"  # train, validation, test
    expression: str = ""  # "": facial expressions are not read
    fps: PositiveFloat = 25.0  # of the frame numbers


class RecordLayout(Layout):
    """A layout whose images come with fields.

    It overrides `list_records`; or `list_containers` and `read_container`, where images lie in larger files that several
    workers can read side by side.
    """

    Config = RecordConfig

    def list_records(self, files: Files, root: str) -> Sequence[Record]:
        """List all images of the source at `root`. Raises ValueError for tables that are missing or wrong."""
        with ThreadPoolExecutor(READERS) as pool:
            lists = pool.map(lambda name: self.read_container(root, name), self.list_containers(files))
            return [record for records in lists for record in records]

    def list_containers(self, files: Files) -> Sequence[str]:  # noqa: ARG002
        """List the files with images, in order; none where `list_records` is overridden. Raises ValueError without one."""
        return ()

    def read_container(self, root: str, name: str) -> Sequence[Record]:
        """List the images in one file, with fields that JSON can hold. Raises ValueError naming the file."""
        raise NotImplementedError

    @property
    def names_expressions(self) -> bool:
        """Whether the classes are those that the source lists."""
        return bool(self.config.expression)


def drop_contradictions(records: Iterable[Record], add_fault: Callable[[Fault], None]) -> list[Record]:
    """Drop records that repeat an image; where the repetition has other fields, the image is left out and noted."""
    by_file: dict[str, Record] = {}
    contradictory: set[str] = set()
    for record in records:
        first = by_file.setdefault(record.file, record)
        if first.fields != record.fields and record.file not in contradictory:
            contradictory.add(record.file)
            reason = f"two rows that differ ({first.place}; {record.place}): left out"
            add_fault(Fault(record.file, "labels", reason))
    return [record for record in by_file.values() if record.file not in contradictory]


def drop_missing(records: Sequence[Record], files: Files, add_fault: Callable[[Fault], None]) -> list[Record]:
    """Drop records without an image, and note how many. Raises ValueError if no image is there.

    An image whose name has another Unicode form in the table than in the listing (as a Mac's zip files write it) is there.
    """
    spellings = {unicodedata.normalize("NFC", name): name for name in files if not name.isascii()}
    if spellings:
        named = ((record, spellings.get(unicodedata.normalize("NFC", record.file))) for record in records)
        records = [
            record if name is None or record.file in files else replace(record, file=name) for record, name in named
        ]
    present = [record for record in records if get_container(record.file) in files]
    if not present:
        example = f", such as {records[0].file} ({records[0].place})" if records else ""
        raise ValueError(f"none of the {len(records)} listed images exists{example}; check source.folder")
    if len(present) < len(records):
        first = next(record for record in records if get_container(record.file) not in files)
        n_missing = len(records) - len(present)
        reason = f"label rows without an image (of {len(records)}): {n_missing}, such as {first.place}; left out"
        add_fault(Fault(first.file, "labels", reason))
    return present


def has_identities(records: Iterable[Record], config: RecordConfig) -> bool:
    """Return whether the records name people. Raises ValueError if only some of them do."""
    without = [record for record in records if not _get_text(record, config.identity)]
    named = any(_get_text(record, config.identity) for record in records)
    if named and without:
        raise ValueError(f"{without[0].place}: the field {config.identity!r} is empty here and not elsewhere")
    return named


def build_items(records: Sequence[Record], config: RecordConfig) -> list[Item]:
    """Build the items of records that name people. Raises ValueError for a value that cannot be read."""
    folders, labels = FrameFolders(), {}
    counts: dict[tuple[str, str, str], int] = {}
    has_frames = any(_get_text(record, config.frame) for record in records)
    for record in records:
        identity, video = _get_text(record, config.identity), _get_text(record, config.video) or STILLS
        key = (identity, video, _get_split(record, config))
        if has_frames:
            number = parse_whole(_get_text(record, config.frame), record.place)
        else:
            number = counts[key] = counts.get(key, -1) + 1
        folders.add(key, number, record.file)
        labels[record.file] = read_aus(record)
    items = []
    for (identity, video, split), frames in folders:
        rows = [labels[file] for file in frames["files"]]
        au = tuple(sorted({unit for row in rows for unit in row}))
        codes = tuple("".join(_encode(row.get(unit, -1)) for unit in au) for row in rows) if au else ()
        item = Item(identity, video, split, fps=config.fps, split=split, au=au, occurrence=codes, **frames)
        items.append(item if has_frames else Item(**{**vars(item), "still": True}))
    return items


def build_images(records: Sequence[Record], config: RecordConfig) -> list[LabelledImage]:
    """Build the images of records that name nobody; with expressions, the part is train unless the record says test."""
    images = []
    for record in records:
        expression = _get_text(record, config.expression) if config.expression else ""
        part = _get_split(record, config)
        if config.expression:
            part = "test" if part in ("test", "validation") else "train"
        au = tuple(sorted((unit, value) for unit, value in read_aus(record).items() if value >= 0))
        images.append(LabelledImage(_make_name(record.file), record.file, part, expression, au))
    return images


def read_aus(record: Record) -> dict[int, int]:
    """Return the occurrence of each AU that the record has a field for: 0, 1, -1. Raises ValueError with the place."""
    result: dict[int, int] = {}
    for name, value in record.fields.items():
        if name.lower() in LISTS and value is not None:
            raise ValueError(
                f"{record.place}, {name}: a list of AUs does not say which others are absent; give each AU a field of its "
                "own (AU1, AU2, ...) with 0 or 1, or rename this one"
            )
        au = parse_au(name) if name.lower().lstrip("'\"").startswith("au") else None
        if au is not None:
            if au in result:
                raise ValueError(f"{record.place}: AU{au} has two fields, one of them {name}; remove one of them")
            code = parse_code(_format_value(value), OCCURRENCE, f"{record.place}, {name}", takes_decimals=True)
            result[au] = -1 if code is None else code
    return result


def flatten_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a mapping of AUs into fields, {"au": {"1": 0}} to {"AU1": 0}; drop other mappings and lists but AUs'."""
    flat = {key: value for key, value in fields.items() if not isinstance(value, Mapping | list)}
    for key, value in fields.items():
        if key.lower() in LISTS and isinstance(value, list):
            flat[key] = value  # for the error
        if key.lower() in LISTS and isinstance(value, Mapping):
            flat |= {f"AU{str(au).upper().removeprefix('AU')}": code for au, code in value.items()}
    return flat


def _get_text(record: Record, field: str) -> str:
    return _format_value(record.fields.get(field))


def _format_value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value).strip()


def _get_split(record: Record, config: RecordConfig) -> str:
    text = _get_text(record, config.split).lower()
    return SPLITS.get(text, text)


def _encode(value: int) -> str:
    return str(value) if value >= 0 else "-"


def _make_name(file: str) -> str:
    """Make the name of a person from that of an image."""
    return get_plain_name(file).replace("/", "_")
