"""DISFA+ (Mavadati et al., 2016): Images/SN001/TRIAL/000.jpg and Labels/SN001/TRIAL/AU1.txt, any folders above.

A label file has a line `000.jpg 3` for each image: its name (or its number) and an intensity of 0 to 5, with blanks, a tab
or a comma in between; lines before the first one of this form are a header. An AU is present from intensity 2 on, as in
DISFA. Each trial is a video.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from facscale.ingest.items import Files, Item, Labels, get_stem
from facscale.ingest.label_files import LabelRows, decode_text, join_columns, parse_code
from facscale.ingest.layouts.base import Layout, Read, list_sequences
from facscale.ingest.layouts.disfa import FPS, INTENSITY, MIN_PRESENT

IMAGE = re.compile(r"(?:.*/)?(SN\d+)/([^/]+)/(\d+)\.\w+", re.IGNORECASE | re.ASCII)
LABELS = re.compile(r"(?:.*/)?(SN\d+)/([^/]+)/AU0*(\d+)\.txt", re.IGNORECASE | re.ASCII)
LINE = re.compile(r"(\d+)(?:\.\w+)?(?:\s*,\s*|\s+)(\S*)", re.ASCII)


class DISFAPlus(Layout):
    """Folders of images, with a text file per AU for each."""

    label_place = "Labels/SN001/TRIAL/AU1.txt"

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per trial."""
        yield from list_sequences(files, image=IMAGE, labels=LABELS, fps=FPS)

    def read_labels(self, item: Item, read: Read) -> tuple[Labels, list[str]]:
        """Read the intensities, and derive the occurrences from them."""
        if not item.labels:
            return Labels(), ["no label file: its frames are stored as not labelled"]
        columns = [_read_column(name, read(name)) for name in item.labels]
        return join_columns(item.identity, columns, present_from=MIN_PRESENT)


def _read_column(name: str, content: bytes) -> LabelRows:
    column = LabelRows(name, (int(get_stem(name)[2:]),))
    is_header = True
    for number, line in enumerate(decode_text(content, name).splitlines(), start=1):
        match, place = LINE.fullmatch(line.strip()), f"{name}, line {number}"
        if match:
            is_header = False
            column.add(int(match[1]), [parse_code(match[2], INTENSITY, place)], place)
        elif line.strip() and not is_header:
            raise ValueError(f"{place}: {line[:40]!r} is not like `000.jpg 3`")
    if is_header:
        raise ValueError(f"{name}: no line is like `000.jpg 3`; unpack the file again")
    return column
