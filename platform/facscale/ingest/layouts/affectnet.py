"""AffectNet (Mollahosseini et al., 2019), in either of its trees.

New: {train,val}_set/images/ID.jpg and {train,val}_set/annotations/ID_exp.npy, which holds the number of the expression.
Old: Manually_Annotated_Images/FOLDER/HASH.jpg, and tables Manually_Annotated_file_lists/{training,validation}.csv with
the columns of COLUMNS, among them the path and the number; the second table may lack its header.

Expressions are 0 to 7; 8 (none), 9 (uncertain) and 10 (no face) are left out. The published validation set becomes the
test part: the labels of the test set were never published. Papers with seven classes leave out contempt
(`source.expressions`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np

from facscale.ingest.items import IMAGE_SUFFIXES, Files, LabelledImage, get_stem, get_suffix
from facscale.ingest.label_files import iterate_rows, parse_whole
from facscale.ingest.layouts.base import Layout, Read

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


class AffectNet(Layout):
    """Images with expressions, and a label file for each or a table for each part."""

    expressions = EXPRESSIONS
    has_images = True
    parts = ("train", "test")
    published = "AffectNet"

    def list_images(self, files: Files, read: Read) -> Iterator[LabelledImage]:
        """Yield all images of the new tree or, if it has none, those that the tables of the old tree list."""
        images = [name for name in files if IMAGE.fullmatch(name) and get_suffix(name) in IMAGE_SUFFIXES]
        return _list_new_tree(images, files, read) if images else _list_old_tree(files, read)


def _list_new_tree(images: list[str], files: Files, read: Read) -> Iterator[LabelledImage]:
    labels = {name: f"{PurePosixPath(name).parents[1]}/annotations/{get_stem(name)}_exp.npy" for name in images}
    missing = [label for label in labels.values() if label not in files]
    if len(missing) == len(labels):
        raise ValueError(f"all {len(labels)} label files are missing, such as {missing[0]}; unpack them")
    labelled = [(name, label) for name, label in labels.items() if label in files]
    with ThreadPoolExecutor(READERS) as pool:
        for (name, label), content in zip(labelled, pool.map(read, (label for _, label in labelled)), strict=True):
            expression = _parse_expression(_parse_number(content, label), label)
            if expression is not None:
                yield _build_image(name, expression)
    yield from (_build_image(name, "") for name, label in labels.items() if label not in files)


def _build_image(name: str, expression: str) -> LabelledImage:
    part = "train" if name.startswith("train") else "test"
    return LabelledImage(f"{part}_{get_stem(name)}", name, part, expression)


def _parse_number(content: bytes, name: str) -> str:
    """Return the number in a label file as text, such as "6"; it is stored as a text or a number of any type."""
    try:
        return str(parse_whole(str(np.load(io.BytesIO(content), allow_pickle=False).item()), name))
    except (ValueError, EOFError, OSError, TypeError) as error:
        raise ValueError(f"{name}: no number can be read from it ({error}); unpack it again") from None


def _list_old_tree(files: Files, read: Read) -> Iterator[LabelledImage]:
    for part, table in LISTS.items():
        name = f"{FOLDER}/{table}.csv"
        if name not in files:
            raise ValueError(f"there is neither {name} nor an image train_set/images/ID.jpg; check source.root")
        for number, row in iterate_rows(read(name), name):
            if row[0] == COLUMNS[0]:
                continue
            if len(row) != len(COLUMNS):
                raise ValueError(
                    f"{name}, line {number}: {len(row)} values instead of {len(COLUMNS)}; unpack the file again"
                )
            path, code = row[0], row[COLUMNS.index("expression")]
            expression = _parse_expression(code, f"{name}, line {number}")
            if expression is not None:
                person = str(PurePosixPath(path).with_suffix("")).replace("/", "_")
                yield LabelledImage(f"{part}_{person}", f"Manually_Annotated_Images/{path}", part, expression)


def _parse_expression(code: str, place: str) -> str | None:
    """Return the name of an expression: "" for an empty cell, None for those that are left out.

    Raises ValueError for an unknown code.
    """
    number = str(parse_whole(code, place)) if code else ""
    if number and number not in CODES and number not in LEFT_OUT:
        raise ValueError(f"{place}: {code!r} is not an expression of AffectNet; they are 0 to {LEFT_OUT[-1]}")
    return CODES.get(number) if number else ""
