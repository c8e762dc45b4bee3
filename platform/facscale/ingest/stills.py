"""The items of a data set of single images: batches, for one image is too little work to keep account of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from facscale.data import DataError
from facscale.ingest import layouts
from facscale.ingest.items import Listing, Still, Stills, read_bytes
from facscale.spec.pipelines import Source

BATCH = 64  # images
VIDEO = "image"  # what the video of each one is called
PARTS = ("train", "test")


def batches(source: Source, listing: Listing) -> tuple[Stills, ...]:
    """All images with an expression to keep, those of each part by name, up to `source.limit`.

    Raises DataError for lists that are missing or wrong, or of whose images none is there; single missing images are
    noted when it is their turn. SpecError for expressions that the layout does not know.
    """
    names = layouts.expressions(source)
    try:
        found = layouts.stills(source.layout)(listing.files, lambda name: read_bytes(source.root, name))
        kept = _each_once(still for still in found if still.expression in names)
    except ValueError as error:
        raise DataError(f"{source.root}: {error}") from None
    by_part = {part: [still for still in kept if still.part == part] for part in PARTS}
    for part, stills in by_part.items():
        if not any(still.file in listing.files for still in stills):
            such = f", such as {stills[0].file}" if stills else ""
            raise DataError(f"{source.root}: of {len(stills)} listed {part} images none is there{such}; unpack them")
    limited = [stills[: source.limit or None] for stills in by_part.values()]
    return tuple(
        _batch(stills[start : start + BATCH], names=names)
        for stills in limited
        for start in range(0, len(stills), BATCH)
    )


def _each_once(stills: Iterable[Still]) -> list[Still]:
    """By name. Raises ValueError for one that is listed with two expressions, or with two files."""
    found: dict[str, Still] = {}
    for still in stills:
        other = found.setdefault(still.name, still)
        if other != still:
            raise ValueError(
                f"{still.name} is listed twice, as {other.file} ({other.expression}) and {still.file} "
                f"({still.expression}); leave one of them"
            )
    return sorted(found.values())


def _batch(stills: Sequence[Still], *, names: Sequence[str]) -> Stills:
    return Stills(
        identity=stills[0].name,
        video=VIDEO,
        part=stills[0].part,
        files=tuple(still.file for still in stills),
        numbers=tuple(range(len(stills))),
        people=tuple(still.name for still in stills),
        expressions=tuple(names.index(still.expression) for still in stills),
    )
