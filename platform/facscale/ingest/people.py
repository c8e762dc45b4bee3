"""Decides which faces of an item, and which items of an identity, show the same person, from descriptors of the faces."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from facscale.ingest.work_store import ItemStatus


@dataclass(frozen=True)
class RecognizedFace:
    """A face that was compared."""

    row: int  # position among all crops of the item
    track: int
    descriptor: np.ndarray  # [128]


@dataclass(frozen=True)
class PersonCheck:
    """The result for an item."""

    is_kept: np.ndarray  # bool [rows]: the crop shows the person that most of the item shows
    people: int
    descriptor: np.ndarray  # [128], mean of that person


def check_person(faces: Sequence[RecognizedFace], *, rows: int, max_distance: float) -> PersonCheck:
    """Decide which of the `rows` crops of an item show the person that most of its recognized faces show.

    A crop is kept if the recognized faces before and after it in its track are of that person. A face that resembles nobody
    else in the item, between two of that person in a track, is a bad view of that person.
    """
    descriptors = np.stack([face.descriptor for face in faces])
    people = group_faces(descriptors, max_distance=max_distance)
    tracks = np.array([face.track for face in faces])
    counts = np.bincount(people)
    between = (
        np.flatnonzero((tracks[2:] == tracks[:-2]) & (people[2:] == people[:-2]) & (counts[people[1:-1]] == 1)) + 1
    )
    people[between] = people[between - 1]
    main = int(np.bincount(people).argmax())
    is_kept = np.zeros(rows, bool)
    for number, face in enumerate(faces):
        is_kept[face.row] |= people[number] == main
        follows = number + 1 < len(faces) and tracks[number + 1] == face.track
        if follows and people[number] == people[number + 1] == main:
            is_kept[face.row : faces[number + 1].row] = True
    return PersonCheck(is_kept, len(np.unique(people)), descriptors[people == main].mean(axis=0))


def group_faces(descriptors: np.ndarray, *, max_distance: float) -> np.ndarray:
    """Number the people that descriptors [N, 128] show, in the order in which they appear: int [N].

    People are clusters of average linkage, cut at `max_distance`.
    """
    if len(descriptors) < 2:
        return np.zeros(len(descriptors), int)
    clusters = fcluster(linkage(descriptors, method="average"), t=max_distance, criterion="distance")
    _, first, index = np.unique(clusters, return_index=True, return_inverse=True)
    numbers: np.ndarray = np.argsort(np.argsort(first))[index]
    return numbers


def encode_descriptor(descriptor: np.ndarray) -> str:
    """Encode the numbers of a face [128] as text of 342 letters or so."""
    return base64.b64encode(descriptor.astype(np.float16).tobytes()).decode()


def decode_descriptor(text: str) -> np.ndarray:
    """Invert `encode_descriptor`, up to rounding."""
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float64)


@dataclass(frozen=True)
class MixedIdentity:
    """An identity some of whose items show somebody else than most of them."""

    identity: str
    items: int  # that were compared
    others: tuple[str, ...]  # the source of each item that shows somebody else


def find_mixed_identities(statuses: Iterable[ItemStatus], *, max_distance: float) -> list[MixedIdentity]:
    """Find the identities whose items show different people, by the descriptors of the items."""
    by_identity: dict[str, list[ItemStatus]] = {}
    for status in statuses:
        if status.descriptor:
            by_identity.setdefault(status.identity, []).append(status)
    mixed = []
    for identity, items in sorted(by_identity.items()):
        people = group_faces(
            np.stack([decode_descriptor(item.descriptor) for item in items]), max_distance=max_distance
        )
        main = np.bincount(people, weights=[item.faces for item in items]).argmax()
        others = tuple(item.source for item, person in zip(items, people, strict=True) if person != main)
        if others:
            mixed.append(MixedIdentity(identity, len(items), others))
    return mixed
