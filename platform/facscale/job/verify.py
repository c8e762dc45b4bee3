"""`facscale verify`: evaluate a run again from its weights, and compare with the digits of its reproduction card."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from facscale.cluster.ray import join
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.protocol import LabelledDataset, open_transfer_sets
from facscale.evaluate.scores import MethodScores
from facscale.job.card import Card, CardError, format_percent, get_versions
from facscale.job.datasets import JobData
from facscale.job.evaluator import Evaluator, name_tests
from facscale.job.inputs import read_export
from facscale.job.plan import build_plan
from facscale.job.variants import Variant, build_variant
from facscale.report.table import Column, ReportTable
from facscale.spec import Document, merge
from facscale.spec.errors import SourceLocation

TOLERANCE = 0.0005  # F1 in [0, 1]: half of the last digit that tables print


def verify_card(url: str, *, weights: str = "", changes: Sequence[Document] = ()) -> bool:
    """Evaluate the run of the card at `url` (a file or URL) again. Returns True where every digit holds.

    `weights`: a folder with the exported methods, where they are no longer where they were trained. `changes`: where the
    data are now, what the cluster has. Raises CardError for what is missing or is not what the card describes.
    """
    card, console = Card.from_json(read_export(url), source=url), Console(highlight=False)
    exports = load_exports(card, folder=weights)
    join()
    with tempfile.TemporaryDirectory() as scratch:  # embeddings that were cached before are not trusted
        variant = build_card_variant(card, changes=[*changes, Document({"cluster": {"storage": scratch}}, {})])
        evaluate, urls = variant.job.evaluate, variant.job.data.urls("labelled")
        labelled = [LabelledDataset.open(url, evaluate=evaluate) for url in urls]
        data = JobData(tuple(labelled), tuple(open_transfer_sets(variant.job, sets=labelled)))
        check_data(card, [*data.labelled, *data.transfer])
        predictions = evaluate_again(variant, data, exports, titles=card.results.keys())
    for name, version in get_versions().items():
        if card.versions.get(name, version) != version:
            console.print(f"{name} is {version} here, it was {card.versions[name]}")
    threshold = variant.job.evaluate.threshold
    check_tables(card, predictions, source=url)
    agree = [
        print_comparison(title, card, scores=table.score(threshold), console=console)
        for title, table in predictions.items()
    ]
    return all(agree)


def check_tables(card: Card, predictions: Mapping[str, Predictions], *, source: str) -> None:
    """Raise CardError unless each table of the card was evaluated again, with its folds and AUs, and no other was."""
    if not card.results:
        raise CardError(f"{source} has no table of results, so that there is nothing to compare")
    if missing := card.results.keys() - predictions.keys():
        raise CardError(
            f"{source}: {', '.join(sorted(missing))} cannot be evaluated again: the data of the card's spec make the tables "
            f"{', '.join(sorted(predictions)) or 'none'}"
        )
    if extra := predictions.keys() - card.results.keys():
        raise CardError(f"{source} has no results on {', '.join(sorted(extra))}, which its spec evaluates")
    for title, table in predictions.items():
        result = card.results[title]
        if list(table.aus) != result["aus"] or list(table.folds) != result["folds"]:
            raise CardError(f"{source}: its table of {title} has other AUs or folds than the data has now")


def build_card_variant(card: Card, *, changes: Sequence[Document]) -> Variant:
    """The variant that a card describes, without what was only needed to train it."""
    document = Document(card.spec, {(): SourceLocation("the spec of the card")})
    for change in changes:
        document = merge(document, change)
    variant = build_variant(document, name=card.row)
    return replace(variant, job=variant.job.model_copy(update={"inputs": {}, "stages": {}, "start": None}))


def load_exports(card: Card, *, folder: str) -> dict[str, bytes]:
    """The exported methods by title of their training. Raises CardError for one that is missing or has another checksum."""
    exports = {}
    for title, weights in card.weights.items():
        data = find_export(folder, weights["sha256"]) if folder else read_export(weights["url"])
        if hashlib.sha256(data).hexdigest() != weights["sha256"]:
            raise CardError(f"{weights['url']} is not what was evaluated: its SHA-256 differs from the card's")
        exports[title] = data
    return exports


def find_export(folder: str, sha256: str) -> bytes:
    """The file of a folder, whatever its name, with this checksum. Raises CardError."""
    for file in sorted(Path(folder).expanduser().rglob("*.safetensors")):
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    raise CardError(f"{folder} has no .safetensors with the SHA-256 {sha256}; download the run's artifacts into it")


def check_data(card: Card, sets: Sequence[LabelledDataset]) -> None:
    """Raise CardError where a data set, or the people whom a fold tests, differ from the card's."""
    described = {data["name"]: data for data in card.data if data["role"] == "evaluation"}
    for dataset in sets:
        data = described.get(dataset.name)
        if data is None or data["fingerprint"] != dataset.fingerprint:
            raise CardError(
                f"{dataset.url} is not the data of the evaluation: its fingerprint is {dataset.fingerprint}"
            )
        if data["folds"]["hash"] != dataset.split.hash:
            raise CardError(f"{dataset.url}: its folds ({dataset.split.hash}) test other people than the card's folds")


def evaluate_again(
    variant: Variant, data: JobData, exports: Mapping[str, bytes], *, titles: Collection[str]
) -> dict[str, Predictions]:
    """Predictions of the exported methods (by title of their training), by title of the table. Raises CardError.

    Without a table of the frozen encoder among `titles`, none is made: older cards of `adapted-batchnorm` lack it.
    """
    plan, evaluator = build_plan([variant], data), Evaluator()
    predictions: dict[str, Predictions] = {}
    for evaluation in plan.variants[0].evaluations:
        if evaluation.is_additional and name_tests(evaluation).keys().isdisjoint(titles):
            continue
        trainings = {key: plan.trainings[key].title for key in evaluation.models}
        for title in trainings.values():
            if title not in exports:
                raise CardError(f"the card has no weights of {title!r}")
        predictions |= evaluator.predict(evaluation, {key: exports[title] for key, title in trainings.items()})
    return predictions


def print_comparison(title: str, card: Card, *, scores: MethodScores, console: Console) -> bool:
    """Print F1 of the card and of now, and return whether they agree to the printed digit."""
    before, now = np.array(card.results[title]["f1"], float), scores.by_fold
    of_card = MethodScores(card.row, scores.aus, before, scores.pooled, scores.folds)
    headings = ("", *(f"AU{au}" for au in scores.aus), "Avg")
    rows = [
        [name, *map(format_percent, 100 * row.f1), format_percent(100 * row.mean)]
        for name, row in (("card", of_card), ("now", scores))
    ]
    console.print(
        ReportTable([Column(name, can_wrap=False) for name in headings], rows, title=f"F1 x 100 on {title}").to_rich()
    )
    if np.isnan(before).all() and np.isnan(now).all():
        console.print(f"{title}: NOT reproduced; F1 is undefined for every AU and fold, so that nothing was compared")
        return False
    same_gaps = bool((np.isnan(before) == np.isnan(now)).all())
    largest = float(np.nanmax(np.abs(before - now), initial=0.0))
    agree = same_gaps and largest <= TOLERANCE
    console.print(
        f"{title}: {'every digit holds' if agree else 'NOT reproduced'}; "
        f"the largest difference of an AU in a fold is {100 * largest:.4f} of 100 points"
    )
    return agree
