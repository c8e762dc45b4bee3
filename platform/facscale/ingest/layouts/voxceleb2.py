"""VoxCeleb2 (Chung et al., 2018): {dev,test}/mp4/IDENTITY/VIDEO/UTTERANCE.mp4, 25 fps, one speaker in each file.

The forms in which people have it are read too: without `mp4/`, without `dev/`, and any number of folders deeper
(vox2/dev/mp4/...): what counts is IDENTITY (id and five digits), then VIDEO, then UTTERANCE. The part of the published
split is that of a folder `dev` or `test` above it. The utterances of a video become its tracks. There are no labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from facscale.ingest.items import VIDEO_SUFFIXES, Files, Item, get_suffix
from facscale.ingest.layouts.base import Layout

UTTERANCE = re.compile(r"(?:(.*)/)?(id\d{5})/([^/]+)/([^/]+)\.\w+", re.ASCII)
SPLITS = {"dev": "train", "test": "test"}
OTHER = {"aac", "txt"}  # folders with the sound and the face boxes, of the same form


class VoxCeleb2(Layout):
    """Videos of utterances."""

    published = "VoxCeleb2"

    def list_items(self, files: Files) -> Iterator[Item]:
        """Yield one item per utterance."""
        return list_utterances(files)


def list_utterances(files: Files) -> Iterator[Item]:
    """Yield one item per utterance of VoxCeleb1 or VoxCeleb2."""
    for name in files:
        match = UTTERANCE.fullmatch(name)
        if not match or get_suffix(name) not in VIDEO_SUFFIXES:
            continue
        above, identity, video, utterance = match.groups()
        folders = (above or "").split("/")
        if OTHER.intersection(folders):
            continue
        split = next((folder for folder in reversed(folders) if folder in SPLITS), "")
        part = f"{split}/{utterance}" if split else utterance
        yield Item(identity=identity, video=video, part=part, files=(name,), split=SPLITS.get(split, ""))
