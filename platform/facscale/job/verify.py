"""`facscale verify`: judge a run again from its weights, and say whether the digits of its reproduction card hold."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from facscale.cluster import join
from facscale.evaluate import Row
from facscale.evaluate.predictions import Predictions
from facscale.job.card import Card, CardError, percent, versions
from facscale.job.inputs import read
from facscale.job.judge import Judge, fold_title
from facscale.job.labelled import Group, Labelled, groups, transferred
from facscale.job.lanes import Lanes
from facscale.job.variants import Variant, variant
from facscale.spec import Document, merge
from facscale.train.task import Task
from facscale.train.worker import urls

DIGIT = 0.0005  # F1 in [0, 1]: half of the last digit that tables print


def verify_card(place: str, *, weights: str = "", changes: Sequence[Document] = ()) -> bool:
    """Evaluate again what the card at `place` (a file or URL) tells of; True where every digit holds.

    `weights`: a folder with the exported methods, where they no longer lie where they were trained. `changes`: where the
    data lie now, what the cluster has. Raises CardError for what is missing or is not what the card means.
    """
    card, console = Card.from_json(read(place), source=place), Console(highlight=False)
    exports = fetched(card, folder=weights)
    join()
    with tempfile.TemporaryDirectory() as scratch:  # what was embedded before is not to be believed
        row = stated(card, changes=[*changes, Document({"cluster": {"storage": scratch}}, {})])
        sets = [Labelled.open(url, evaluate=row.job.evaluate) for url in urls(row.job, "labelled")]
        transfer = transferred(row.job, sets=sets)
        refuse_other_data(card, [*sets, *transfer])
        again = judged_again(row, groups(row.job, sets, transfer=transfer), exports)
    for name, version in versions().items():
        if card.versions.get(name, version) != version:
            console.print(f"{name} is {version} here, it was {card.versions[name]}")
    agree = [
        told(title, card, row=predictions.row(row.job.evaluate.threshold), console=console)
        for title, predictions in again.items()
    ]
    return all(agree)


def stated(card: Card, *, changes: Sequence[Document]) -> Variant:
    """The card's spec."""
    document = Document(card.spec, {})
    for change in changes:
        document = merge(document, change)
    return variant(document, name=card.row)


def fetched(card: Card, *, folder: str) -> dict[str, bytes]:
    """The exported methods by title of their training. Raises CardError for one that is missing or is another."""
    found = {}
    for title, one in card.weights.items():
        data = found_in(folder, one["sha256"]) if folder else read(one["url"])
        if hashlib.sha256(data).hexdigest() != one["sha256"]:
            raise CardError(f"{one['url']} is not what was judged: its SHA-256 is another than the card's")
        found[title] = data
    return found


def found_in(folder: str, sha256: str) -> bytes:
    """The file of a folder, whatever its name, with this checksum."""
    for file in sorted(Path(folder).expanduser().rglob("*.safetensors")):
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    raise CardError(f"{folder} holds no .safetensors with the SHA-256 {sha256}; fetch the run's artifacts into it")


def refuse_other_data(card: Card, sets: Sequence[Labelled]) -> None:
    """Raises CardError where a data set, or who is tested in which fold, is not the card's."""
    meant = {one["name"]: one for one in card.data if one["role"] == "evaluation"}
    for data in sets:
        one = meant.get(data.name)
        if one is None or one["fingerprint"] != data.fingerprint:
            raise CardError(f"{data.url} is not the data that was judged on: its fingerprint is {data.fingerprint}")
        if one["folds"]["hash"] != data.split.hash:
            raise CardError(f"{data.url}: other people are tested in its folds ({data.split.hash}) than the card says")


def judged_again(row: Variant, parts: Sequence[Group], exports: Mapping[str, bytes]) -> dict[str, Predictions]:
    """What the exported methods say, by table."""

    def stored(_: Task, title: str) -> bytes:
        if title not in exports:
            raise CardError(f"the card knows no weights of {title!r}")
        return exports[title]

    judge, again = Judge(row, stored, Lanes(1)), dict[str, Predictions]()
    for part in parts:
        if row.learns_from_labels:
            again |= judge.tested([exports[fold_title(row, part, fold)] for fold in part.folds], on=part)
        else:
            again |= judge.probed(exports[row.title], on=part)
    return again


def told(title: str, card: Card, *, row: Row, console: Console) -> bool:
    """Print both, and say whether they agree to the printed digit."""
    before, now = np.array(card.results[title]["f1"], float), row.by_fold
    table = Table(title=f"F1 x 100 on {title}", title_justify="left")
    for name in ("", *(f"AU{au}" for au in row.aus), "Avg"):
        table.add_column(name, justify="right", no_wrap=True)
    then = Row(card.row, row.aus, before, row.pooled, row.folds)
    for name, one in (("card", then), ("now", row)):
        table.add_row(name, *map(percent, 100 * one.f1), percent(100 * one.mean))
    console.print(table)
    same_gaps = bool((np.isnan(before) == np.isnan(now)).all())
    largest = float(np.nanmax(np.abs(before - now), initial=0.0))
    agree = same_gaps and largest <= DIGIT
    console.print(
        f"{title}: {'every digit holds' if agree else 'NOT reproduced'}; "
        f"the largest difference of an AU in a fold is {100 * largest:.4f} of 100 points"
    )
    return agree
