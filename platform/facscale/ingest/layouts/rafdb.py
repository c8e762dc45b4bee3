"""RAF-DB (Li et al., 2017): basic/EmoLabel/list_patition_label.txt and basic/Image/aligned/train_00001_aligned.jpg.

The list, whose name is misspelt by its authors, has a line `train_00001.jpg 5` for each image: the prefix of the name is
the part of the published split (12,271 and 3,068 images), the number is the expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from facscale.ingest.items import Files, LabelledImage
from facscale.ingest.label_files import decode_text
from facscale.ingest.layouts.base import Layout, Read

EXPRESSIONS = ("surprise", "fear", "disgust", "happy", "sad", "anger", "neutral")  # 1 to 7 in the list
LIST = "basic/EmoLabel/list_patition_label.txt"
IMAGES = "basic/Image/aligned"
LINE = re.compile(r"(train|test)_(\d+)\.jpg\s+([1-7])(?:\.0*)?", re.ASCII)


class RAFDB(Layout):
    """Images with expressions, and one list of all."""

    expressions = EXPRESSIONS
    has_images = True
    parts = ("train", "test")
    published = "RAF-DB"

    def list_images(self, files: Files, read: Read) -> Iterator[LabelledImage]:
        """Yield an image for each line of the list, whether its file exists or not."""
        if LIST not in files:
            raise ValueError(f"there is no {LIST}; set source.root to the folder that holds basic/")
        for number, line in enumerate(decode_text(read(LIST), LIST).splitlines(), start=1):
            if not line.strip():
                continue
            match = LINE.fullmatch(line.strip())
            if not match:
                raise ValueError(
                    f"{LIST}, line {number}: {line[:80]!r} is not like `train_00001.jpg 5`, with a class of 1 to 7"
                )
            part, image, code = match.groups()
            name = f"{part}_{image}"
            yield LabelledImage(name, f"{IMAGES}/{name}_aligned.jpg", part, EXPRESSIONS[int(code) - 1])
