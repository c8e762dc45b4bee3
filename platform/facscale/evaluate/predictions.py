"""Out-of-fold predictions: one row per test frame, over all folds.

All evaluations of a finished training start from them: F1 by fold (`Predictions.score`), the relations between AUs
(`relations`), the significance of differences (`significance`), and plots of a video over time (`report.timelines`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple, NotRequired

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from facscale.data.parquet import read_parquet
from facscale.errors import UserError
from facscale.evaluate.f1 import ConfusionCounts, count_confusions
from facscale.evaluate.scores import MethodScores

METADATA_KEY = b"predictions"  # of the Parquet file's metadata, which is JSON
KEY_TYPES = {"identity": pa.string(), "video": pa.string(), "frame": pa.int32(), "fold": pa.int8()}
ARRAYS = ("probability", "au", *KEY_TYPES)
FRAME_KEY = ("identity", "video", "frame")  # identifies a frame
MAX_REASON = 200  # characters of another library's message in ours
MAX_FOLDS = np.iinfo(np.int8).max + 1


class PredictionsError(UserError):
    """A file is damaged, or holds no predictions."""


class _Metadata(TypedDict):
    """What the Parquet file says of its columns."""

    name: str
    aus: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=1000)]
    folds: list[str]
    source: str
    protocol: NotRequired[str]  # older files have none


class VideoKey(NamedTuple):
    """A video of a data set: names of videos may repeat from person to person."""

    identity: str
    video: str


@dataclass(frozen=True)
class Predictions:
    """Predictions of N frames, each by the model of a fold that was not trained on its person.

    A frame that several folds test (repeated splits, or a data set that nothing is trained on) has one row for each.
    """

    name: str  # of the method
    aus: tuple[int, ...]  # the n AU numbers
    probability: np.ndarray  # [N, n] float32 in [0, 1]
    au: np.ndarray  # [N, n] int8: 1, 0, or -1 for not labelled
    identity: np.ndarray  # [N] str
    video: np.ndarray  # [N] str
    frame: np.ndarray  # [N] int32, number in the source video
    fold: np.ndarray  # [N] int8, number of the fold that tested it
    folds: tuple[str, ...]  # their names
    source: str = ""  # where the folds are from, as text
    protocol: str = ""  # one of `scores.PROTOCOLS`; "" where it was not recorded

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ARRAYS}
        matrix, line = (len(self.frame), len(self.aus)), (len(self.frame),)
        wrong = [name for name, shape in shapes.items() if shape != (line if name in KEY_TYPES else matrix)]
        if wrong:
            raise ValueError(f"{wrong[0]} {list(shapes[wrong[0]])} does not fit {matrix[0]} frames of {matrix[1]} AUs")

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    def concat(cls, pieces: Sequence[Predictions]) -> Predictions:
        """Join the predictions of one method in different folds; the folds stand one after the other.

        Raises ValueError for pieces of different methods, AUs or splits, and for more than 128 folds.
        """
        first = pieces[0]
        facts = {(piece.name, piece.aus, piece.source, piece.protocol) for piece in pieces}
        if len(facts) > 1:
            raise ValueError(
                "only predictions of one method, for the same AUs, from the same split and by the same protocol, can be "
                "joined"
            )
        arrays = {name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in ARRAYS}
        folds = [len(piece.folds) for piece in pieces]
        if sum(folds) > MAX_FOLDS:
            raise ValueError(f"{sum(folds)} folds are more than the {MAX_FOLDS} that predictions can hold")
        before = np.repeat(np.cumsum([0, *folds[:-1]]), [len(piece) for piece in pieces])
        arrays["fold"] = (arrays["fold"] + before).astype(np.int8)
        names = tuple(name for piece in pieces for name in piece.folds)
        return cls(first.name, first.aus, **arrays, folds=names, source=first.source, protocol=first.protocol)

    @classmethod
    def concat_splits(cls, splits: Sequence[Predictions]) -> Predictions:
        """Join repeated cross-validations of one method on the same people; folds become "split0 fold0", ..."""
        if len(splits) == 1:
            return splits[0]
        source = "; ".join(dict.fromkeys(split.source for split in splits if split.source))
        renamed = [
            replace(split, folds=tuple(f"split{number} {fold}" for fold in split.folds), source=source)
            for number, split in enumerate(splits)
        ]
        return cls.concat(renamed)

    def score(self, threshold: float) -> MethodScores:
        """F1 by fold; an AU is predicted where its probability is at least `threshold`."""
        counts = []
        for number in range(len(self.folds)):
            rows = self.fold == number
            counts.append(count_confusions(probability=self.probability[rows], au=self.au[rows], threshold=threshold))
        return MethodScores.from_counts(
            self.name,
            aus=self.aus,
            counts=ConfusionCounts.stack(counts),
            folds=self.folds,
            source=self.source,
            protocol=self.protocol,
        )

    def sort_order(self) -> np.ndarray:
        """Row numbers [N] sorted by person, video and frame, and by fold within a frame."""
        return np.lexsort((self.fold, self.frame, self.video, self.identity))

    def has_same_frames(self, other: Predictions) -> bool:
        """Whether both have the same frames in the same order."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in FRAME_KEY)

    def is_new_frame(self) -> np.ndarray:
        """Whether each row is of another frame than the row before it, [N] bool; for sorted rows (`sort_order`)."""
        changes = [getattr(self, name)[1:] != getattr(self, name)[:-1] for name in FRAME_KEY]
        return np.concatenate([[True], np.logical_or.reduce(changes)])[: len(self)]

    def first_per_frame(self) -> Predictions:
        """One row per frame, that of the first fold that tests it, sorted."""
        ordered = self.select(self.sort_order())
        return ordered.select(ordered.is_new_frame())

    def select(self, rows: np.ndarray) -> Predictions:
        """The predictions of some rows, given as row numbers or as a mask [N]."""
        return replace(self, **{name: getattr(self, name)[rows] for name in ARRAYS})

    def select_video(self, identity: str, video: str) -> Predictions:
        """The frames of one video, sorted. Raises ValueError where it has none."""
        frames = self.select(np.flatnonzero((self.identity == identity) & (self.video == video)))
        if not len(frames):
            raise ValueError(f"no frame of video {video} of {identity} was tested")
        return frames.select(frames.sort_order())

    def find_most_changing_video(self) -> VideoKey:
        """The video whose labels change most often from one tested frame to the next, over all AUs."""
        ordered = self.select(self.sort_order())
        videos = [VideoKey(*key) for key in zip(ordered.identity.tolist(), ordered.video.tolist(), strict=True)]
        before, after = ordered.au[:-1], ordered.au[1:]
        changes = ((before != after) & (before >= 0) & (after >= 0)).sum(axis=1)
        totals = dict.fromkeys(videos, 0)
        for previous, video, number in zip(videos, videos[1:], changes.tolist(), strict=False):
            totals[video] += number if previous == video else 0
        return max(totals, key=lambda video: totals[video])

    def to_parquet(self) -> bytes:
        """A Parquet file: columns identity, video, frame, fold, and for each AU "AU12" (label) and "p12" (probability)."""
        columns = {name: pa.array(getattr(self, name), kind) for name, kind in KEY_TYPES.items()}
        for number, au in enumerate(self.aus):
            columns[f"AU{au}"] = pa.array(self.au[:, number], pa.int8())
            columns[f"p{au}"] = pa.array(self.probability[:, number], pa.float32())
        metadata = {
            "name": self.name,
            "aus": self.aus,
            "folds": self.folds,
            "source": self.source,
            "protocol": self.protocol,
        }
        out = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, metadata={METADATA_KEY: json.dumps(metadata)}), out, compression="zstd")
        return out.getvalue().to_pybytes()

    @classmethod
    def from_parquet(cls, data: bytes, *, source: str = "the file of predictions") -> Predictions:
        """Read what `to_parquet` wrote. Raises PredictionsError, which names `source`, for anything else."""
        try:
            return cls._read_parquet(data)
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
            reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
            raise PredictionsError(f"{source} is damaged, or is no file of predictions: {reason}") from None

    @classmethod
    def _read_parquet(cls, data: bytes) -> Predictions:
        table = read_parquet(data)
        metadata = TypeAdapter(_Metadata).validate_json((table.schema.metadata or {})[METADATA_KEY])
        aus, folds = metadata["aus"], metadata["folds"]
        columns = {**KEY_TYPES, **{f"AU{au}": pa.int8() for au in aus}, **{f"p{au}": pa.float32() for au in aus}}
        for name, kind in columns.items():
            if table.schema.field(name).type != kind or table[name].null_count:
                raise ValueError(f"its column {name} is {table.schema.field(name).type}, or has gaps")

        def read_matrix(prefix: str, kind: type) -> np.ndarray:
            values = [table[f"{prefix}{au}"].to_numpy() for au in aus]
            return np.stack(values, axis=1) if values else np.empty((len(table), 0), kind)

        text = {name: np.array(table[name].to_pylist(), dtype=np.str_) for name in ("identity", "video")}
        fold, labels, probability = table["fold"].to_numpy(), read_matrix("AU", np.int8), read_matrix("p", np.float32)
        if len(fold) and not 0 <= fold.min() <= fold.max() < len(folds):
            raise ValueError(f"its column fold names others than its {len(folds)} folds")
        if labels.size and not -1 <= labels.min() <= labels.max() <= 1:
            raise ValueError("it has labels other than 1, 0 and -1")
        if not ((probability >= 0) & (probability <= 1) | np.isnan(probability)).all():
            raise ValueError("it has probabilities outside 0 to 1")
        return cls(
            metadata["name"],
            tuple(aus),
            probability,
            labels,
            **text,
            frame=table["frame"].to_numpy(),
            fold=fold,
            folds=tuple(folds),
            source=metadata["source"],
            protocol=str(metadata.get("protocol", "")),
        )


def align_predictions(predictions: Sequence[Predictions]) -> list[Predictions]:
    """Reduce predictions to the frames that all of them have, sorted alike.

    They may differ: a method that reads neighbouring frames skips a frame whose neighbours are damaged.
    """
    if all(item.has_same_frames(predictions[0]) for item in predictions):
        return [item.select(item.sort_order()) for item in predictions]
    keys = [
        list(zip(item.identity.tolist(), item.video.tolist(), item.frame.tolist(), strict=True)) for item in predictions
    ]
    common = set(keys[0]).intersection(*keys[1:])
    aligned = []
    for item, frames in zip(predictions, keys, strict=True):
        shared = item.select(np.flatnonzero([frame in common for frame in frames]))
        aligned.append(shared.select(shared.sort_order()))
    return aligned
