"""BP4D (Zhang et al., 2014): SUBJECT/TASK/FRAME.jpg and AUCoding/AU_OCC/SUBJECT_TASK.csv, 25 fps.

Zero-padding of the frame numbers differs from sequence to sequence and from the label files, so they are compared as
numbers. A label file's header holds the AU numbers, its first column (header `0`) the frame; 9 means "not coded" and is
stored as -1. `source.aus` selects the AUs that are kept: the protocol averages 12, the files code up to 27.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator

import numpy as np

from facscale.ingest.items import IMAGE_SUFFIXES, Files, Item, Labels, get_stem, get_suffix

DEPTH = 3  # F001 / T1 / 2440.jpg
OCCURRENCE = {"0": 0, "1": 1, "9": -1}


def list_items(files: Files) -> Iterator[Item]:
    """Yield one item per (subject, task)."""
    tasks: dict[tuple[str, str], dict[int, str]] = {}
    for name in files:
        parts = name.split("/")
        if len(parts) != DEPTH or parts[0] == "AUCoding":
            continue
        if get_suffix(name) in IMAGE_SUFFIXES and get_stem(name).isdecimal():
            tasks.setdefault((parts[0], parts[1]), {})[int(get_stem(name))] = name
    for (subject, task), frames in tasks.items():
        label_file = f"AUCoding/AU_OCC/{subject}_{task}.csv"
        yield Item(
            identity=subject,
            video=task,
            part="",
            files=tuple(frames[number] for number in sorted(frames)),
            numbers=tuple(sorted(frames)),
            labels=(label_file,) if label_file in files else (),
        )


def read_labels(item: Item, read: Callable[[str], bytes]) -> tuple[Labels, list[str]]:
    """Read the occurrences; BP4D's intensities are in other files and are not read."""
    if not item.labels:
        return Labels(), ["no label file: its frames are stored as not labelled"]
    (name,) = item.labels
    header, *lines = [line for line in csv.reader(read(name).decode("utf-8-sig").splitlines()) if line]
    au = tuple(_parse_number(word, name, 1) for word in header[1:])
    rows = {}
    occurrence = np.empty((len(lines), len(au)), np.int8)
    for row, line in enumerate(lines):
        if len(line) != len(header):
            raise ValueError(f"{name}, line {row + 2}: {len(line)} values under a header of {len(header)}")
        rows[_parse_number(line[0], name, row + 2)] = row
        occurrence[row] = [_parse_occurrence(word, name, row + 2) for word in line[1:]]
    return Labels(au, rows, occurrence, np.full_like(occurrence, -1)), []


def _parse_number(word: str, name: str, line: int) -> int:
    if not word.strip().isdecimal():
        raise ValueError(f"{name}, line {line}: {word!r} is not a number")
    return int(word)


def _parse_occurrence(word: str, name: str, line: int) -> int:
    if word.strip() not in OCCURRENCE:
        raise ValueError(f"{name}, line {line}: {word!r} is none of 0, 1, 9")
    return OCCURRENCE[word.strip()]
