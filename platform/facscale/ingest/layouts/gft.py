"""GFT (Girard et al., 2017): a video or a folder of images for each person of a group, and a table of occurrences.

The data set is given out on request, and no public code reads it, so its places are options: a person is what
`source.subject`, a regular expression, matches in the name of a video (or of a folder of numbered images) and in the name
of a table. By default this is the number of a group and a letter: 001A. A table has a header with the AUs (AU1, AU01 or 1)
and a row for each frame; the first column, or the one named frame, is its number, counted from `source.first_frame`.
Labels are 0 and 1; 9, -1, 999 and NaN are not labelled.

The published split is not public: `source.test` lists its test subjects (or @URL of a file with one on each line); all
others are the part train.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat

from facscale.ingest.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Files, Item, Labels, get_stem, get_suffix
from facscale.ingest.label_files import LabelRows, iterate_rows, parse_au, parse_code, parse_whole
from facscale.ingest.layouts.base import FrameFolders, Layout, LayoutConfig, Read
from facscale.ingest.selection import match_people, read_names
from facscale.spec import SpecError

OCCURRENCE = {"0": 0, "1": 1, "9": -1, "-1": -1, "999": -1, "NaN": -1, "nan": -1}
FRAME_COLUMNS = ("frame", "frames", "frame_number", "framenumber")


class GFTConfig(LayoutConfig):
    """Options of the layout gft."""

    subject: str = r"\d{3}[A-Z]"
    first_frame: NonNegativeInt = 1
    fps: PositiveFloat = 30.0  # of folders of images
    test: tuple[str, ...] = ()


class GFT(Layout):
    """A video and a table for each person."""

    Config = GFTConfig
    published = "GFT"
    label_place = "any folder, SUBJECT.csv"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        try:
            self._subject = re.compile(self.config.subject)
        except re.error as error:
            raise SpecError(f"source.subject: {self.config.subject!r} is no regular expression: {error}") from None

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per video, or per folder of images of a person."""
        tables: dict[str, list[str]] = {}
        videos: list[tuple[str, str]] = []
        folders = FrameFolders()
        for name in files:
            folder, suffix = name.rpartition("/")[0], get_suffix(name)
            if suffix in IMAGE_SUFFIXES and get_stem(name).isdecimal():
                if person := self._find_subject(get_stem(folder)):
                    folders.add((person, folder), int(get_stem(name)), name)
            elif person := self._find_subject(get_stem(name)):
                if suffix == ".csv":
                    tables.setdefault(person, []).append(name)
                elif suffix in VIDEO_SUFFIXES:
                    videos.append((person, name))
        people = {person for person, _ in videos} | {person for (person, _), _ in folders}
        test, _ = match_people(people, read_names(self.config.test))
        for person, name in videos:
            yield self._build_item(person, tables, test, part=name, files=(name,), first=self.config.first_frame)
        for (person, folder), frames in folders:
            yield self._build_item(person, tables, test, part=folder, fps=self.config.fps, **frames)

    def _build_item(self, person: str, tables: dict[str, list[str]], test: set[str], **fields: Any) -> Item:
        split = ("test" if person in test else "train") if self.config.test else ""
        return Item(identity=person, video="group", labels=tuple(sorted(tables.get(person, ()))), split=split, **fields)

    def _find_subject(self, text: str) -> str | None:
        match = self._subject.search(text)
        return match[0] if match else None

    def read_labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:
        """Read the occurrences."""
        if not item.labels:
            return Labels(), ["no table: its frames are stored as not labelled"]
        if len(item.labels) > 1:
            raise ValueError(f"several tables of one person ({', '.join(item.labels)}); keep one")
        (name,) = item.labels
        rows = iterate_rows(read(name), name)
        line, header = next(rows, (1, [""]))
        frame_column = next((n for n, word in enumerate(header) if word.lower() in FRAME_COLUMNS), 0)
        if parse_au(header[frame_column]) is not None:
            raise ValueError(
                f"{name}, line {line}: there is no column of frame numbers: none is called {FRAME_COLUMNS[0]}, and the first "
                f"is {header[0]}"
            )
        columns = {n: au for n, word in enumerate(header) if n != frame_column and (au := parse_au(word)) is not None}
        if not columns:
            raise ValueError(f"{name}, line {line}: {','.join(header)[:60]!r} names no AU")
        labels = LabelRows(name, tuple(columns.values()))
        for line, cells in rows:
            place = f"{name}, line {line}"
            if len(cells) != len(header):
                raise ValueError(f"{place}: {len(cells)} values under a header of {len(header)}")
            values = [parse_code(cells[column], OCCURRENCE, place) for column in columns]
            labels.add(parse_whole(cells[frame_column], place), values, place)
        return labels.build()
