"""The items of a data set of single images: batches, since a status for every single image would cost too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from facscale.data import DataError
from facscale.ingest import layouts
from facscale.ingest.items import Fault, ImageBatch, LabelledImage, Listing, read_bytes
from facscale.spec import SpecError
from facscale.spec.pipelines import Source

BATCH = 64  # images
VIDEO = "image"  # the stored video name of every image
CODES = {0: "0", 1: "1"}
NOT_CODED = "-"
AddFault = Callable[[Fault], None]


def build_batches(
    source: Source, listing: Listing, *, add_fault: AddFault | None = None, also_read: set[str] | None = None
) -> tuple[ImageBatch, ...]:
    """Batch all images of the selected parts and classes, those of each part by name, up to `source.limit` of each.

    `also_read` receives the names of the lists that were read, `add_fault` images that are left out. Raises DataError for
    lists that are missing or wrong, or if all images of a part are missing (single missing images are noted when their
    batch is processed); SpecError for options that do not fit single images.
    """
    for key in ("include", "exclude", "identities", "videos_per_identity"):
        if getattr(source, key):
            raise SpecError(f"source.{key}: the layout {source.layout} has single images of nobody in particular")
    expressions = layouts.select_expressions(source)
    layout = layouts.open_layout(source)

    def read(name: str) -> bytes:
        (set() if also_read is None else also_read).add(name)
        return read_bytes(source.root, name)

    try:
        images = layout.list_images(listing.files, read)
        unique = _drop_contradictions(images, add_fault)
    except ValueError as error:
        raise DataError(f"{source.root}: {error}") from None
    if layout.expressions:
        without_label = [image for image in unique if not image.expression]
        if without_label and add_fault:
            reason = f"{len(without_label)} images have no label, such as {without_label[0].file}: left out"
            add_fault(Fault(source.layout, "labels", reason))
        unique = [image for image in unique if image.expression in expressions]
    batches: list[ImageBatch] = []
    for part in _select_parts(source, unique, layout.parts):
        in_part = [image for image in unique if image.part == part]
        if not any(image.file in listing.files for image in in_part):
            example = f", such as {in_part[0].file}" if in_part else ""
            raise DataError(
                f"{source.root}: none of the {len(in_part)} listed {part} images exists{example}; unpack them"
            )
        limited = in_part[: source.limit or None]
        batches += [
            _build_batch(limited[start : start + BATCH], source, expressions=expressions)
            for start in range(0, len(limited), BATCH)
        ]
    return tuple(batches)


def _select_parts(source: Source, images: Sequence[LabelledImage], published: Sequence[str]) -> list[str]:
    """Return the parts to read: those of the source, or else those that must exist, and any others."""
    available = list(dict.fromkeys([*published, *sorted({image.part for image in images})])) or [""]
    if absent := [part for part in source.parts if part not in available]:
        raise DataError(f"source.parts: there is no part {absent[0]!r}; there are: {', '.join(available)}")
    return [part for part in available if not source.parts or part in source.parts]


def _drop_contradictions(images: Iterable[LabelledImage], add_fault: AddFault | None) -> list[LabelledImage]:
    """Sort by name, without repetitions; a name with two labels, or with two files, is left out."""
    by_name: dict[str, LabelledImage] = {}
    contradictory: set[str] = set()
    for image in images:
        first = by_name.setdefault(image.name, image)
        if first != image and image.name not in contradictory:
            contradictory.add(image.name)
            both = f"{first.file} ({_describe(first)}) and {image.file} ({_describe(image)})"
            if add_fault:
                add_fault(Fault(first.file, "labels", f"{image.name} is listed twice, as {both}: left out"))
    return sorted(image for image in by_name.values() if image.name not in contradictory)


def _describe(image: LabelledImage) -> str:
    return image.expression or " ".join(f"AU{au}={value}" for au, value in image.au) or "no label"


def _build_batch(images: Sequence[LabelledImage], source: Source, *, expressions: Sequence[str]) -> ImageBatch:
    labels = [dict(image.au) for image in images] if source.labels else []
    au = tuple(sorted({unit for row in labels for unit in row if not source.aus or unit in source.aus}))
    return ImageBatch(
        identity=images[0].name,
        video=VIDEO,
        part=images[0].part,
        files=tuple(image.file for image in images),
        numbers=tuple(range(len(images))),
        people=tuple(image.name for image in images),
        expressions=tuple(expressions.index(image.expression) for image in images) if expressions else (),
        split=images[0].part,
        au=au,
        occurrence=tuple("".join(CODES.get(row.get(unit, -1), NOT_CODED) for unit in au) for row in labels)
        if au
        else (),
    )
