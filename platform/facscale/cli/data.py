"""Commands about what there is to train on and to train: the group `data`, and `methods`."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from facscale.cli.arguments import Command, OutputFile, Rule
from facscale.cli.completion import complete_file, complete_method
from facscale.errors import UserError

if TYPE_CHECKING:
    from facscale.data import Dataset

URL = click.argument("url", shell_complete=complete_file)
WIDTH = 160  # characters of a table where the output is no terminal
SHOWN = 10  # names of a list
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
@click.option("--page", type=OutputFile(suffix=".html"), metavar="FILE.html", help="Write all of it as one page.")
def describe(url: str, sheet: Path | None, page: Path | None) -> None:
    """Show what a data set contains.

    \b
        facscale data describe s3://faces/bp4d
        facscale data describe s3://faces/bp4d --sheet faces.png
        facscale data describe s3://faces/bp4d --page bp4d.html

    Printed are the counts of its manifest, the base rates of its AUs, its folds and its expressions. The page shows
    people, lengths, pose, light, sharpness, detection, AUs and their co-occurrence, and the best and worst crops.
    """
    show_data(url, sheet=sheet)
    if page:
        write_page(url, page)


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


@data_command.command(cls=Command)
@click.argument("first", shell_complete=complete_file)
@click.argument("second", shell_complete=complete_file)
@click.option("--frames", is_flag=True, help="Read both sets and compare pictures, landmarks and labels of each frame.")
def diff(first: str, second: str, *, frames: bool) -> None:
    """Show what differs between two data sets.

    \b
        facscale data diff s3://faces/bp4d s3://faces/bp4d-v2
        facscale data diff s3://faces/bp4d s3://faces/bp4d-v2 --frames

    Settings, people, videos, tracks and their lengths are compared. Exit status 1: something differs.
    """
    sys.exit(1 if show_difference(first, second, should_read_frames=frames) else 0)


@data_command.command(cls=Command)
@click.argument("source", shell_complete=complete_file)
@click.argument("target", shell_complete=complete_file)
def copy(source: str, target: str) -> None:
    """Copy a data set to another folder or store.

    \b
        facscale data copy s3://faces/bp4d /scratch/bp4d

    Each shard is read back and compared with its checksums. An interrupted copy continues where it was; a finished one
    is checked again, and shards that are damaged or missing in TARGET are replaced.
    """
    copy_data(source, target)


@data_command.command(cls=Command)
@click.argument("source", shell_complete=complete_file)
@click.argument("target", shell_complete=complete_file)
@click.option("--people", type=click.IntRange(min=1), required=True, metavar="N", help="How many people to keep.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draw.")
def sample(source: str, target: str, *, people: int, seed: int) -> None:
    """Write a data set of a few people, drawn at random.

    \b
        facscale data sample s3://faces/voxceleb2 /scratch/small --people 100

    All videos of a person are kept. With the same seed, a larger sample contains every smaller one.
    """
    from facscale.data import Dataset
    from facscale.data.derivation import draw_people, select_people

    dataset = Dataset(source)
    drawn = draw_people(dataset, count=people, seed=seed)
    with show_row_groups("sampled", [dataset], identities=drawn) as advance:
        step = {"command": "sample", "people": people, "seed": seed}
        select_people(dataset, target, identities=drawn, step=step, advance=advance)
    show_data(target, sheet=None)


@data_command.command(
    cls=Command, rules=(Rule("--prefix", excludes=("--same-people",), why="people are either the same or not"),)
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE SOURCE... TARGET", shell_complete=complete_file)
@click.option("--name", default="", metavar="NAME", help="Name of the new data set; else those of its sources.")
@click.option("--prefix", is_flag=True, help="Put the name of its data set before each identity.")
@click.option("--same-people", is_flag=True, help="An identity that is in several sets is one person.")
def merge(sources: tuple[str, ...], *, name: str, prefix: bool, same_people: bool) -> None:
    """Write one data set from several.

    \b
        facscale data merge s3://faces/voxceleb1 s3://faces/voxceleb2 s3://faces/voxceleb

    Labels get the AUs of all sets, and are unknown where a set does not have one. Crops must have one size.
    """
    merge_data(sources, name=name, should_prefix=prefix, is_same_people=same_people)


@data_command.command(cls=Command, rules=(Rule("--tracker", excludes=("--no-tracker",), why="no run is searched for"),))
@click.argument("identities", nargs=-1, required=True, metavar="IDENTITY...")
@click.option("--in", "url", required=True, metavar="URL", shell_complete=complete_file, help="The data set.")
@click.option(
    "--out", "target", metavar="URL", help="Folder of the new version; else the old one's name with -v2, -v3 ..."
)
@click.option("--tracker", default="", metavar="URI", help="MLflow server; else MLFLOW_TRACKING_URI.")
@click.option("--no-tracker", is_flag=True, help="Do not look for runs that have seen them.")
def forget(identities: tuple[str, ...], *, url: str, target: str | None, tracker: str, no_tracker: bool) -> None:
    """Write a new version of a data set without a person.

    \b
        facscale data forget id00012 --in s3://faces/voxceleb2 --tracker http://mlflow:5000

    Listed are all tracked runs whose data held the person, what they did with it, and the models and weights that they
    left. Nothing is deleted: neither the old version nor a model. The new version keeps hashes of the names, so that
    later searches know that it no longer holds the person.
    """
    forget_data(identities, url=url, target=target, tracker=tracker, should_search=not no_tracker)


@data_command.command(cls=Command)
@URL
def failed(url: str) -> None:
    """List the videos and images that a pipeline could not read.

    \b
        facscale data failed s3://faces/voxceleb2
        facscale run pipelines/voxceleb2.yaml --retry-failed

    URL is the output of the pipeline, which may be unfinished. Videos that show no face are not listed: they were read.
    A file that was mended is processed again by `facscale run`; --retry-failed also does so for those that have not changed,
    such as after a fault of the disk or too little memory. Exit status 1: something failed.
    """
    sys.exit(1 if show_failed(url) else 0)


def show_failed(url: str) -> bool:
    """Print a line for each fault of the items that failed; True if there are any."""
    from facscale.ingest.failures import list_failed

    statuses = list_failed(url)
    for status in statuses:
        kept = f" ({status.faces:,} faces kept)" if status.faces else ""
        for fault in status.faults:
            click.echo(f"{fault.item}: {fault.stage}: {fault.reason}{kept}")
    click.echo(f"{url}: {len(statuses):,} items failed" if statuses else f"{url}: no item failed")
    return bool(statuses)


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


def write_page(url: str, page: Path) -> None:
    """Write the page of a data set."""
    from facscale.data import Dataset
    from facscale.data.statistics import list_sampled_row_groups
    from facscale.progress import Progress
    from facscale.report.dataset_page import build_dataset_page

    dataset = Dataset(url)
    with Progress("sampled", total=len(list_sampled_row_groups(dataset)), unit="row groups") as bar:
        text = build_dataset_page(dataset, advance=bar.advance)
    page.write_text(text, encoding="utf-8")
    click.echo(f"{page}: open it in a browser", err=True)


def show_difference(first: str, second: str, *, should_read_frames: bool) -> bool:
    """Print what differs between two data sets; True if something does."""
    from rich.console import Console

    from facscale.data import Dataset
    from facscale.data.difference import compare_datasets

    pair = Dataset(first), Dataset(second)
    with show_row_groups("compared", pair if should_read_frames else ()) as advance:
        difference = compare_datasets(*pair, should_read_frames=should_read_frames, advance=advance)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for name, (one, other) in difference.settings.items():
        console.print(f"{name}: {one} | {other}")
    for kind in ("identities", "videos", "tracks"):
        for url, names in zip((first, second), getattr(difference, kind), strict=True):
            if names:
                console.print(f"{len(names):,} {kind} only in {url}: {shorten(names)}")
    if difference.lengths:
        texts = [f"{name} ({one} | {other})" for name, (one, other) in difference.lengths.items()]
        console.print(f"{len(texts):,} tracks with other numbers of frames: {shorten(texts)}")
    for kind in ("labels", "pixels", "landmarks"):
        counts = getattr(difference, kind)
        if counts:
            texts = [f"{name} ({count})" for name, count in counts.items()]
            console.print(f"{sum(counts.values()):,} frames with other {kind}: {shorten(texts)}")
    if not difference:
        checked = "" if should_read_frames else "; --frames also compares each frame"
        console.print(f"no difference between {first} and {second}{checked}")
    return bool(difference)


def copy_data(source: str, target: str) -> None:
    """Copy a data set and print how much of it was there already."""
    from facscale.data import Dataset
    from facscale.data.transfer import copy_dataset
    from facscale.progress import Progress

    dataset = Dataset(source)
    total = len(dataset.manifest.shards)
    with Progress("copied", total=total, unit="shards") as bar:
        written = copy_dataset(dataset, target, advance=bar.advance)
    click.echo(f"{target}: {written} shards copied, {total - written} were there; all checksums are right")


def merge_data(urls: Sequence[str], *, name: str, should_prefix: bool, is_same_people: bool) -> None:
    """Merge all but the last URL into the last. Raises UserError for fewer than two sources."""
    from facscale.data import Dataset
    from facscale.data.derivation import find_recipe_differences, merge_datasets

    *sources, target = urls
    if len(sources) < 2:
        raise UserError("facscale data merge needs at least two data sets, and then the folder of the new one")
    datasets = [Dataset(url) for url in sources]
    for key, values in find_recipe_differences(datasets).items():
        texts = "; ".join(f"{url}: {value}" for url, value in zip(sources, values, strict=True))
        click.echo(f"warning: these data sets were made with another {key} ({texts})", err=True)
    with show_row_groups("merged", datasets) as advance:
        merge_datasets(
            datasets, target, name=name, should_prefix=should_prefix, is_same_people=is_same_people, advance=advance
        )
    show_data(target, sheet=None)


def forget_data(identities: Sequence[str], *, url: str, target: str | None, tracker: str, should_search: bool) -> None:
    """List the runs that have seen the people, and write a data set without them. Raises UserError without a tracker."""
    from facscale.data import Dataset
    from facscale.data.derivation import forget_people
    from facscale.data.tracks import check_identities
    from facscale.data.versions import find_next_version

    uri = tracker or os.environ.get("MLFLOW_TRACKING_URI", "")
    if should_search and not uri:
        raise UserError(
            "which runs have seen them? set MLFLOW_TRACKING_URI, or add --tracker http://HOST:PORT or sqlite:///FILE; "
            "--no-tracker leaves the search out"
        )
    dataset, names = Dataset(url), ", ".join(identities)
    check_identities(dataset, identities)
    target = target or find_next_version(url)
    if should_search:
        show_exposed_runs(uri, dataset, identities)
    else:
        click.echo(f"no run was searched for; those that have seen {names} remain unknown", err=True)
    remaining = set(dataset.runs.identities) - set(identities)
    with show_row_groups("written", [dataset], identities=remaining) as advance:
        manifest = forget_people(dataset, target, identities=identities, advance=advance)
    lost = dataset.manifest.counts["frames"] - manifest.counts["frames"]
    click.echo(f"{target}: without {names}, {lost:,} frames less; fingerprint {manifest.fingerprint}")
    click.echo(f"{dataset.url} still holds {names}, as do its copies and its source; delete them yourself")


def show_exposed_runs(uri: str, dataset: Dataset, identities: Sequence[str]) -> None:
    """Print a table of the runs that have seen the people, then their models and weights."""
    from rich.console import Console

    from facscale.job.exposure import find_exposed_runs
    from facscale.report.table import Column, ReportTable

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    exposed = find_exposed_runs(uri, dataset, identities)
    if not exposed:
        click.echo(f"{uri}: no run had a data set with {', '.join(identities)}")
        return
    columns = [
        Column(heading, align="left") for heading in ("run", "experiment", "id", "status", "what it did", "models")
    ]
    rows = [
        [entry.run.name, entry.experiment, entry.run.id[:8], entry.run.status, entry.use, ", ".join(entry.models)]
        for entry in exposed
    ]
    console.print(ReportTable(columns, rows, title=f"{len(rows)} runs of {uri}").to_rich())
    for weights in dict.fromkeys(url for entry in exposed if entry.is_trained for url, _ in entry.weights):
        click.echo(f"weights: {weights}")


@contextmanager
def show_row_groups(
    title: str, datasets: Sequence[Dataset], *, identities: Collection[str] | None = None
) -> Iterator[Callable[[], None]]:
    """A bar over the row groups of data sets, of these identities alone; yields what advances it."""
    from facscale.data.tracks import find_row_groups
    from facscale.progress import Progress

    total = sum(len(find_row_groups(dataset, identities=identities)) for dataset in datasets)
    with Progress(title, total=total, unit="row groups", is_shown=bool(datasets)) as bar:
        yield bar.advance


def shorten(names: Sequence[str]) -> str:
    """The first names of a list that may be long."""
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


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
    square = f" (with a margin of {manifest.margin:g} around the face square)" if manifest.margin else ""
    console.print(f"{side} x {side} pixels{square}, {rate}, {size_mb:,.1f} MB, {len(manifest.shards)} shards")
    console.print(f"fingerprint {manifest.fingerprint}")
    if manifest.previous:
        changes = ", ".join(f"{len(items):,} {kind}" for kind, items in manifest.changes.items() if items)
        console.print(f"version {manifest.version}; since the one before: {changes or 'the same items'}")
    if detector := manifest.recipe.get("detector"):
        console.print(
            f"detector {detector.get('name', detector) if isinstance(detector, dict) else detector}", markup=False
        )
    for term in ("licence", "consent"):
        if text := manifest.recipe.get(term):
            console.print(f"{term}: {text}", markup=False)
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
