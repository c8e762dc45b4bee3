"""EmotioNet (Fabian Benitez-Quiroz et al., 2016): still images found by links, and lists of their AUs.

Lists are the text files of the challenge (tab-separated: URL, original URL, AU1 to AU60, each 0, 1 or 999 for not
labelled), or a CSV file with a header such as `URL,'AU 1','AU 2'` (the table of the manually labelled images, which comes as
an Excel file: save it as CSV). An image is found by the last part of its URL, in any folder. Many links are dead, so
images without a file are left out and counted. Nobody is named: each image is a person of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

from facscale.ingest.items import IMAGE_SUFFIXES, Files, LabelledImage, get_stem, get_suffix
from facscale.ingest.label_files import iterate_rows, parse_au, parse_code
from facscale.ingest.layouts.base import Layout, Read

OCCURRENCE = {"0": 0, "1": 1, "999": -1, "9": -1, "-1": -1, "NaN": -1, "nan": -1}
CHALLENGE_AUS = range(1, 61)
FIRST_AU = 2  # column, after the two URLs


class EmotioNet(Layout):
    """Single images with AUs, and lists of them."""

    has_images = True
    label_place = "any folder, a .txt file of the challenge or a .csv file"

    def list_images(self, files: Files, read: Read) -> Iterator[LabelledImage]:
        """Yield an image for each row of the lists, whether its file exists or not."""
        lists = [name for name in files if get_suffix(name) in (".txt", ".csv")]
        images: dict[str, list[str]] = {}
        for name in files:
            if get_suffix(name) in IMAGE_SUFFIXES:
                images.setdefault(PurePosixPath(name).name, []).append(name)
        n_rows = 0
        for name in lists:
            delimiter = "\t" if get_suffix(name) == ".txt" else ","
            aus: dict[int, int] = {}
            for line, cells in iterate_rows(read(name), name, delimiter=delimiter):
                header = {column: au for column, word in enumerate(cells) if (au := _parse_header(word))}
                if header:
                    if twice := [au for au, count in Counter(header.values()).items() if count > 1]:
                        raise ValueError(f"{name}, line {line}: AU{twice[0]} has two columns; remove one of them")
                    aus = header
                    continue
                if not aus and len(cells) < FIRST_AU + len(CHALLENGE_AUS):
                    break  # another text file, such as a readme
                n_rows += 1
                columns = aus or {FIRST_AU + number: au for number, au in enumerate(CHALLENGE_AUS)}
                yield from _read_row(cells, columns, images, f"{name}, line {line}")
        if not n_rows:
            tables = [name for name in files if get_suffix(name) in (".xls", ".xlsx")]
            hint = f"; save {tables[0]} as CSV beside it" if tables else ""
            raise ValueError(f"there is no list of AUs ({self.label_place}){hint}")


def _parse_header(word: str) -> int | None:
    return parse_au(word) if word.strip("'\" ").upper().startswith("AU") else None


def _read_row(
    cells: Sequence[str], columns: dict[int, int], images: dict[str, list[str]], place: str
) -> Iterator[LabelledImage]:
    """Yield the image of a row; all files of its name, which contradict each other, where there are several."""
    if len(cells) <= max(columns):
        raise ValueError(f"{place}: {len(cells)} values instead of {max(columns) + 1}; unpack the file again")
    file = unquote(PurePosixPath(cells[0].strip("'\"").partition("?")[0]).name)
    codes = [(au, parse_code(cells[column], OCCURRENCE, place)) for column, au in columns.items()]
    labelled = tuple(sorted((au, code) for au, code in codes if code is not None and code >= 0))
    for name in images.get(file, [file]):
        yield LabelledImage(get_stem(file), name, au=labelled)
