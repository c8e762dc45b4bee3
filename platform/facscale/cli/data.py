"""Commands about what there is to train on and to train: `data` and `methods`."""

from __future__ import annotations

from pathlib import Path

import click

from facscale.cli.arguments import Command, OutputFile
from facscale.cli.completion import complete_file, complete_method


@click.command(cls=Command)
@click.argument("url", shell_complete=complete_file)
@click.option(
    "--sheet",
    type=OutputFile(suffix=".png"),
    metavar="FILE.png",
    help="Write a contact sheet of the faces to this PNG.",
)
def data_command(url: str, sheet: Path | None) -> None:
    """Show what a data set contains.

    \b
        facscale data s3://faces/bp4d
        facscale data s3://faces/bp4d --sheet faces.png

    URL is a folder of shards or s3://bucket/prefix. Printed are the counts of its manifest, the base rates of its AUs,
    its folds and its expressions.
    """
    show_data(url, sheet=sheet)


def show_data(url: str, *, sheet: Path | None) -> None:
    """Print the manifest's contents, and folds and classes if there are labels; draw a contact sheet if wanted."""
    from rich.console import Console

    from facscale.data import Dataset
    from facscale.data.labels import compute_base_rates
    from facscale.evaluate.expression import ExpressionDataset
    from facscale.evaluate.protocol import LabelledDataset
    from facscale.spec.models import Evaluate

    manifest, console = Dataset(url).manifest, Console(highlight=False)
    counts = ", ".join(f"{count:,} {unit.replace('_', ' ')}" for unit, count in manifest.counts.items())
    size_mb = sum(shard.bytes for shard in manifest.shards) / 1e6
    rate = f"{manifest.fps:g} frames/s" if manifest.fps else "single images"
    side = manifest.image_size
    console.print(f"[bold]{manifest.name}[/bold]: {counts}")
    console.print(f"{side} x {side} pixels, {rate}, {size_mb:,.1f} MB, {len(manifest.shards)} shards")
    console.print(f"fingerprint {manifest.fingerprint}")
    if manifest.au:
        labelled = LabelledDataset.open(url, evaluate=Evaluate())
        base_rates = zip(labelled.aus, compute_base_rates(labelled.au), strict=True)
        console.print(f"active: {', '.join(f'AU{au} {share:.0%}' for au, share in base_rates)}")
        for fold in labelled.split:
            console.print(f"{fold.name} ({labelled.split.source}) tests {' '.join(sorted(fold.test))}")
    if manifest.expressions:
        faces = ExpressionDataset.open(url)
        for part, members in (("train", ~faces.test), ("test", faces.test)):
            numbers = [int((faces.expression[members] == number).sum()) for number in range(len(faces.classes))]
            sizes = ", ".join(f"{number:,} {name}" for name, number in zip(faces.classes, numbers, strict=True))
            console.print(f"{part}: {sizes}")
    if sheet:
        import cv2

        from facscale.ingest import draw_contact_sheet

        cv2.imwrite(str(sheet), draw_contact_sheet(url)[:, :, ::-1])
        console.print(f"contact sheet: {sheet}")


@click.command(cls=Command)
@click.argument("name", required=False, shell_complete=complete_method)
def methods_command(name: str | None) -> None:
    """List the methods, or describe one of them.

    \b
        facscale methods
        facscale methods clp

    With a NAME: its paper, equations, hyper-parameters and their defaults.
    """
    from facscale.cli.methods import show_method, show_methods

    show_method(name) if name else show_methods()
