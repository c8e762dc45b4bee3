"""Commands about what there is to train on and to train: the group `data`, and `methods`."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from facscale.cli.arguments import Command, OutputFile
from facscale.cli.completion import complete_file, complete_method
from facscale.errors import UserError

URL = click.argument("url", shell_complete=complete_file)
DEFAULT = "describe"  # the command that is meant by `facscale data URL`


class DataGroup(click.Group):
    """The commands about data sets; `facscale data URL` is short for `facscale data describe URL`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front of a URL. Raises UserError for a misspelt command."""
        words = [word for word in args if not word.startswith("-")]
        is_help_wanted = set(ctx.help_option_names) & set(args)
        if words and words[0] not in self.commands and not (is_help_wanted and args[0] in ctx.help_option_names):
            if not ctx.resilient_parsing:
                self._check_command(words[0])
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete to the names of the commands, or else to a file."""
        return super().shell_complete(ctx, incomplete) or [CompletionItem(incomplete, type="file")]

    def _check_command(self, word: str) -> None:
        near = difflib.get_close_matches(word, self.commands, n=1)
        if near and not Path(word).exists():
            raise UserError(f"facscale data {word}: there is no folder {word}; did you mean facscale data {near[0]}?")


@click.group(cls=DataGroup, subcommand_metavar="COMMAND | URL ...")
def data_command() -> None:
    """Describe, verify, copy, combine and shrink data sets.

    \b
        facscale data s3://faces/bp4d
        facscale data verify s3://faces/bp4d

    A data set is a folder of shards, or s3://bucket/prefix.
    """


@data_command.command(cls=Command)
@URL
@click.option(
    "--sheet",
    type=OutputFile(suffix=".png"),
    metavar="FILE.png",
    help="Write a contact sheet of the faces to this PNG.",
)
def describe(url: str, sheet: Path | None) -> None:
    """Show what a data set contains.

    \b
        facscale data describe s3://faces/bp4d
        facscale data describe s3://faces/bp4d --sheet faces.png

    Printed are the counts of its manifest, the base rates of its AUs, its folds and its expressions.
    """
    show_data(url, sheet=sheet)


@data_command.command(cls=Command)
@URL
def verify(url: str) -> None:
    """Compare every byte with its checksum.

    \b
        facscale data verify s3://faces/bp4d

    Each missing, truncated or damaged shard and row group is listed. Exit status 1: something is damaged; 2: there is no
    data set, or its store does not answer.
    """
    sys.exit(0 if verify_data(url) else 1)


def verify_data(url: str) -> bool:
    """Print what is damaged in a data set; True if nothing is."""
    from rich.console import Console

    from facscale.data import Dataset
    from facscale.data.verification import verify_dataset
    from facscale.progress import Progress

    dataset, console = Dataset(url), Console(highlight=False, soft_wrap=True)
    shards = dataset.manifest.shards
    with Progress("verified", total=len(shards), unit="shards") as bar:
        faults = verify_dataset(dataset, advance=bar.advance)
    for fault in faults:
        console.print(str(fault), markup=False)
    groups = sum(len(shard.row_groups) for shard in shards)
    if faults:
        lost = min(sum(fault.frames for fault in faults), dataset.manifest.counts["frames"])
        console.print(
            f"{dataset.url}: {len(faults)} faults; {lost:,} of {dataset.manifest.counts['frames']:,} frames are lost. "
            "Copy the files again from where they are intact, or make the data set again",
            markup=False,
        )
    else:
        console.print(
            f"{dataset.url}: all {len(shards)} shards with {groups:,} row groups are as they were written", markup=False
        )
    return not faults


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
