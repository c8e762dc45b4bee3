"""Reading label files as people leave them: decoding, tables, numbers, and rows or columns that occur twice.

What a spreadsheet or an editor adds is tolerated: blanks, `7.0` for frame 7, empty cells and lines, a byte order mark,
Windows line ends. A label that contradicts another one is stored as not labelled. Both are noted; anything else is a
ValueError that names file and line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from facscale.ingest.items import Labels

UNLABELLED = -1
WHOLE_NUMBER = re.compile(r"\+?(-?\d+)(\.0*)?", re.ASCII)
AU_NAME = re.compile(r"(?:AU[ _]?)?0*([1-9]\d?)(?:_c|_occ)?", re.IGNORECASE | re.ASCII)
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def decode_text(content: bytes, name: str) -> str:
    """Decode UTF-8 with or without a byte order mark. Raises ValueError naming the file."""
    if content.startswith(UTF16):
        raise ValueError(f"{name}: the file is UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: byte {error.start} is not UTF-8 text; unpack the file again") from None


def iterate_rows(content: bytes, name: str, *, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, stripped cells) of a table, without empty lines. Raises ValueError naming the file."""
    reader = csv.reader(decode_text(content, name).splitlines(), delimiter=delimiter)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise ValueError(f"{name}, line {reader.line_num}: {error}; unpack the file again") from None


def parse_whole(word: str, place: str) -> int:
    """Parse a number such as `7`, `007`, `7.0`. Raises ValueError with the place."""
    match = WHOLE_NUMBER.fullmatch(word.strip())
    if not match:
        raise ValueError(f"{place}: {word[:40]!r} is not a number")
    return int(match[1])


def parse_code(word: str, codes: Mapping[str, int], place: str, *, takes_decimals: bool = False) -> int | None:
    """Translate a label by `codes`; None for an empty cell. Raises ValueError with the place for any other word.

    Only with `takes_decimals` is `1.0` taken for `1`: in a file that is published with whole numbers, a point shows that a
    program has rewritten it, which may have changed more.
    """
    word = word.strip()
    if not word:
        return None
    match = WHOLE_NUMBER.fullmatch(word)
    if match and match[2] and not takes_decimals:
        raise ValueError(
            f"{place}: {word[:40]!r} is not a whole number, as the published codes are; unpack the file again"
        )
    code = codes.get(str(int(match[1])) if match else word)
    if code is None:
        raise ValueError(f"{place}: {word[:40]!r} is none of {', '.join(codes)}")
    return code


def parse_au(word: str) -> int | None:
    """Parse the name of an AU: `1`, `AU1`, `AU01`, `AU 1`, `'AU 1'`, `AU01_c`, `AU1_occ`; None for anything else."""
    match = AU_NAME.fullmatch(word.strip().strip("'\""))
    return int(match[1]) if match else None


def join_columns(name: str, columns: Sequence[LabelRows], *, present_from: int) -> tuple[Labels, list[str]]:
    """Join files of intensities of one AU each.

    A frame that a file lacks is not labelled by its AU, and noted, as are two files of one AU that contradict each other.
    """
    notes: list[str] = []
    joined = LabelRows(name, sorted({column.au[0] for column in columns}))
    listed: dict[int, set[int]] = {}  # by AU, the frames of its files
    for column in columns:
        values, remarks = column.build(has_intensity=True)
        notes += remarks
        for number, index in values.rows.items():
            joined.add_value(number, column.au[0], int(values.intensity[index, 0]))
        listed.setdefault(column.au[0], set()).update(values.rows)
    everything = set().union(*listed.values())
    if short := {au: len(everything - frames) for au, frames in listed.items() if len(frames) < len(everything)}:
        missing = ", ".join(f"AU{au} {count}" for au, count in sorted(short.items()))
        notes.append(f"{name}: frames that the files of other AUs list are missing: {missing}; stored as not labelled")
    labels, remarks = joined.build(present_from=present_from, has_intensity=True)
    return labels, [*notes, *remarks]


class LabelRows:
    """Collects the rows of one label file, or of one file per AU, and merges those that occur twice.

    `au`: the AU of each column, possibly with repetitions. Each row has a value per column: None for an empty cell.
    """

    def __init__(self, name: str, au: Sequence[int]) -> None:
        self.name = name
        self.au = tuple(dict.fromkeys(au))
        self._columns = [self.au.index(unit) for unit in au]
        self._rows: dict[int, list[int]] = {}
        self._conflicts: set[tuple[int, int]] = set()  # (frame, column)
        self._repeated: list[int] = []
        self._empty = 0
        self._first_empty = ""

    def add(self, number: int, values: Sequence[int | None], place: str) -> None:
        """Add the labels of the frame `number`."""
        empty = sum(value is None for value in values)
        if empty and not self._empty:
            self._first_empty = place
        self._empty += empty
        if number in self._rows:
            self._repeated.append(number)
        for column, value in zip(self._columns, values, strict=True):
            self._add(number, column, UNLABELLED if value is None else value)

    def add_value(self, number: int, au: int, value: int) -> None:
        """Add the label of one AU in the frame `number`."""
        self._add(number, self.au.index(au), value)

    def _add(self, number: int, column: int, value: int) -> None:
        row = self._rows.setdefault(number, [UNLABELLED] * len(self.au))
        if value in (UNLABELLED, row[column]):
            return
        if row[column] != UNLABELLED:
            self._conflicts.add((number, column))
        row[column] = value

    def build(self, *, present_from: int = 1, has_intensity: bool = False) -> tuple[Labels, list[str]]:
        """Return the labels and notes. With intensities, an AU is present from the intensity `present_from` on."""
        numbers = sorted(self._rows)
        values = np.array([self._rows[number] for number in numbers], np.int8).reshape(len(numbers), len(self.au))
        rows = {number: row for row, number in enumerate(numbers)}
        for number, column in self._conflicts:
            values[rows[number], column] = UNLABELLED
        occurrence = values
        if has_intensity:
            occurrence = np.where(values < 0, UNLABELLED, values >= present_from).astype(np.int8)
        intensity = values if has_intensity else np.full_like(values, UNLABELLED)
        return Labels(self.au, rows, occurrence, intensity), list(self._list_notes())

    def _list_notes(self) -> Iterator[str]:
        twice = sorted({self.au[column] for column in self._columns if self._columns.count(column) > 1})
        if twice:
            yield f"{self.name}: {_join_aus(twice)} {'has' if len(twice) == 1 else 'have'} two columns"
        if self._repeated:
            frames = sorted(set(self._repeated))
            yield f"{self.name}: frames with two rows: {len(frames)}, the first is frame {frames[0]}"
        if self._conflicts:
            frame = min(self._conflicts)[0]
            aus = _join_aus(sorted({self.au[column] for _, column in self._conflicts}))
            yield (
                f"{self.name}: labels that contradict each other: {len(self._conflicts)} of {aus}, the first in frame "
                f"{frame}; stored as not labelled"
            )
        if self._empty:
            yield f"{self._first_empty}: empty cells from here on: {self._empty}; stored as not labelled"


def _join_aus(aus: Sequence[int]) -> str:
    return ", ".join(f"AU{au}" for au in aus)
