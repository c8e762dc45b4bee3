"""What `facscale predict --overlay` and `--page` make of a table and its video: a second reading of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from facscale.errors import UserError
from facscale.files import is_disk_full
from facscale.inference.detector import Detector
from facscale.inference.inputs import Input, open_video, read_image
from facscale.inference.table_reader import read_results
from facscale.inference.tables import AULayout, ColumnSet
from facscale.ingest.frames import Frame
from facscale.progress import Progress
from facscale.report.prediction_page import PageFacts, write_page
from facscale.report.prediction_video import write_overlay


def check_illustrated(inputs: Sequence[Input], *, out: str, overlay: Path | None, columns: ColumnSet) -> None:
    """Raise UserError unless there is one local video, or for a page one image, whose table is here with our columns."""
    option = "--overlay" if overlay else "--page"
    if len(inputs) != 1 or inputs[0].kind not in (("video",) if overlay else ("video", "image")):
        what = "video" if overlay else "video or image"
        raise UserError(f"{option} shows one {what}; these are {len(inputs)} inputs: name one {what}")
    if "://" in out:
        raise UserError(f"{option} reads the table again, which {out} keeps elsewhere; use --out with a local folder")
    if columns != "facscale":
        raise UserError(f"{option} reads facscale's own columns; leave out --columns {columns}")


def illustrate(
    item: Input, table: Path, detector: Detector, *, every: int, overlay: Path | None, page: Path | None
) -> None:
    """Write the overlay and the page of an input from its table. Raises UserError."""
    layout = AULayout.from_detector(detector)
    for path, label in ((overlay, "drawing"), (page, "page")):
        if path is None:
            continue
        frames, rate, total = open_frames(item, every=every)
        results = read_results(table, layout)
        try:
            with Progress(label, total=total, unit="frames", is_shown=item.kind == "video") as bar:
                shown = 0

                def advance() -> None:
                    nonlocal shown
                    shown += 1
                    if shown <= total:  # noqa: B023 - called within this turn
                        bar.advance()

                if path is overlay:
                    write_overlay(frames, results, path, layout=layout, rate=rate, advance=advance)
                else:
                    facts = PageFacts(Path(item.name).name, notes=describe_detector(detector))
                    interval_s = 1 / rate if rate else 0.0
                    write_page(
                        frames,
                        results,
                        path,
                        layout=layout,
                        interval_s=interval_s,
                        facts=facts,
                        step=every,
                        advance=advance,
                    )
        except OSError as error:
            advice = "free space there" if is_disk_full(error) else "choose another place"
            raise UserError(f"{path} cannot be written: {error.strerror or error}; {advice}") from None
        print(path)


def open_frames(item: Input, *, every: int) -> tuple[Iterator[Frame], float, int]:
    """Open an input: its frames, how many there are a second (0: an image), and how many are expected."""
    if item.kind == "image":
        return iter([Frame(0, 0.0, read_image(item))]), 0.0, 1
    frames, facts = open_video(item, every=every, note=lambda _stage, _reason: None)
    return frames, facts.fps / every, -(-facts.frames // every)


def describe_detector(detector: Detector) -> list[str]:
    """Sentences of a page about the detector."""
    card = detector.card
    data = ", ".join(str(entry["name"]) for entry in card.get("data", []))
    mean = (card.get("mean_f1") or {}).get("value")
    sentences = [
        f"Detector: {card.get('name', 'without a name')}" + (f", which has learned from {data}." if data else ".")
    ]
    if mean is not None:
        sentences.append(f"On people of that data whom it had not seen, its mean F1 is {100 * float(mean):.1f}.")
    sentences.append("Action units are movements of the face. They do not tell what somebody feels.")
    return sentences
