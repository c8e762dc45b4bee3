"""The reproduction card of an evaluated run: all that somebody else needs to come to the same digits, as JSON and as a page.

What was trained and judged (the whole spec), on which data (fingerprints, crop recipes), whom each fold tested (hashes),
with which code (commit, versions), the weights (checksums), F1 to the last digit, and how far that is from what papers
print for this method on this data.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import TypeAdapter

from facscale import __version__
from facscale.data import Dataset
from facscale.errors import UserError
from facscale.evaluate import Row
from facscale.evaluate.f1 import mean
from facscale.job.labelled import Group, Labelled
from facscale.job.variants import Variant
from facscale.report import html
from facscale.report.published import Line, published

SCHEMA = 1
LIBRARIES = ("torch", "ray", "deepspeed", "mlflow", "numpy", "simplejpeg", "opencv-contrib-python-headless")


class CardError(UserError):
    """A file is no card, or what it speaks of is not there."""


class Made(NamedTuple):
    """One training."""

    url: str  # of the exported method
    sha256: str
    spent: dict[str, float]  # what it cost


@dataclass(frozen=True)
class Card:
    """Plain values only; F1 in [0, 1], null where it is undefined."""

    job: str
    row: str
    seed: int
    spec: dict[str, Any]  # with all that it inherits, and every default
    data: list[dict[str, Any]]
    weights: dict[str, dict[str, str]]  # by title of the training: url, sha256
    results: dict[str, dict[str, Any]]  # by table: folds, aus, f1 [folds, n], mean
    papers: dict[str, list[dict[str, Any]]]  # by table: what papers print for the method, and ours minus theirs
    versions: dict[str, str]
    commit: str
    cluster: str
    schema: int = SCHEMA
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The text of card.json."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: bytes | str, *, source: str) -> Self:
        """Raises CardError for what is no card of this schema."""
        try:
            found = json.loads(text)
            if found["schema"] != SCHEMA:
                raise CardError(f"{source} has schema {found['schema']}; this facscale ({__version__}) reads {SCHEMA}")
            return TypeAdapter(cls).validate_python(found)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CardError(
                f"{source} is no reproduction card ({' '.join(str(error).split())[:200]}); wanted is a run's card.json"
            ) from None


def card(
    row: Variant, *, job: str, parts: Sequence[Group], unlabelled: Sequence[Dataset], rows: Mapping[str, Row],
    made: Mapping[str, Made], commit: str, cluster: str,
) -> Card:  # fmt: skip
    """Of one training (with its folds); `rows`: its F1 by table."""
    sets = {data.url: data for part in parts for data in part.transfer}
    sets |= {data.url: data for part in parts for data in part.sets}  # with their folds, where both is true
    about = [unlabelled_data(dataset) for dataset in unlabelled] + [labelled_data(data) for data in sets.values()]
    spec = row.job.model_dump(mode="json", exclude={"sweep"})
    return Card(
        job=job, row=row.name, seed=row.job.seed,
        spec=spec | {"method": {"name": row.job.method.name, **row.config.model_dump(mode="json")}},
        data=about,
        weights={title: {"url": one.url, "sha256": one.sha256} for title, one in made.items()},
        results={title: result(line, threshold=row.job.evaluate.threshold) for title, line in rows.items()},
        papers={title: [beside(line, printed) for printed in printed_of(title, row)] for title, line in rows.items()},
        versions=versions(), commit=commit, cluster=cluster,
    )  # fmt: skip


def unlabelled_data(dataset: Dataset) -> dict[str, Any]:
    """Name, place, fingerprint and recipe of what was pre-trained on."""
    manifest = dataset.manifest
    return {
        "name": manifest.name, "role": "pre-training", "url": dataset.url, "fingerprint": manifest.fingerprint,
        "counts": manifest.counts, "recipe": manifest.recipe,
    }  # fmt: skip


def labelled_data(data: Labelled) -> dict[str, Any]:
    """Likewise of what was judged on, and who was tested in which fold."""
    folds = {
        "source": data.split.source, "hash": data.split.hash, "subjects": {f.name: sorted(f.test) for f in data.split}
    }  # fmt: skip
    return {**unlabelled_data(Dataset(data.url)), "role": "evaluation", "aus": list(data.aus), "folds": folds}


def result(row: Row, *, threshold: float) -> dict[str, Any]:
    """F1 of each fold and AU, as it is compared again by `facscale verify`."""
    return {
        "aus": list(row.aus), "folds": list(row.folds), "f1": plain(row.by_fold), "mean": plain(np.array([row.mean]))[0],
        "threshold": threshold,
    }  # fmt: skip


def printed_of(title: str, row: Variant) -> list[Line]:
    """What papers print for this row on this data, by its own name or by its method's."""
    found = published(title, method=row.name) or published(title, method=row.job.method.name)
    return [line for line in found if line.aus and line.metric == "F1"]


def beside(row: Row, line: Line) -> dict[str, Any]:
    """A printed row, and F1 x 100 of ours minus its: by AU, and of the mean over the AUs that both have."""
    theirs = line.row()
    both = [au for au in row.aus if au in theirs.aus]
    difference = 100 * (row.f1[[row.aus.index(au) for au in both]] - theirs.f1[[theirs.aus.index(au) for au in both]])
    return {
        "name": line.name, "source": theirs.source, "printed": {f"AU{au}": value for au, value in line.values.items()},
        "difference": dict(zip((f"AU{au}" for au in both), plain(difference), strict=True)),
        "mean_difference": plain(np.array([mean(difference)]))[0],
    }  # fmt: skip


def plain(values: np.ndarray) -> list[Any]:
    """Floats, nested as they are; null for nan."""
    return [plain(line) if np.ndim(line) else None if np.isnan(line) else float(line) for line in values]


def versions() -> dict[str, str]:
    """Of the code and of the libraries that decide digits."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"facscale": __version__, "python": platform.python_version(), **found}


def card_page(of: Card) -> str:
    """For whoever wants to read it."""
    facts = [["", ""], ["job", of.job], ["method", of.spec["method"]["name"]], ["seed", str(of.seed)]]
    facts += [
        ["commit", of.commit],
        ["cluster", of.cluster],
        *([name, version] for name, version in of.versions.items()),
    ]
    data = [["data set", "for", "people", "frames", "fingerprint", "folds"]]
    for one in of.data:
        folds = f"{one['folds']['source']} ({one['folds']['hash']})" if "folds" in one else ""
        counts = one["counts"]
        line = [
            one["name"],
            one["role"],
            f"{counts['identities']:,}",
            f"{counts['frames']:,}",
            one["fingerprint"][:16],
            folds,
        ]
        data.append(line)
    parts = [
        html.section("F1", *(results_table(title, of) for title in of.results)),
        html.section("Data", html.table(data)),
    ]
    parts += [html.section("Made with", html.table(facts))]
    weights = [
        ["training", "SHA-256", "where"],
        *([title, one["sha256"], one["url"]] for title, one in of.weights.items()),
    ]
    parts.append(html.section("Weights", html.table(weights)))
    parts.append(html.section("To the same digits", html.code("facscale verify card.json")))
    parts.append(html.section("Spec", html.code(json.dumps(of.spec, indent=1))))
    return html.page(f"{of.row}, seed {of.seed}", *parts)


def results_table(title: str, of: Card) -> str:
    """F1 x 100 of a table, and of the papers' rows below it."""
    found = of.results[title]
    lines = [["", *(f"AU{au}" for au in found["aus"]), "Avg"]]
    by_fold = np.array(found["f1"], float)
    for name, line in [*zip(found["folds"], by_fold, strict=True), ("mean", mean(by_fold, axis=0))]:
        lines.append([name, *map(percent, 100 * line), percent(100 * mean(line))])
    for printed in of.papers[title]:
        differences = [printed["difference"].get(f"AU{au}") for au in found["aus"]]
        lines.append([printed["name"], *(percent(printed["printed"].get(f"AU{au}")) for au in found["aus"]), ""])
        lines.append(
            [
                "ours minus theirs",
                *(percent(d, sign="+") for d in differences),
                percent(printed["mean_difference"], sign="+"),
            ]
        )
    return html.table(lines, caption=f"F1 x 100 on {title}, threshold {found['threshold']:g}")


def percent(value: Any, *, sign: str = "") -> str:
    """One decimal; a dash for nothing."""
    return "-" if value is None or np.isnan(value) else f"{value:{sign}.1f}"
