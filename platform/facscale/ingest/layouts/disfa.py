"""DISFA (Mavadati et al., 2013): Videos_LeftCamera/LeftVideoSN001_comp.avi and ActionUnit_Labels/SN001/SN001_au1.txt.

A label file has a line `frame,intensity` for each frame, counted from 1, intensities 0..5; an AU is present from
intensity 2 on (the protocol of the field). Where the file of an AU is missing it is stored as not labelled: other
readers take that for "never present" and count its absence as truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from facscale.ingest.items import VIDEO_SUFFIXES, Files, Item, Labels, stem, suffix

AU = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
PRESENT = 2  # smallest intensity that counts as present
STRONGEST = 5
VIDEO = re.compile(r"LeftVideo(SN\d+)(_comp)?", re.IGNORECASE)


def items(files: Files) -> Iterator[Item]:
    """One item a subject."""
    for name in files:
        folder, _, file = name.rpartition("/")
        match = VIDEO.fullmatch(stem(file))
        if folder == "Videos_LeftCamera" and match and suffix(name) in VIDEO_SUFFIXES:
            subject = match[1].upper()
            texts = (f"ActionUnit_Labels/{subject}/{subject}_au{au}.txt" for au in AU)
            yield Item(
                identity=subject,
                video="left",
                part=stem(file),
                files=(name,),
                first=1,
                labels=tuple(text for text in texts if text in files),
            )


def labels(item: Item, read: Callable[[str], bytes]) -> tuple[Labels, list[str]]:
    """Intensities as given, and occurrences from them."""
    columns = {int(stem(name).rpartition("_au")[2]): _column(read(name), name) for name in item.labels}
    missing = [au for au in AU if au not in columns]
    notes = [f"no label file for AU {', '.join(map(str, missing))}: stored as not labelled"] if missing else []
    numbers = sorted(set().union(*columns.values()))
    rows = {number: row for row, number in enumerate(numbers)}
    intensity = np.full((len(numbers), len(AU)), -1, np.int8)
    for au, column in columns.items():
        for number, value in column.items():
            intensity[rows[number], AU.index(au)] = value
    occurrence = np.where(intensity < 0, -1, intensity >= PRESENT).astype(np.int8)
    return Labels(AU, rows, occurrence, intensity), notes


def _column(text: bytes, name: str) -> dict[int, int]:
    """Intensity by frame number."""
    column = {}
    for line, words in enumerate(text.decode("utf-8-sig").split(), start=1):
        number, comma, value = words.partition(",")
        if not (comma and number.isdecimal() and value.isdecimal() and int(value) <= STRONGEST):
            raise ValueError(
                f"{name}, line {line}: {words!r} is no frame,intensity with an intensity of 0 to {STRONGEST}"
            )
        column[int(number)] = int(value)
    return column
