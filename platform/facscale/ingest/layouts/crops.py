"""Face crops that somebody has made already: IDENTITY/VIDEO/TRACK/FRAME.jpg, any number of folders deeper.

Among others TCAE's (id09238/VqEJCd7pbgQ/0_folder/img_0_001.jpg, one frame a second) and FAb-Net's
(ID/VIDEO/TRACK/frame0001.jpg). The last number in the name of a file is that of its frame, so a file without one is passed
over. `source.levels` is the number of folders that count: 3 for IDENTITY/VIDEO/TRACK, 2 for IDENTITY/VIDEO, 1 for
IDENTITY. Without it, it is the depth of the tree, 3 at most. `source.fps` tells how many numbers there are in a second.

Aligned crops go with `detector: {name: none}`, which keeps them as they are: then the eyes should be where `crop` says, or
at least in the same places in all data sets of a job.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PositiveFloat

from facscale.ingest.items import IMAGE_SUFFIXES, Files, Item, get_stem, get_suffix
from facscale.ingest.layouts.base import FrameFolders, Layout, LayoutConfig

NUMBER = re.compile(r"(\d+)\D*", re.ASCII)
MAX_LEVELS = 3


class CropsConfig(LayoutConfig):
    """Options of the layout crops."""

    levels: Annotated[int, Field(ge=0, le=MAX_LEVELS)] = 0  # 0: the depth of the tree
    fps: PositiveFloat = 1.0  # of the numbering


class Crops(Layout):
    """Folders of numbered images, without labels."""

    Config = CropsConfig

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per folder."""
        images = [name for name in files if get_suffix(name) in IMAGE_SUFFIXES and "/" in name]
        shallowest = min((name.count("/") for name in images), default=0)
        levels = self.config.levels or min(shallowest, MAX_LEVELS)
        folders = FrameFolders()
        for name in images:
            *above, file = name.split("/")
            numbers = NUMBER.findall(get_stem(file))
            if len(above) >= levels and numbers:
                folders.add(tuple(above), int(numbers[-1]), name)
        for above, frames in folders:
            identity, video, part = [*above[len(above) - levels :], "", ""][:MAX_LEVELS]
            yield Item(identity=identity, video=video or identity, part=part, fps=self.config.fps, **frames)
