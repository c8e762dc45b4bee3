"""Aff-Wild2 (Kollias & Zafeiriou, 2019): cropped_aligned/VIDEO/00001.jpg and annotations/AU_Set/Train_Set/VIDEO.txt.

A label file has a header (AU1,AU2,...) and a row of 0, 1 or -1 for each frame: row 1 belongs to 00001.jpg. A -1 anywhere
in a row means that the frame is not labelled. ABAW1's files have 8 AUs, those since ABAW2 12; the header lists them. The
folder is Training_Set or Train_Set, and AU_Set is called AU_Detection_Challenge since ABAW3. Videos of the test set, and
those of the other challenges, have no label file. `annotations/` may have another name (ABAW's releases: Third ABAW
Annotations/...), lie deeper, or be left out.

The folder of its label file tells the part of the published split that a video belongs to: `source.parts: [train]` or
`[validation]` reads one of them, as the challenges do. Folders without labels belong to no part.

The data set names no subjects: each folder of images is an identity of its own. VIDEO_left and VIDEO_right show two
people of one recording, so they are two identities. Some people appear in several videos (458 people in 558 videos),
which splits by identity cannot take into account.

The images are crops of 112 x 112 already, without the frames in which the authors detected no face. They are aligned
again, so that the eyes are where those of the other data sets are. Frames in which the detector finds no face are left
out with their labels, and so are tracks shorter than its `shortest_track_s` (a missing image ends a track); the report
counts both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from facscale.ingest.items import IMAGE_SUFFIXES, Files, Item, Labels, get_suffix
from facscale.ingest.label_files import LabelRows, decode_text, parse_code
from facscale.ingest.layouts.base import FrameFolders, Layout, Read

AU = frozenset({1, 2, 4, 6, 7, 10, 12, 15, 20, 23, 24, 25, 26})  # of all releases
OCCURRENCE = {"0": 0, "1": 1, "-1": -1}
IMAGE = re.compile(r"(?:.*/)?cropped_aligned(?:_images)?/([^/]+)/(\d+)\.\w+", re.ASCII)
LABELS = re.compile(r"(?:.*/)?(?:AU_Set|AU_Detection_Challenge)/(Training_Set|Train_Set|Validation_Set)/([^/]+)\.txt")
SPLITS = {"Training_Set": "train", "Train_Set": "train", "Validation_Set": "validation"}
SIDE = re.compile(r"_(left|right)$")
FPS_IN_NAME = re.compile(r"\d+-([1-9]\d*)-\d+x\d+")  # 46-30-484x360: the 46th, 30 fps
DEFAULT_FPS = 30.0  # of the other videos (video59), an assumption: most have 30


class AffWild2(Layout):
    """Folders of cropped images, with a text file of occurrences for each."""

    published = "Aff-Wild2"
    label_place = "annotations/AU_Set/Train_Set/VIDEO.txt"

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per folder of images."""
        folders = FrameFolders()
        label_files: dict[str, dict[str, str]] = {}
        for name in files:
            image, text = IMAGE.fullmatch(name), LABELS.fullmatch(name)
            if image and get_suffix(name) in IMAGE_SUFFIXES:
                folders.add(image[1], int(image[2]), name)
            elif text:
                label_files.setdefault(text[2], {})[name] = SPLITS[text[1]]
        for folder, frames in folders:
            fps = FPS_IN_NAME.match(folder)
            labels = label_files.get(folder, {})
            yield Item(
                identity=folder,
                video=SIDE.sub("", folder),
                part="",
                fps=float(fps[1]) if fps else DEFAULT_FPS,
                labels=tuple(sorted(labels)),
                split=next(iter(labels.values()), ""),
                **frames,
            )

    def read_labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:
        """Read the occurrences; there are no intensities."""
        if item.numbers and item.numbers[0] < 1:
            raise ValueError(f"{item.files[0]}: images must be numbered from 1, as published; rename them")
        if not item.labels:
            return Labels(), [f"no label file {item.identity}.txt in annotations/AU_Set: stored as not labelled"]
        if len(item.labels) > 1:
            raise ValueError(f"several label files ({', '.join(item.labels)}): keep those of one release of Aff-Wild2")
        (name,) = item.labels
        # The row number is the frame number, so empty rows in between are not skipped.
        header, *lines = decode_text(read(name), name).rstrip().splitlines() or [""]
        au = _parse_header(header, name)
        labels = LabelRows(name, au)
        for number, line in enumerate(lines, start=1):
            labels.add(number, _parse_row(line, au, f"{name}, line {number + 1}"), f"{name}, line {number + 1}")
        result, notes = labels.build()
        result.occurrence[(result.occurrence < 0).any(axis=1)] = -1
        n_beyond = sum(number > len(lines) for number in item.numbers)
        if n_beyond:
            notes.append(f"images after the last row of {name}: {n_beyond}; stored as not labelled")
        return result, notes


def _parse_header(line: str, name: str) -> tuple[int, ...]:
    words = [re.fullmatch(r"\s*AU(\d+)\s*", word, re.IGNORECASE | re.ASCII) for word in line.split(",")]
    au = tuple(int(word[1]) for word in words if word)
    if len(au) < len(words) or not AU.issuperset(au):
        raise ValueError(
            f"{name}, line 1: {line[:80]!r} does not name AUs of Aff-Wild2 (AU1,AU2,AU4,...); "
            "put the file of the AU challenge there"
        )
    return au


def _parse_row(line: str, au: tuple[int, ...], place: str) -> list[int | None]:
    words = line.split(",")
    if len(words) != len(au):
        raise ValueError(f"{place}: {len(words)} values under a header of {len(au)}; unpack the file again")
    return [parse_code(word, OCCURRENCE, place) for word in words]
