"""The reproduction card of an evaluated run: all that somebody else needs to get the same digits, as JSON and as a page.

It holds the complete spec, the data sets (fingerprints, crop recipes), the people that each fold tested (hashes), the code
(commit, versions), the weights (checksums), F1 to the last digit, and the difference to what papers print for this method
on this data.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NamedTuple, NotRequired, Self

import numpy as np
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from facscale import __version__
from facscale.data import Dataset
from facscale.errors import UserError
from facscale.evaluate import MethodScores
from facscale.evaluate.f1 import nanmean
from facscale.evaluate.protocol import LabelledDataset, TrainTestGroup
from facscale.evaluate.scores import PROTOCOLS
from facscale.job.variants import Variant
from facscale.report.pages import render_page
from facscale.report.published import PublishedResult, find_results
from facscale.report.table import Column, ReportTable
from facscale.spec.renamed import update_old_names

SCHEMA = 1
LIBRARIES = ("torch", "ray", "deepspeed", "mlflow", "numpy", "simplejpeg", "opencv-contrib-python-headless")


class CardError(UserError):
    """A file is not a card, or something that it refers to is missing."""


class TrainedWeights(NamedTuple):
    """The exported method of one training."""

    url: str
    sha256: str


class CardFolds(TypedDict):
    """The folds of a data set."""

    source: str
    hash: str
    subjects: dict[str, list[str]]


class CardData(TypedDict):
    """A data set of a card; `aus` and `folds` only where it was evaluated."""

    name: str
    role: str
    url: str
    fingerprint: str
    counts: dict[str, int]
    recipe: dict[str, Any]
    aus: NotRequired[list[int]]
    folds: NotRequired[CardFolds]


class CardWeights(TypedDict):
    """The exported method of one training."""

    url: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class CardResult(TypedDict):
    """A table: F1 in [0, 1] by fold and AU, and their mean; null where it is undefined."""

    aus: list[int]
    folds: list[str]
    f1: list[list[float | None]]
    mean: float | None
    threshold: float
    protocol: NotRequired[str]


class CardPaper(TypedDict):
    """What a paper prints, and ours minus theirs, in points."""

    name: str
    source: str
    printed: dict[str, float | None]
    difference: dict[str, float | None]
    mean_difference: float | None
    protocol: NotRequired[str]


@dataclass(frozen=True)
class Card:
    """Plain values only; F1 in [0, 1], null where it is undefined."""

    job: str
    row: str
    seed: int
    spec: dict[str, Any]  # with all that it inherits, and every default
    data: list[CardData]
    weights: dict[str, CardWeights]  # by title of the training
    results: dict[str, CardResult]  # by table
    papers: dict[str, list[CardPaper]]  # by table: what papers print for the method, and ours minus theirs
    versions: dict[str, str]
    commit: str
    cluster: str
    schema: int = SCHEMA
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The text of card.json."""
        return json.dumps(asdict(self), indent=1)

    def check_parts(self) -> None:
        """Raise ValueError where parts contradict each other."""
        if not isinstance(self.spec.get("method"), dict) or not isinstance(self.spec["method"].get("name"), str):
            raise ValueError("spec names no method")  # noqa: TRY004 - a fault of a file, not of a caller
        if self.papers.keys() != self.results.keys():
            raise ValueError("papers and results are of other tables")
        for title, result in self.results.items():
            if len(result["f1"]) != len(result["folds"]) or any(len(row) != len(result["aus"]) for row in result["f1"]):
                raise ValueError(f"results of {title} have other folds or AUs than their F1")
        for data in self.data:
            if (data["role"] == "evaluation") != ("folds" in data):
                raise ValueError(f"{data['name']} has folds and is not evaluated, or the reverse")
            if missing := {"identities", "frames"} - data["counts"].keys():
                raise ValueError(f"counts of {data['name']} lack {min(missing)}")

    @classmethod
    def from_json(cls, text: bytes | str, *, source: str) -> Self:
        """Read a card. Raises CardError for a text that is not a card of this schema."""
        try:
            values = json.loads(text)
            if values["schema"] != SCHEMA:
                raise CardError(f"{source} has schema {values['schema']}; this facscale ({__version__}) reads {SCHEMA}")
            card = TypeAdapter(cls).validate_python({**values, "spec": update_old_names(values["spec"])})
            card.check_parts()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CardError(
                f"{source} is not a reproduction card ({' '.join(str(error).split())[:200]}); expected a run's card.json"
            ) from None
        return card


def build_card(
    variant: Variant,
    *,
    job: str,
    groups: Sequence[TrainTestGroup],
    unlabelled: Sequence[Dataset],
    scores: Mapping[str, MethodScores],
    weights: Mapping[str, TrainedWeights],
    commit: str,
    cluster: str,
) -> Card:
    """The card of one variant with one seed; `scores`: F1 by title of the table, `weights`: by title of the training."""
    sets = {dataset.url: dataset for group in groups for dataset in group.transfer}
    sets |= {dataset.url: dataset for group in groups for dataset in group.sets}  # with folds, where a set is in both
    data = [describe_unlabelled(dataset) for dataset in unlabelled]
    data += [describe_labelled(dataset) for dataset in sets.values()]
    spec = variant.job.model_dump(mode="json", exclude={"sweep"})
    threshold = variant.job.evaluate.threshold
    return Card(
        job=job,
        row=variant.name,
        seed=variant.job.seed,
        spec=spec | {"method": {"name": variant.job.method.name, **variant.config.model_dump(mode="json")}},
        data=data,
        weights={title: {"url": export.url, "sha256": export.sha256} for title, export in weights.items()},
        results={title: describe_scores(row, threshold=threshold) for title, row in scores.items()},
        papers={
            title: [compare_to_paper(row, published) for published in find_published(title, variant)]
            for title, row in scores.items()
        },
        versions=get_versions(),
        commit=commit,
        cluster=cluster,
    )


def describe_unlabelled(dataset: Dataset) -> CardData:
    """Name, URL, fingerprint and recipe of a data set for pre-training."""
    manifest = dataset.manifest
    return {
        "name": manifest.name,
        "role": "pre-training",
        "url": dataset.url,
        "fingerprint": manifest.fingerprint,
        "counts": manifest.counts,
        "recipe": manifest.recipe,
    }


def describe_labelled(dataset: LabelledDataset) -> CardData:
    """The same of a labelled data set, with its folds and the people whom each of them tests."""
    split = dataset.split
    people = {fold.name: sorted(fold.test) for fold in split}
    folds = CardFolds(source=split.source, hash=split.hash, subjects=people)
    return {**describe_unlabelled(Dataset(dataset.url)), "role": "evaluation", "aus": list(dataset.aus), "folds": folds}


def describe_scores(scores: MethodScores, *, threshold: float) -> CardResult:
    """F1 of each fold and AU, which `facscale verify` compares with."""
    return {
        "aus": list(scores.aus),
        "folds": list(scores.folds),
        "f1": to_plain(scores.by_fold),
        "mean": to_plain(np.array([scores.mean]))[0],
        "threshold": threshold,
        "protocol": scores.protocol,
    }


def find_published(title: str, variant: Variant) -> list[PublishedResult]:
    """What papers print for a variant on a data set, by its own name or by its method's."""
    results = find_results(title, method=variant.name) or find_results(title, method=variant.job.method.name)
    return [result for result in results if result.aus and result.metric == "F1"]


def compare_to_paper(scores: MethodScores, published: PublishedResult) -> CardPaper:
    """A published result, and F1 x 100 of ours minus theirs: by AU, and of the mean over the AUs that both have."""
    theirs = published.to_scores()
    aus = [au for au in scores.aus if au in theirs.aus]
    ours_f1 = scores.f1[[scores.aus.index(au) for au in aus]]
    difference = 100 * (ours_f1 - theirs.f1[[theirs.aus.index(au) for au in aus]])
    return {
        "name": published.name,
        "source": theirs.source,
        "protocol": theirs.protocol,
        "printed": {f"AU{au}": value for au, value in published.values.items()},
        "difference": dict(zip((f"AU{au}" for au in aus), to_plain(difference), strict=True)),
        "mean_difference": to_plain(np.array([nanmean(difference)]))[0],
    }


def to_plain(values: np.ndarray) -> list[Any]:
    """Floats, nested as they are; null for nan."""
    return [to_plain(row) if np.ndim(row) else None if np.isnan(row) else float(row) for row in values]


def get_versions() -> dict[str, str]:
    """Versions of the code and of the libraries that decide digits."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"facscale": __version__, "python": platform.python_version(), **libraries}


def render_card(card: Card) -> str:
    """The card as an HTML page."""
    method = card.spec["method"]["name"]
    facts = {"job": card.job, "method": method, "seed": str(card.seed), "commit": card.commit, "cluster": card.cluster}
    weights = [[title, export["sha256"], export["url"]] for title, export in card.weights.items()]
    return render_page(
        "card.html",
        title=f"{card.row}, seed {card.seed}",
        results=[make_results_table(title, card) for title in card.results],
        data=make_data_table(card),
        versions=make_text_table(["", ""], [[name, value] for name, value in (facts | card.versions).items()]),
        weights=make_text_table(["training", "SHA-256", "where"], weights),
        spec=json.dumps(card.spec, indent=1),
    )


def make_text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> ReportTable:
    """A table of text."""
    return ReportTable([Column(heading) for heading in headings], rows)


def make_data_table(card: Card) -> ReportTable:
    """The data sets that the training and its test read."""
    rows = []
    for data in card.data:
        folds = f"{data['folds']['source']} ({data['folds']['hash']})" if "folds" in data else ""
        people, frames = (f"{data['counts'][name]:,}" for name in ("identities", "frames"))
        rows.append([data["name"], data["role"], people, frames, data["fingerprint"][:16], folds])
    return make_text_table(["data set", "for", "people", "frames", "fingerprint", "folds"], rows)


def make_results_table(title: str, card: Card) -> ReportTable:
    """F1 x 100 of each fold on one data set, and of the papers' rows below them."""
    result = card.results[title]
    rows = []
    by_fold = np.array(result["f1"], float)
    for name, f1 in [*zip(result["folds"], by_fold, strict=True), ("mean", nanmean(by_fold, axis=0))]:
        rows.append([name, *map(format_percent, 100 * f1), format_percent(100 * nanmean(f1))])
    for paper in card.papers[title]:
        differences = [paper["difference"].get(f"AU{au}") for au in result["aus"]]
        rows.append([paper["name"], *(format_percent(paper["printed"].get(f"AU{au}")) for au in result["aus"]), ""])
        rows.append(
            [
                "ours minus theirs",
                *(format_percent(difference, sign="+") for difference in differences),
                format_percent(paper["mean_difference"], sign="+"),
            ]
        )
    columns = [Column(heading) for heading in ("", *(f"AU{au}" for au in result["aus"]), "Avg")]
    protocol = PROTOCOLS.get(result.get("protocol", ""), "protocol not recorded")
    return ReportTable(
        columns,
        rows,
        title=f"F1 x 100 on {title}, threshold {result['threshold']:g}: {protocol}",
        notes=list(dict.fromkeys(paper["protocol"] for paper in card.papers[title] if paper.get("protocol"))),
    )


def format_percent(value: Any, *, sign: str = "") -> str:
    """One decimal; a dash for a missing value."""
    return "-" if value is None or np.isnan(value) else f"{value:{sign}.1f}"
