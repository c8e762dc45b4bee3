"""The items of a data set of single images: batches, since a status for every single image would cost too much."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from facscale.data import DataError
from facscale.ingest import layouts
from facscale.ingest.items import ImageBatch, LabelledImage, Listing, read_bytes
from facscale.spec.pipelines import Source

BATCH = 64  # images
VIDEO = "image"  # the stored video name of every image
PARTS = ("train", "test")


def build_batches(source: Source, listing: Listing) -> tuple[ImageBatch, ...]:
    """Batch all images with a selected expression, those of each part by name, up to `source.limit` of each.

    Raises DataError for lists that are missing or wrong, or if all images of a part are missing (single missing images
    are noted when their batch is processed); SpecError for expressions that the layout does not have.
    """
    expressions = layouts.select_expressions(source)
    try:
        images = layouts.list_images(source.layout, listing.files, lambda name: read_bytes(source.root, name))
        selected = _sort_unique(image for image in images if image.expression in expressions)
    except ValueError as error:
        raise DataError(f"{source.root}: {error}") from None
    batches: list[ImageBatch] = []
    for part in PARTS:
        in_part = [image for image in selected if image.part == part]
        if not any(image.file in listing.files for image in in_part):
            example = f", such as {in_part[0].file}" if in_part else ""
            raise DataError(
                f"{source.root}: none of the {len(in_part)} listed {part} images exists{example}; unpack them"
            )
        limited = in_part[: source.limit or None]
        batches += [
            _build_batch(limited[start : start + BATCH], expressions=expressions)
            for start in range(0, len(limited), BATCH)
        ]
    return tuple(batches)


def _sort_unique(images: Iterable[LabelledImage]) -> list[LabelledImage]:
    """Sort by name, without repetitions. Raises ValueError for a name with two expressions, or with two files."""
    by_name: dict[str, LabelledImage] = {}
    for image in images:
        first = by_name.setdefault(image.name, image)
        if first != image:
            raise ValueError(
                f"{image.name} is listed twice, as {first.file} ({first.expression}) and {image.file} "
                f"({image.expression}); remove one of them"
            )
    return sorted(by_name.values())


def _build_batch(images: Sequence[LabelledImage], *, expressions: Sequence[str]) -> ImageBatch:
    return ImageBatch(
        identity=images[0].name,
        video=VIDEO,
        part=images[0].part,
        files=tuple(image.file for image in images),
        numbers=tuple(range(len(images))),
        people=tuple(image.name for image in images),
        expressions=tuple(expressions.index(image.expression) for image in images),
    )
