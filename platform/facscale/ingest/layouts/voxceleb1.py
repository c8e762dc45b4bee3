"""VoxCeleb1 (Nagrani et al., 2017), as videos or as the face crops of its release.

Videos are in the same forms as VoxCeleb2's: {dev,test}/mp4/id10001/VIDEO/UTTERANCE.mp4 and so on. Crops are
unzippedFaces/NAME/1.6/VIDEO/TRACK/FRAME.jpg, where 1.6 is the scale of the face box; the last number in the name of a file
is that of its frame, at 25 fps. If there are videos, the crops are passed over. There are no labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from facscale.ingest.items import IMAGE_SUFFIXES, Files, Item, get_suffix
from facscale.ingest.layouts import voxceleb2
from facscale.ingest.layouts.base import FrameFolders, Layout

CROP = re.compile(r"(?:.*/)?([^/]+)/1\.6/([^/]+)/([^/]+)/[^/]*?(\d+)\.\w+", re.ASCII)


class VoxCeleb1(Layout):
    """Videos of utterances, or folders of face crops."""

    published = "VoxCeleb1"

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per utterance."""
        videos = [*voxceleb2.list_utterances(files)]
        yield from videos or self._list_crops(files)

    def _list_crops(self, files: Files) -> Iterator[Item]:
        folders = FrameFolders()
        for name in files:
            match = CROP.fullmatch(name)
            if match and get_suffix(name) in IMAGE_SUFFIXES:
                folders.add(match.groups()[:3], int(match[4]), name)
        for (person, video, track), frames in folders:
            yield Item(identity=person, video=video, part=track, **frames)
