"""Sizes of public data sets as their authors or the papers that use them give them: for plans without the data at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

BP4D_AUS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
DISFA_AUS = (1, 2, 4, 6, 9, 12, 25, 26)


@dataclass(frozen=True)
class PublishedSize:
    """What is known of a data set without reading it."""

    name: str
    people: int
    videos: int
    tracks: int  # utterances, sequences or single images
    frames: int
    aus: tuple[int, ...]  # of the labels; empty: none
    source: str


# Frames of VoxCeleb: hours of the papers at 25 frames/s; videos: as its site gives them. BP4D, DISFA: the frames that AU
# papers evaluate.
SIZES = (
    PublishedSize(
        "VoxCeleb2", 5_994, 145_569, 1_092_009, 212_000_000, (), "Chung et al. 2018, its dev part: 2,360 hours"
    ),
    PublishedSize("VoxCeleb1", 1_251, 22_496, 153_516, 31_700_000, (), "Nagrani et al. 2017: 352 hours"),
    PublishedSize("EmotioNet", 100_000, 100_000, 100_000, 100_000, (), "RTATL: 100,000 images of it"),
    PublishedSize("BP4D", 41, 328, 328, 146_847, BP4D_AUS, "RTATL and ME-GraphAU"),
    PublishedSize("DISFA", 27, 27, 27, 130_814, DISFA_AUS, "ME-GraphAU"),
)


@dataclass(frozen=True)
class PublishedCounts:
    """What a data set holds as published, to compare a reading of it with; None: not known."""

    name: str
    source: str
    people: int | None = None
    videos: int | None = None  # files or sequences as a layout lists them; single images
    labelled_frames: int | None = None
    positives: Mapping[int, int] | None = None  # positive frames by AU


# Positives: ME-GraphAU publishes the weights of the AUs in the training part of each fold, w = (1 / r) / sum(1 / r) n, to
# seven digits. Only one series of whole numbers has these ratios and fits into the frames; each frame is in two of the three
# training parts, so half of the sum over the folds is the number of all positive frames. DISFA: intensity 2 and above.
BP4D_POSITIVES = (31_042, 25_110, 29_755, 67_676, 80_616, 87_270, 82_530, 68_375, 24_869, 50_406, 24_288, 22_229)
DISFA_POSITIVES = (6_506, 5_644, 19_933, 10_327, 5_473, 16_851, 36_247, 11_533)
COUNTS = (
    PublishedCounts("VoxCeleb2", "Chung et al. 2018", people=6_112, videos=1_128_246),
    PublishedCounts("VoxCeleb1", "Nagrani et al. 2017", people=1_251, videos=153_516),
    PublishedCounts(
        "BP4D",
        "RTATL and ME-GraphAU",
        people=41,
        videos=328,
        labelled_frames=146_847,
        positives=dict(zip(BP4D_AUS, BP4D_POSITIVES, strict=True)),
    ),
    PublishedCounts("BP4D+", "FMAE-IAT", people=140),
    PublishedCounts(
        "DISFA",
        "27 videos of 4,845 frames; positives of ME-GraphAU's 130,814",
        people=27,
        videos=27,
        labelled_frames=130_815,
        positives=dict(zip(DISFA_AUS, DISFA_POSITIVES, strict=True)),
    ),
    PublishedCounts("GFT", "CLP and TCAE", people=96),
    PublishedCounts("CK+", "Lucey et al. 2010", people=123, videos=593),
    PublishedCounts("RAF-DB", "Li et al. 2017", videos=15_339),
    PublishedCounts("AffectNet", "its later release", videos=287_651 + 3_999),
)


def find_counts(name: str) -> PublishedCounts | None:
    """The published counts of the data set with exactly this name; None: not known."""
    return next((counts for counts in COUNTS if counts.name == name), None)


def find_size(url: str) -> PublishedSize | None:
    """The size of the data set that the last part of a URL names, as in s3://bucket/bp4d_flow; None: not known.

    The longest name at its beginning counts, so that bp4dplus_crops is BP4D+, whose size is not known, and not BP4D.
    """
    folder = _normalize(url.rstrip("/").rpartition("/")[2])
    names = {"DISFA+", *(size.name for size in SIZES), *(counts.name for counts in COUNTS)}
    name = max((name for name in names if folder.startswith(_normalize(name))), key=len, default=None)
    return next((size for size in SIZES if size.name == name), None)


def _normalize(name: str) -> str:
    """Letters and digits in lower case; a plus sign, which many folders spell out, as a word."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))
