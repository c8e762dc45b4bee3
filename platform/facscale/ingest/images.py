"""The items of a data set of single images: batches, since a status for every single image would cost too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from facscale.data import DataError
from facscale.ingest import layouts
from facscale.ingest.containers import get_container
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
    """Batch all images that the lists of a data set name; see `batch_images`.

    `also_read` receives the names of the lists that were read. Raises DataError for lists that are missing or wrong.
    """
    layout = layouts.open_layout(source)

    def read(name: str) -> bytes:
        (set() if also_read is None else also_read).add(name)
        return read_bytes(source.root, name)

    try:
        images = list(layout.list_images(listing.files, read))
    except ValueError as error:
        raise DataError(f"{source.root}: {error}") from None
    return batch_images(images, source, listing, parts=layout.parts, add_fault=add_fault)


def batch_images(
    images: Iterable[LabelledImage],
    source: Source,
    listing: Listing,
    *,
    parts: Sequence[str] = (),
    add_fault: AddFault | None = None,
) -> tuple[ImageBatch, ...]:
    """Batch images of the selected parts and classes, those of each part by name, up to `source.limit` of each.

    `parts`: those that there must be. `add_fault` receives images that are left out. Raises DataError if all images of a
    part are missing (a single missing image with an expression is noted when its batch is processed); SpecError for
    options that do not fit single images.
    """
    for key in ("include", "exclude", "identities", "videos_per_identity", "clips_per_video"):
        if getattr(source, key):
            raise SpecError(f"source.{key}: the layout {source.layout} has single images of nobody in particular")
    expressions = layouts.select_expressions(source)
    unique = _drop_contradictions(images, add_fault)
    if expressions:
        reason = "images without a label"
        _note_left_out([image for image in unique if not image.expression], reason, add_fault)
        unique = [image for image in unique if image.expression in expressions]
    batches: list[ImageBatch] = []
    for part in _select_parts(source, unique, parts):
        in_part = [image for image in unique if image.part == part]
        present = [image for image in in_part if get_container(image.file) in listing.files]
        if not present:
            name = f"{part} " if part else ""
            if not in_part:
                raise DataError(f"{source.root}: no listed {name}image can be used, because of its labels or its part")
            raise DataError(
                f"{source.root}: none of the {len(in_part)} listed {name}images exists, such as {in_part[0].file}; unpack "
                "them"
            )
        if not expressions:
            in_present = set(present)
            reason = f"label rows without an image (of {len(in_part)})"
            _note_left_out([image for image in in_part if image not in in_present], reason, add_fault)
        limited = (in_part if expressions else present)[: source.limit or None]
        batches += [
            _build_batch(limited[start : start + BATCH], source, expressions=expressions)
            for start in range(0, len(limited), BATCH)
        ]
    return tuple(batches)


def _note_left_out(images: Sequence[LabelledImage], reason: str, add_fault: AddFault | None) -> None:
    if images and add_fault:
        text = f"{reason}: {len(images)}, such as {images[0].file}; left out"
        add_fault(Fault(images[0].file, "labels", text))


def _select_parts(source: Source, images: Sequence[LabelledImage], published: Sequence[str]) -> list[str]:
    """Return the parts to read: those of the source, or else those that must exist, and any others."""
    available = list(dict.fromkeys([*published, *sorted({image.part for image in images})])) or [""]
    if absent := [part for part in source.parts if part not in available]:
        raise DataError(f"source.parts: there is no part {absent[0]!r}; there are: {', '.join(available)}")
    return [part for part in available if not source.parts or part in source.parts]


def _drop_contradictions(images: Iterable[LabelledImage], add_fault: AddFault | None) -> list[LabelledImage]:
    """Sort by name, without repetitions; a name with two labels or files, and a file in two parts, is left out."""
    by_name: dict[str, LabelledImage] = {}
    by_file: dict[str, LabelledImage] = {}
    contradictory: set[str] = set()
    for image in images:
        first = by_name.setdefault(image.name, image)
        if first == image:
            first = by_file.setdefault(image.file, image)
        if first != image and image.name not in contradictory:
            contradictory |= {image.name, first.name}
            has_parts = first.part != image.part
            both = " and ".join(
                f"{listed.file} ({_describe(listed, has_parts=has_parts)})" for listed in (first, image)
            )
            if add_fault:
                add_fault(Fault(first.file, "labels", f"{image.name} is listed twice, as {both}: left out"))
    return sorted(image for image in by_name.values() if image.name not in contradictory)


def _describe(image: LabelledImage, *, has_parts: bool) -> str:
    labels = image.expression or " ".join(f"AU{au}={value}" for au, value in image.au) or "no label"
    return f"{labels}, part {image.part}" if has_parts else labels


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
