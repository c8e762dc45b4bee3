"""What a method says of people that it has never seen: one row a tested frame, all folds together.

Everything that a finished training is judged by follows from it: F1 by fold (`row`), the relations between AUs
(`relations`), how sure a difference between two methods is (`significance`), a video's course (`timelines`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facscale.evaluate.f1 import Counts, count
from facscale.evaluate.scores import Row

ABOUT = b"predictions"  # the file's metadata, as JSON


def matched(methods: Sequence[Predictions]) -> list[Predictions]:
    """The frames that all have, in the same order: one that wants neighbours leaves a frame out where they are damaged."""
    if all(one.same_frames(methods[0]) for one in methods):
        return [one.chosen(one.order()) for one in methods]
    places = [list(zip(one.identity.tolist(), one.video.tolist(), one.frame.tolist(), strict=True)) for one in methods]
    common = set(places[0]).intersection(*places[1:])
    rows = [np.flatnonzero([place in common for place in of]) for of in places]
    found = [one.chosen(kept) for one, kept in zip(methods, rows, strict=True)]
    return [one.chosen(one.order()) for one in found]


PLACE = {"identity": pa.string(), "video": pa.string(), "frame": pa.int32(), "fold": pa.int8()}
ARRAYS = ("probability", "au", *PLACE)
FRAME = ("identity", "video", "frame")  # what a frame is known by
MOST_FOLDS = np.iinfo(np.int8).max + 1


class Video(NamedTuple):
    """Which one: numbers of videos may repeat from person to person."""

    identity: str
    video: str


@dataclass(frozen=True)
class Predictions:
    """Out of fold: N frames, each judged by the model that has not seen its person.

    A frame that several folds test (repeated splits, or a set that nothing is learned from) has a row in each of them.
    """

    name: str  # of the method, as in its row of the table
    aus: tuple[int, ...]  # the n AU numbers
    probability: np.ndarray  # [N, n] float32 in [0, 1]
    au: np.ndarray  # [N, n] int8: 1, 0, or -1 for not labelled
    identity: np.ndarray  # [N] str
    video: np.ndarray  # [N] str
    frame: np.ndarray  # [N] int32, number in the source video
    fold: np.ndarray  # [N] int8, number of the fold that tested it
    folds: tuple[str, ...]  # their names
    source: str = ""  # of the folds, in words

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ARRAYS}
        matrix, line = (len(self.frame), len(self.aus)), (len(self.frame),)
        wrong = [name for name, shape in shapes.items() if shape != (line if name in PLACE else matrix)]
        if wrong:
            raise ValueError(f"{wrong[0]} {list(shapes[wrong[0]])} does not fit {matrix[0]} frames of {matrix[1]} AUs")

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def joined(cls, pieces: Sequence[Predictions]) -> Predictions:
        """The folds of one method, tested one by one, as one: their folds stand one after the other."""
        first = pieces[0]
        if any((piece.name, piece.aus, piece.source) != (first.name, first.aus, first.source) for piece in pieces):
            raise ValueError("only predictions of one method, for the same AUs and from the same split, can be joined")
        arrays = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in ARRAYS}
        folds = [len(piece.folds) for piece in pieces]
        if sum(folds) > MOST_FOLDS:
            raise ValueError(f"{sum(folds)} folds are more than the {MOST_FOLDS} that predictions can hold")
        before = np.repeat(np.cumsum([0, *folds[:-1]]), [len(piece) for piece in pieces])
        arrays["fold"] = (arrays["fold"] + before).astype(np.int8)
        names = tuple(name for piece in pieces for name in piece.folds)
        return cls(first.name, first.aus, **arrays, folds=names, source=first.source)

    @classmethod
    def repeated(cls, splits: Sequence[Predictions]) -> Predictions:
        """One method cross-validated over and over, on several splits of the same people: folds "split0 fold0", ..."""
        if len(splits) == 1:
            return splits[0]
        source = "; ".join(dict.fromkeys(one.source for one in splits if one.source))
        named = [tuple(f"split{number} {fold}" for fold in one.folds) for number, one in enumerate(splits)]
        return cls.joined([replace(one, folds=folds, source=source) for one, folds in zip(splits, named, strict=True)])

    def row(self, threshold: float) -> Row:
        """F1 by fold; an AU is found from `threshold` on."""
        of_folds = [self.fold == number for number in range(len(self.folds))]
        counts = [count(probability=self.probability[of], au=self.au[of], threshold=threshold) for of in of_folds]
        return Row.counted(self.name, aus=self.aus, counts=Counts.stack(counts), folds=self.folds, source=self.source)

    def order(self) -> np.ndarray:
        """The numbers of the rows [N] by person, video and frame, and those of one frame by fold."""
        return np.lexsort((self.fold, self.frame, self.video, self.identity))

    def same_frames(self, other: Predictions) -> bool:
        """Whether the rows of both are of the same frames, one by one."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in FRAME)

    def begins(self) -> np.ndarray:
        """Where another frame than that of the row before begins [N] bool; meant for rows in their `order`."""
        changes = [getattr(self, name)[1:] != getattr(self, name)[:-1] for name in FRAME]
        return np.concatenate([[True], np.logical_or.reduce(changes)])[: len(self)]

    def once(self) -> Predictions:
        """Each frame as the first fold that tests it sees it, in their `order`."""
        ordered = self.chosen(self.order())
        return ordered.chosen(ordered.begins())

    def chosen(self, rows: np.ndarray) -> Predictions:
        """Some of the frames: `rows` are their numbers, or a mask [N]."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        return Predictions(self.name, self.aus, **arrays, folds=self.folds, source=self.source)

    def of(self, identity: str, video: str) -> Predictions:
        """The frames of one video, in their order."""
        found = self.chosen(np.flatnonzero((self.identity == identity) & (self.video == video)))
        if not len(found):
            raise ValueError(f"no frame of video {video} of {identity} was tested")
        return found.chosen(found.order())

    def video_with_most_change(self) -> Video:
        """The one whose labels change most often, over all AUs, from one tested frame to the next: the one to look at."""
        ordered = self.chosen(self.order())
        video = [Video(*place) for place in zip(ordered.identity.tolist(), ordered.video.tolist(), strict=True)]
        before, after = ordered.au[:-1], ordered.au[1:]
        changes = ((before != after) & (before >= 0) & (after >= 0)).sum(axis=1)
        total = dict.fromkeys(video, 0)
        for last, this, number in zip(video, video[1:], changes.tolist(), strict=False):
            total[this] += number if last == this else 0
        return max(total, key=lambda place: total[place])

    def parquet(self) -> bytes:
        """As a file: columns identity, video, frame, fold, and for each AU "AU12" (label) and "p12" (probability)."""
        columns = {name: pa.array(getattr(self, name), kind) for name, kind in PLACE.items()}
        for number, au in enumerate(self.aus):
            columns[f"AU{au}"] = pa.array(self.au[:, number], pa.int8())
            columns[f"p{au}"] = pa.array(self.probability[:, number], pa.float32())
        about = {"name": self.name, "aus": self.aus, "folds": self.folds, "source": self.source}
        out = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, metadata={ABOUT: json.dumps(about)}), out, compression="zstd")
        return out.getvalue().to_pybytes()

    @classmethod
    def read(cls, data: bytes) -> Predictions:
        """What `parquet` wrote."""
        table = pq.read_table(pa.BufferReader(data))
        about = json.loads(table.schema.metadata[ABOUT])
        aus = tuple(about["aus"])

        def matrix(letters: str, kind: type) -> np.ndarray:
            columns = [table[f"{letters}{au}"].to_numpy() for au in aus]
            return np.stack(columns, axis=1) if columns else np.empty((len(table), 0), kind)

        text = {name: np.array(table[name].to_pylist(), dtype=np.str_) for name in ("identity", "video")}
        return cls(
            about["name"], aus, matrix("p", np.float32), matrix("AU", np.int8), **text,
            frame=table["frame"].to_numpy(), fold=table["fold"].to_numpy(), folds=tuple(about["folds"]), source=about["source"],
        )  # fmt: skip
