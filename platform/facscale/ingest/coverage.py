"""How the labels of a video meet its frames: rows without an image, frames without labels, positives that were lost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from facscale.ingest.items import Labels

MIN_SHIFTED = 3  # labelled frames, below which nothing is called a shift


class MisalignedError(ValueError):
    """The frame numbers of labels and images do not belong together."""


@dataclass(frozen=True)
class Coverage:
    """Counts of one video. A row counts if it labels some AU that is kept."""

    label_rows: int = 0
    rows_without_image: int = 0
    frames_without_label: int = 0  # of those that were read
    positives: tuple[int, ...] = ()  # by AU, in the frames that were read
    positives_lost: tuple[int, ...] = ()  # of these, in frames that were left out: no face, or a short track


def measure_coverage(
    labels: Labels, *, present: Collection[int], read: Collection[int], kept: Collection[int]
) -> Coverage:
    """Count for `labels`: frames that are `present` in the source, of these `read` (every n-th), and of these `kept`."""
    rows = _index_coded_rows(labels)
    present, read, kept = set(present), set(read), set(kept)
    on_read = [row for number, row in rows.items() if number in read]
    lost = [row for number, row in rows.items() if number in read and number not in kept]
    is_positive = labels.occurrence == 1
    return Coverage(
        label_rows=len(rows),
        rows_without_image=sum(number not in present for number in rows),
        frames_without_label=sum(number not in rows for number in read),
        positives=tuple(is_positive[on_read].sum(axis=0).tolist()),
        positives_lost=tuple(is_positive[lost].sum(axis=0).tolist()),
    )


def check_alignment(labels: Labels, present: Collection[int]) -> None:
    """Raise MisalignedError if no labelled frame is `present` in the source, or if the labels look shifted against it.

    They look shifted by k frames if exactly k labelled frames lie beyond one end of the images, and k images without a
    label beyond the other end.
    """
    labelled = sorted(_index_coded_rows(labels))
    frames = sorted(set(present))
    if not labelled or not frames:
        return
    ranges = f"labels of frames {_format_range(labelled)}, images {_format_range(frames)}"
    without_image = sorted(set(labelled) - set(frames))
    if len(without_image) == len(labelled):
        raise MisalignedError(
            f"none of the {len(labelled)} labelled frames has an image ({ranges}); check their numbers"
        )
    without_label = sorted(set(frames) - set(labelled))
    is_late = bool(without_image) and without_image[0] > frames[-1]
    is_early = bool(without_image) and without_image[-1] < frames[0]
    if len(without_image) != len(without_label) or len(labelled) < MIN_SHIFTED:
        return
    if (is_late and without_label[-1] < labelled[0]) or (is_early and without_label[0] > labelled[-1]):
        raise MisalignedError(
            f"the labels are shifted by {len(without_image)} frames against the images ({ranges}); renumber one of them"
        )


def _index_coded_rows(labels: Labels) -> dict[int, int]:
    """Map the frame number of each row that labels something to the row."""
    if not labels.au:
        return {}
    is_coded = np.asarray((labels.occurrence >= 0).any(axis=1))
    return {number: row for number, row in labels.rows.items() if is_coded[row]}


def _format_range(numbers: Sequence[int] | np.ndarray) -> str:
    return f"{numbers[0]} to {numbers[-1]}"
