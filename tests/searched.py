"""A small labelled data set, and embeddings of made-up frames, for tests of the search for similar faces."""

from __future__ import annotations

import numpy as np

from faces import make_track, write_tracks
from facscale.inference.embed import Embeddings

AUS = (1, 6, 12)


def write_labelled_set(folder):
    """Three people, two videos each, in several row groups; the numbers of a video's two tracks are the same."""
    tracks = [
        make_track(person, video, number, frames=range(4, 16), au=len(AUS))
        for person in range(3)
        for video in range(2)
        for number in range(2)
    ]
    return write_tracks(str(folder), tracks, au=AUS, row_group_mb=0.02)


def make_embeddings(*names, features=None, au=()):
    """Embeddings of frames IDENTITY/VIDEO/FRAME."""
    identity, video, frame = zip(*(name.split("/") for name in names), strict=True)
    features = np.eye(len(names), dtype=np.float32) if features is None else np.array(features, np.float32)
    labels = np.array(au, np.int8).reshape(len(names), -1)
    return Embeddings(
        features, np.array(identity, object), np.array(video, object), np.array(frame, np.int32), labels, AUS
    )
