"""DISFA (Mavadati et al., 2013): Videos_LeftCamera/LeftVideoSN001_comp.avi and ActionUnit_Labels/SN001/SN001_au1.txt.

A label file has a line `frame,intensity` for each frame, counted from 1, intensities 0..5; an AU is present from
intensity 2 on (the protocol of the field). An AU without a file is stored as not labelled: other readers take it as
"never present" and count its absence as ground truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from facscale.ingest.items import VIDEO_SUFFIXES, Files, Item, Labels, get_stem, get_suffix

AU = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
MIN_PRESENT = 2  # smallest intensity that counts as present
MAX_INTENSITY = 5
VIDEO = re.compile(r"LeftVideo(SN\d+)(_comp)?", re.IGNORECASE)


def list_items(files: Files) -> Iterator[Item]:
    """Yield one item per subject."""
    for name in files:
        folder, _, file = name.rpartition("/")
        match = VIDEO.fullmatch(get_stem(file))
        if folder == "Videos_LeftCamera" and match and get_suffix(name) in VIDEO_SUFFIXES:
            subject = match[1].upper()
            label_files = (f"ActionUnit_Labels/{subject}/{subject}_au{au}.txt" for au in AU)
            yield Item(
                identity=subject,
                video="left",
                part=get_stem(file),
                files=(name,),
                first=1,
                labels=tuple(label_file for label_file in label_files if label_file in files),
            )


def read_labels(item: Item, read: Callable[[str], bytes]) -> tuple[Labels, list[str]]:
    """Read the intensities, and derive the occurrences from them."""
    columns = {int(get_stem(name).rpartition("_au")[2]): _parse_column(read(name), name) for name in item.labels}
    missing = [au for au in AU if au not in columns]
    notes = [f"no label file for AU {', '.join(map(str, missing))}: stored as not labelled"] if missing else []
    numbers = sorted(set().union(*columns.values()))
    rows = {number: row for row, number in enumerate(numbers)}
    intensity = np.full((len(numbers), len(AU)), -1, np.int8)
    for au, column in columns.items():
        for number, value in column.items():
            intensity[rows[number], AU.index(au)] = value
    occurrence = np.where(intensity < 0, -1, intensity >= MIN_PRESENT).astype(np.int8)
    return Labels(AU, rows, occurrence, intensity), notes


def _parse_column(text: bytes, name: str) -> dict[int, int]:
    """Parse a label file: intensity by frame number."""
    column = {}
    for line, words in enumerate(text.decode("utf-8-sig").split(), start=1):
        number, comma, value = words.partition(",")
        if not (comma and number.isdecimal() and value.isdecimal() and int(value) <= MAX_INTENSITY):
            raise ValueError(
                f"{name}, line {line}: {words!r} is not frame,intensity with an intensity of 0 to {MAX_INTENSITY}"
            )
        column[int(number)] = int(value)
    return column
