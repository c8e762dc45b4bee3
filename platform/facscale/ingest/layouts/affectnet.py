"""AffectNet (Mollahosseini et al., 2019), in either of its trees.

New: {train,val}_set/images/ID.jpg and {train,val}_set/annotations/ID_exp.npy, which holds the number of the expression.
Old: Manually_Annotated_Images/FOLDER/HASH.jpg, and tables Manually_Annotated_file_lists/{training,validation}.csv with
the columns of COLUMNS, among them the path and the number; the second table may lack its header.

Expressions are 0 to 7; 8 (none), 9 (uncertain) and 10 (no face) are left out. The published validation set becomes the
test part: the labels of the test set were never published. Papers with seven classes leave out contempt
(`source.expressions`).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np

from facscale.ingest.items import IMAGE_SUFFIXES, Files, LabelledImage, get_stem, get_suffix

EXPRESSIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")  # 0 to 7
LEFT_OUT = ("8", "9", "10")
CODES = {str(number): name for number, name in enumerate(EXPRESSIONS)}
IMAGE = re.compile(r"(train|val)_set/images/([^/]+)\.\w+")
LISTS = {"train": "training", "test": "validation"}
FOLDER = "Manually_Annotated_file_lists"
COLUMNS = (
    "subDirectory_filePath",
    "face_x",
    "face_y",
    "face_width",
    "face_height",
    "facial_landmarks",
    "expression",
    "valence",
    "arousal",
)
READERS = 16


def list_images(files: Files, read: Callable[[str], bytes]) -> Iterator[LabelledImage]:
    """Yield all images of the new tree or, if it has none, those that the tables of the old tree list."""
    images = [name for name in files if IMAGE.fullmatch(name) and get_suffix(name) in IMAGE_SUFFIXES]
    return _list_new_tree(images, files, read) if images else _list_old_tree(files, read)


def _list_new_tree(images: list[str], files: Files, read: Callable[[str], bytes]) -> Iterator[LabelledImage]:
    labels = [f"{PurePosixPath(name).parents[1]}/annotations/{get_stem(name)}_exp.npy" for name in images]
    if missing := [name for name in labels if name not in files]:
        raise ValueError(f"{len(missing)} of {len(labels)} label files are missing, such as {missing[0]}; unpack them")
    with ThreadPoolExecutor(READERS) as pool:
        for name, label, content in zip(images, labels, pool.map(read, labels), strict=True):
            expression = _parse_expression(_parse_number(content, label), label)
            part = "train" if name.startswith("train") else "test"
            if expression:
                yield LabelledImage(f"{part}_{get_stem(name)}", name, part, expression)


def _parse_number(content: bytes, name: str) -> str:
    """Return the number in a label file as text, such as "6"; it is stored as a text or a number of any type."""
    try:
        value = np.load(io.BytesIO(content), allow_pickle=False).item()
        return str(int(value))
    except (ValueError, EOFError, OSError, TypeError) as error:
        raise ValueError(f"{name}: no number can be read from it ({error}); unpack it again") from None


def _list_old_tree(files: Files, read: Callable[[str], bytes]) -> Iterator[LabelledImage]:
    for part, table in LISTS.items():
        name = f"{FOLDER}/{table}.csv"
        if name not in files:
            raise ValueError(f"there is neither {name} nor an image train_set/images/ID.jpg; check source.root")
        rows = csv.reader(io.TextIOWrapper(io.BytesIO(read(name)), encoding="utf-8-sig", errors="replace"))
        for number, row in enumerate(rows, start=1):
            if not row or row[0] == COLUMNS[0]:
                continue
            if len(row) != len(COLUMNS):
                raise ValueError(
                    f"{name}, line {number}: {len(row)} values instead of {len(COLUMNS)}; unpack the file again"
                )
            path, code = row[0], row[COLUMNS.index("expression")]
            expression = _parse_expression(code.strip(), f"{name}, line {number}")
            if expression:
                person = str(PurePosixPath(path).with_suffix("")).replace("/", "_")
                yield LabelledImage(f"{part}_{person}", f"Manually_Annotated_Images/{path}", part, expression)


def _parse_expression(code: str, place: str) -> str | None:
    """Return the name of an expression; None for those that are left out. Raises ValueError for an unknown code."""
    if code not in CODES and code not in LEFT_OUT:
        raise ValueError(f"{place}: {code!r} is not an expression of AffectNet; they are 0 to {LEFT_OUT[-1]}")
    return CODES.get(code)
