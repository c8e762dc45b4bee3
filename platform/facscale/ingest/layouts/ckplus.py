"""CK+ (Lucey et al., 2010): cohn-kanade-images/S005/001/S005_001_00000011.png and FACS/S005/001/..._facs.txt.

Each of the 593 sequences begins with a neutral face and ends at the peak of an expression. The label file belongs to the
last frame: a line `9.0 3.0` for each AU that is present, with its intensity (0: present, the intensity is not known).
AUs that it does not list are absent. `source.neutral: true` also labels the first frame, with all AUs absent, as many
papers do; the frames in between are not labelled. The expressions (Emotion/) are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from facscale.ingest.items import Files, Item, Labels
from facscale.ingest.label_files import decode_text
from facscale.ingest.layouts.base import Layout, LayoutConfig, Read, list_sequences

# fmt: off
AU = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 23, 24, 25, 26, 27, 28, 29, 31, 34, 38, 39, 43)
# fmt: on
MAX_INTENSITY = 5
FPS = 30.0  # NTSC video
IMAGE = re.compile(r"(?:.*/)?(S\d+)/(\d+)/S\d+_\d+_(\d+)\.\w+", re.ASCII)
LABELS = re.compile(r"(?:.*/)?(S\d+)/(\d+)/S\d+_\d+_(\d+)_facs\.txt", re.ASCII)


class CKPlusConfig(LayoutConfig):
    """Options of the layout ckplus."""

    neutral: bool = False  # label the first frame of each labelled sequence as neutral


class CKPlus(Layout):
    """Short image sequences, with the AUs of the last frame."""

    Config = CKPlusConfig
    published = "CK+"
    label_place = "FACS/S005/001/S005_001_00000011_facs.txt"

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per sequence."""
        yield from list_sequences(files, image=IMAGE, labels=LABELS, fps=FPS)

    def read_labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:
        """Read the AUs of the labelled frame."""
        if not item.labels:
            return Labels(), ["no label file: its frames are stored as not labelled"]
        if len(item.labels) > 1:
            raise ValueError(f"several label files ({', '.join(item.labels)}); keep one")
        (name,) = item.labels
        match = LABELS.fullmatch(name)
        assert match is not None  # by list_items
        occurrence, intensity = np.zeros((2, len(AU)), np.int8), np.zeros((2, len(AU)), np.int8)
        notes, levels = list[str](), dict[int, int]()
        for number, line in enumerate(decode_text(read(name), name).splitlines(), start=1):
            if not line.strip():
                continue
            au, level = _parse_line(line, f"{name}, line {number}")
            if au not in AU:
                notes.append(f"{name}, line {number}: AU{au} is none of those that CK+ codes: left out")
                continue
            if au in levels and levels[au] != level:
                notes.append(f"{name}, line {number}: AU{au} is listed with two intensities; stored without one")
                level = 0
            levels[au] = level
        if not levels and not notes:
            raise ValueError(f"{name}: the file is empty; unpack it again")
        for au, level in levels.items():
            occurrence[0, AU.index(au)] = 1
            intensity[0, AU.index(au)] = level or -1
        rows = {int(match[3]): 0}
        if self.config.neutral and item.numbers[0] != int(match[3]):
            rows[item.numbers[0]] = 1
        return Labels(AU, rows, occurrence[: len(rows)], intensity[: len(rows)]), notes


def _parse_line(line: str, place: str) -> tuple[int, int]:
    try:
        au, level = (float(word) for word in line.split())
    except ValueError:
        raise ValueError(f"{place}: {line[:40]!r} is not an AU and its intensity") from None
    if not (au.is_integer() and level.is_integer() and 0 <= level <= MAX_INTENSITY and au > 0):
        raise ValueError(f"{place}: {line[:40]!r} is not an AU and an intensity of 0 to {MAX_INTENSITY}")
    return int(au), int(level)
