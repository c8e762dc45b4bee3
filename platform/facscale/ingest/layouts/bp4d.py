"""BP4D (Zhang et al., 2014): SUBJECT/TASK/FRAME.jpg and AUCoding/AU_OCC/SUBJECT_TASK.csv, 25 fps.

Zero-padding of the frame numbers differs from sequence to sequence and from the label files, so they are compared as
numbers. A label file's header holds the AU numbers, its first column (header `0`) the frame; 9 means "not coded" and is
stored as -1. `source.aus` selects the AUs that are kept: the protocol averages 12, the files code up to 27.
"""

from __future__ import annotations

from collections.abc import Iterator

from facscale.ingest.items import IMAGE_SUFFIXES, Files, Item, Labels, get_stem, get_suffix
from facscale.ingest.label_files import LabelRows, iterate_rows, parse_au, parse_code, parse_whole
from facscale.ingest.layouts.base import FrameFolders, Layout, Read

DEPTH = 3  # F001 / T1 / 2440.jpg
OCCURRENCE = {"0": 0, "1": 1, "9": -1}


class BP4D(Layout):
    """Image sequences of tasks, with a table of occurrences for each."""

    published = "BP4D"
    label_place = "AUCoding/AU_OCC/SUBJECT_TASK.csv"

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per (subject, task)."""
        folders = FrameFolders()
        for name in files:
            parts = name.split("/")
            if len(parts) != DEPTH or parts[0] == "AUCoding":
                continue
            if get_suffix(name) in IMAGE_SUFFIXES and get_stem(name).isdecimal():
                folders.add((parts[0], parts[1]), int(get_stem(name)), name)
        for (subject, task), frames in folders:
            label_file = f"AUCoding/AU_OCC/{subject}_{task}.csv"
            labels = (label_file,) if label_file in files else ()
            yield Item(identity=subject, video=task, part="", labels=labels, **frames)

    def read_labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:
        """Read the occurrences; BP4D's intensities are in other files and are not read."""
        if not item.labels:
            return Labels(), ["no label file: its frames are stored as not labelled"]
        (name,) = item.labels
        rows = iterate_rows(read(name), name)
        line, header = next(rows, (1, [""]))
        if len(header) < 2:
            raise ValueError(
                f"{name}, line {line}: {header[0][:40]!r} is not a header 0,1,2,...; unpack the file again"
            )
        if parse_au(header[0]) is not None:
            raise ValueError(
                f"{name}, line {line}: the first column is {header[0]}, an AU, where 0 heads the frame numbers; unpack the "
                "file again"
            )
        labels = LabelRows(name, [parse_whole(word, f"{name}, line {line}") for word in header[1:]])
        for line, cells in rows:
            place = f"{name}, line {line}"
            if len(cells) != len(header):
                raise ValueError(f"{place}: {len(cells)} values under a header of {len(header)}")
            labels.add(parse_whole(cells[0], place), [parse_code(word, OCCURRENCE, place) for word in cells[1:]], place)
        return labels.build()
