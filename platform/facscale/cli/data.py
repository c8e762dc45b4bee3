"""`facscale data`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from facscale.data import Dataset
from facscale.data.labels import frequencies
from facscale.evaluate.expression import Expressions
from facscale.job.labelled import Labelled
from facscale.spec.models import Evaluate


def show_data(url: str, *, sheet: Path | None) -> None:
    """What the manifest says, the folds where there are labels, and a contact sheet on request."""
    manifest, console = Dataset(url).manifest, Console(highlight=False)
    counts = ", ".join(f"{count:,} {thing.replace('_', ' ')}" for thing, count in manifest.counts.items())
    size = sum(shard.bytes for shard in manifest.shards)
    console.print(f"[bold]{manifest.name}[/bold]: {counts}")
    rate = f"{manifest.fps:g} frames/s" if manifest.fps else "single images"
    console.print(
        f"{manifest.image_size} x {manifest.image_size} pixels, {rate}, {size / 1e6:,.1f} MB, {len(manifest.shards)} shards"
    )
    console.print(f"fingerprint {manifest.fingerprint}")
    if manifest.au:
        data = Labelled.open(url, evaluate=Evaluate())
        rates = ", ".join(f"AU{au} {rate:.0%}" for au, rate in zip(data.aus, frequencies(data.au), strict=True))
        console.print(f"active: {rates}")
        for fold in data.split:
            console.print(f"{fold.name} ({data.split.source}) tests {' '.join(sorted(fold.test))}")
    if manifest.expressions:
        faces = Expressions.open(url)
        for part, chosen in (("train", ~faces.test), ("test", faces.test)):
            numbers = [int((faces.expression[chosen] == number).sum()) for number in range(len(faces.classes))]
            counted = ", ".join(f"{number:,} {name}" for name, number in zip(faces.classes, numbers, strict=True))
            console.print(f"{part}: {counted}")
    if sheet:
        import cv2

        from facscale.ingest import contact_sheet

        cv2.imwrite(str(sheet), contact_sheet(url)[:, :, ::-1])
        console.print(f"contact sheet: {sheet}")
