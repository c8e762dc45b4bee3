"""Aff-Wild2 (Kollias & Zafeiriou, 2019): cropped_aligned/VIDEO/00001.jpg and annotations/AU_Set/Train_Set/VIDEO.txt.

A label file has a header (AU1,AU2,...) and a row of 0, 1 or -1 for each frame: row 1 belongs to 00001.jpg. A -1 anywhere
in a row means that the frame is not labelled. ABAW1's files have 8 AUs, those since ABAW2 12; the header says which. The
folder is Training_Set or Train_Set, and AU_Set is called AU_Detection_Challenge since ABAW3. Videos of the test set, and
those of the other challenges, have no label file.

Nobody is named in it: each folder of images is an identity of its own. VIDEO_left and VIDEO_right show two people of one
recording, so they are two. Some people appear in several videos (458 in 558), which splits by identity cannot know.
The published split is not kept: both sets are read.

The images are crops of 112 x 112 already, without the frames in which their authors found no face. They are aligned
anew, so that the eyes lie where those of the other data sets do. Frames in which the detector sees no face are left out
with their labels, and so are tracks below its `shortest_track` (a missing image ends a track); the report counts both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from facscale.ingest.items import IMAGE_SUFFIXES, Files, Item, Labels, suffix

AU = frozenset({1, 2, 4, 6, 7, 10, 12, 15, 20, 23, 24, 25, 26})  # of all releases
OCCURRENCE = {"0": 0, "1": 1, "-1": -1}
IMAGE = re.compile(r"cropped_aligned/([^/]+)/(\d+)\.\w+", re.ASCII)
LABELS = re.compile(
    r"annotations/(?:AU_Set|AU_Detection_Challenge)/(?:Training_Set|Train_Set|Validation_Set)/([^/]+)\.txt"
)
SIDE = re.compile(r"_(left|right)$")
NAMED_FPS = re.compile(r"\d+-([1-9]\d*)-\d+x\d+")  # 46-30-484x360: the 46th, 30 fps
FPS = 30.0  # of the others (video59), a guess: most are


def items(files: Files) -> Iterator[Item]:
    """One item a folder of images."""
    folders: dict[str, dict[int, str]] = {}
    texts: dict[str, list[str]] = {}
    for name in files:
        image, text = IMAGE.fullmatch(name), LABELS.fullmatch(name)
        if image and suffix(name) in IMAGE_SUFFIXES:
            folders.setdefault(image[1], {})[int(image[2])] = name
        elif text:
            texts.setdefault(text[1], []).append(name)
    for folder, frames in folders.items():
        fps = NAMED_FPS.match(folder)
        yield Item(
            identity=folder,
            video=SIDE.sub("", folder),
            part="",
            files=tuple(frames[number] for number in sorted(frames)),
            numbers=tuple(sorted(frames)),
            fps=float(fps[1]) if fps else FPS,
            labels=tuple(sorted(texts.get(folder, ()))),
        )


def labels(item: Item, read: Callable[[str], bytes]) -> tuple[Labels, list[str]]:
    """Occurrences; there are no intensities."""
    if item.numbers and item.numbers[0] < 1:
        raise ValueError(f"{item.files[0]}: images are counted from 1, as the data set's authors do; rename them")
    if not item.labels:
        return Labels(), [f"no label file {item.identity}.txt in annotations/AU_Set: stored as not labelled"]
    if len(item.labels) > 1:
        raise ValueError(f"several label files ({', '.join(item.labels)}): keep those of one release of Aff-Wild2")
    (name,) = item.labels
    # Rows count, so empty ones in between are not passed over.
    header, *lines = read(name).decode("utf-8-sig", errors="replace").rstrip().splitlines() or [""]
    au = _header(header, name)
    occurrence = np.array([_row(line, au, f"{name}, line {n}") for n, line in enumerate(lines, start=2)], np.int8)
    occurrence = occurrence.reshape(len(lines), len(au))
    occurrence[(occurrence < 0).any(axis=1)] = -1
    beyond = sum(number > len(lines) for number in item.numbers)
    notes = [f"{beyond} images come after the last row of {name}: stored as not labelled"] if beyond else []
    rows = {row + 1: row for row in range(len(lines))}
    return Labels(au, rows, occurrence, np.full_like(occurrence, -1)), notes


def _header(line: str, name: str) -> tuple[int, ...]:
    words = [re.fullmatch(r"\s*AU(\d+)\s*", word, re.IGNORECASE | re.ASCII) for word in line.split(",")]
    au = tuple(int(word[1]) for word in words if word)
    if len(au) < len(words) or len(set(au)) < len(au) or not AU.issuperset(au):
        raise ValueError(
            f"{name}, line 1: {line[:80]!r} does not name AUs of Aff-Wild2 (AU1,AU2,AU4,...), each once; "
            "put the file of the AU challenge there"
        )
    return au


def _row(line: str, au: tuple[int, ...], place: str) -> list[int]:
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(au):
        raise ValueError(f"{place}: {len(words)} values under a header of {len(au)}; unpack the file again")
    for word in words:
        if word not in OCCURRENCE:
            raise ValueError(f"{place}: {word!r} is none of 0, 1, -1; unpack the file again")
    return [OCCURRENCE[word] for word in words]
