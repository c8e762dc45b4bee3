"""DISFA (Mavadati et al., 2013): videos of two cameras, or images, and ActionUnit_Labels/SN001/SN001_au1.txt.

Videos: Videos_LeftCamera/LeftVideoSN001_comp.avi and Video_RightCamera/RightVideoSN001_comp.avi; `source.camera` selects
one of them. Images, as many papers extract them: SN001/0.jpg or SN001/00001.jpg, in any folder (Images/SN001/...). Their
numbers begin at 0 or at 1; if there is an image 0, it is frame 1 of the labels. Images are read if there are no videos of
the camera, one folder for each person; folders with the name of the other camera in their path are not.

A label file has a line `frame,intensity` for each frame, counted from 1, intensities 0..5; an AU is present from
intensity 2 on (the protocol of the field). An AU without a file is stored as not labelled: other readers take it as
"never present" and count its absence as ground truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from facscale.ingest.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Files, Item, Labels, get_stem, get_suffix
from facscale.ingest.label_files import LabelRows, iterate_rows, join_columns, parse_code, parse_whole
from facscale.ingest.layouts.base import FrameFolders, Layout, LayoutConfig, Read

AU = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
MIN_PRESENT = 2  # smallest intensity that counts as present
INTENSITY = {str(value): value for value in range(6)}
FOLDERS = {"left": "Videos_LeftCamera", "right": "Video_RightCamera"}
VIDEO = re.compile(r"(Left|Right)Video(SN\d+)(_comp)?", re.IGNORECASE)
IMAGE = re.compile(r"(?:.*/)?(SN\d+)/(\d+)\.\w+", re.IGNORECASE | re.ASCII)
FPS = 20.0  # of the published videos; for images it only gives the times


class DISFAConfig(LayoutConfig):
    """Options of the layout disfa."""

    camera: Literal["left", "right"] = "left"


class DISFA(Layout):
    """A video, or a folder of images, and a text file per AU for each person."""

    Config = DISFAConfig
    published = "DISFA"
    label_place = "ActionUnit_Labels/SN001/SN001_au1.txt"

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per subject."""
        items = [*self._list_videos(files)]
        yield from items or self._list_folders(files)

    def _list_videos(self, files: Files) -> Iterator[Item]:
        videos: dict[str, list[str]] = {}
        for name in files:
            folder, _, file = name.rpartition("/")
            match = VIDEO.fullmatch(get_stem(file))
            is_video = bool(match) and get_suffix(name) in VIDEO_SUFFIXES
            if folder == FOLDERS[self.config.camera] and match and is_video:
                videos.setdefault(match[2].upper(), []).append(name)
        for subject, names in videos.items():
            name, *others = sorted(names)
            notes = (f"several videos of one person: {', '.join(others)} not read",) if others else ()
            yield self._build_item(subject, files, part=get_stem(name), files_=(name,), first=1, notes=notes)

    def _list_folders(self, files: Files) -> Iterator[Item]:
        folders = FrameFolders()
        first: dict[str, str] = {}
        other = "right" if self.config.camera == "left" else "left"
        for name in files:
            match, folder = IMAGE.fullmatch(name), name.rpartition("/")[0]
            if not match or get_suffix(name) not in IMAGE_SUFFIXES or other in folder.lower():
                continue
            if first.setdefault(match[1].upper(), folder) == folder:  # another folder of the person is passed over
                folders.add((match[1].upper(), folder), int(match[2]), name)
        for (subject, folder), frames in folders:
            shift = 1 if frames["numbers"][0] == 0 else 0
            numbers = tuple(number + shift for number in frames["numbers"])
            yield self._build_item(
                subject, files, part=folder, files_=frames["files"], numbers=numbers, notes=frames["notes"], fps=FPS
            )

    def _build_item(self, subject: str, files: Files, *, part: str, files_: tuple[str, ...], **more: Any) -> Item:
        labels = (f"ActionUnit_Labels/{subject}/{subject}_au{au}.txt" for au in AU)
        present = tuple(label for label in labels if label in files)
        return Item(identity=subject, video=self.config.camera, part=part, files=files_, labels=present, **more)

    def read_labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:
        """Read the intensities, and derive the occurrences from them."""
        notes, columns = [], []
        by_au = {int(get_stem(name).rpartition("_au")[2]): name for name in item.labels}
        if missing := [au for au in AU if au not in by_au]:
            notes.append(f"no label file for AU {', '.join(map(str, missing))}: stored as not labelled")
        for au, name in by_au.items():
            column = LabelRows(name, (au,))
            for line, cells in iterate_rows(read(name), name):
                place = f"{name}, line {line}"
                if len(cells) != 2:
                    raise ValueError(f"{place}: {','.join(cells)[:40]!r} is not frame,intensity")
                column.add(parse_whole(cells[0], place), [parse_code(cells[1], INTENSITY, place)], place)
            columns.append(column)
        labels, remarks = join_columns(item.identity, columns, present_from=MIN_PRESENT)
        return labels, [*notes, *remarks]
