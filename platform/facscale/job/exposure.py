"""Which tracked runs and exported models have seen a person, from the runs' own records.

Every run has the fingerprints of its data sets in its tag `data`; an evaluated one also has a reproduction card, with the
history of each data set, the people whom each fold tests, and the checksums of the weights that it started from. So these
are found: runs on the data set itself, on one that it was made from, on one that was made from it, and runs that start
from the weights of such a run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from facscale.data import Dataset
from facscale.data.derivation import hash_identity, list_ancestors, list_forgotten
from facscale.data.folds import TEST_ONLY
from facscale.job.card import Card, CardError
from facscale.track.query import TrackedRun, list_experiments, list_model_versions, read_artifact, search_runs

TAG_DIGITS = 12  # of a fingerprint in the tag `data`
READERS = 8
CARD = "card.json"


@dataclass(frozen=True)
class ExposedRun:
    """A run whose data held a person."""

    experiment: str
    run: TrackedRun
    use: str  # what the run did with the person's data
    is_trained: bool  # False: its tests alone have seen the person
    models: tuple[str, ...] = ()  # versions of registered models, "clp/3"
    weights: tuple[tuple[str, str], ...] = ()  # (URL, SHA-256) of exported weights


def find_exposed_runs(
    uri: str, dataset: Dataset, identities: Collection[str], *, advance: Callable[[], None] = lambda: None
) -> list[ExposedRun]:
    """Return the runs of a tracker that have seen one of the identities of a data set, by experiment, the oldest first.

    `advance` is called after each experiment. Raises QueryError, CardError.
    """
    fingerprints = {dataset.manifest.fingerprint, *list_ancestors(dataset.manifest.recipe)}
    people = {hash_identity(identity): identity for identity in identities}
    versions, exposed, others = list_model_versions(uri), list[ExposedRun](), list[tuple[str, TrackedRun, Card]]()
    for experiment in list_experiments(uri):
        runs = [run for run in search_runs(uri, experiment=experiment) if run.tags.get("source") != "paper"]
        with ThreadPoolExecutor(READERS) as pool:
            cards = list(pool.map(lambda run: _read_card(uri, run), runs))
        for run, card in zip(runs, cards, strict=True):
            use = _describe_use(run, card, fingerprints=fingerprints, people=people)
            if use:
                exposed.append(_make_exposed(experiment, run, card, use, versions))
            elif card:
                others.append((experiment, run, card))
        advance()
    exposed += _follow_weights(exposed, others, versions)
    return sorted(exposed, key=lambda entry: (entry.experiment, entry.run.start, entry.run.id))


def _read_card(uri: str, run: TrackedRun) -> Card | None:
    """Read the card of a run that was evaluated; older schemas count as none."""
    if "f1/mean" not in run.metrics:
        return None
    data = read_artifact(uri, run=run.id, path=CARD)
    try:
        return None if data is None else Card.from_json(data, source=f"{CARD} of the run {run.id}")
    except CardError:
        return None


def _describe_use(
    run: TrackedRun, card: Card | None, *, fingerprints: Collection[str], people: Mapping[str, str]
) -> str:
    """Say in words how a run used data of the people; "" if it did not."""
    if card is not None:
        texts = [
            _describe_entry(entry, card, people=people)
            for entry in card.data
            if _holds_people(entry, fingerprints=fingerprints, people=people)
        ]
        if texts:
            return "; ".join(dict.fromkeys(texts))
    tags = run.tags.get("data", "").split()
    has_tag = any(fingerprint[:TAG_DIGITS] in tags for fingerprint in fingerprints)
    return "has it among its data" if has_tag else ""


def _holds_people(entry: Mapping[str, Any], *, fingerprints: Collection[str], people: Mapping[str, str]) -> bool:
    """Whether a card's data set is one of these, or made from one of them, and has not forgotten all of the people."""
    if entry["fingerprint"] in fingerprints:
        return True
    is_made_from = bool(set(list_ancestors(entry["recipe"])) & set(fingerprints))
    return is_made_from and not people.keys() <= list_forgotten(entry["recipe"])


def _describe_entry(entry: Mapping[str, Any], card: Card, *, people: Mapping[str, str]) -> str:
    name = entry["name"]
    if "folds" not in entry:
        return f"pre-trained on {name}"
    if entry["url"] in [url.rstrip("/") for url in card.spec.get("evaluate", {}).get("transfer", [])]:
        return f"only tested on {name}"
    subjects: dict[str, list[str]] = entry["folds"]["subjects"]
    tested = [fold for fold, members in subjects.items() if set(people.values()) & set(members)]
    learned = [fold for fold, members in subjects.items() if set(people.values()) - set(members)]
    learned = [] if set(subjects) == {TEST_ONLY} else learned  # tested as a whole
    if not learned:
        return f"only tested on {name}"
    return f"trained on {name} in {', '.join(learned)}, tested in {', '.join(tested) or 'none'}"


def _make_exposed(
    experiment: str, run: TrackedRun, card: Card | None, use: str, versions: Mapping[str, Sequence[str]]
) -> ExposedRun:
    weights = tuple((export["url"], export["sha256"]) for export in card.weights.values()) if card else ()
    is_trained = any(not text.startswith("only tested") for text in use.split("; "))
    return ExposedRun(experiment, run, use, is_trained, tuple(versions.get(run.id, ())), weights)


def _follow_weights(
    exposed: Sequence[ExposedRun],
    others: Sequence[tuple[str, TrackedRun, Card]],
    versions: Mapping[str, Sequence[str]],
) -> list[ExposedRun]:
    """Find the runs that started from weights of exposed ones, directly or by way of others."""
    sources = {sha256: entry.run.name for entry in exposed if entry.is_trained for _, sha256 in entry.weights}
    followers, remaining = list[ExposedRun](), list(others)
    while True:
        later = []
        for experiment, run, card in remaining:
            names = {
                sources[sha256] for sha256 in sources for given in _list_inputs(card.spec) if sha256.startswith(given)
            }
            if not names:
                later.append((experiment, run, card))
                continue
            use = f"starts from the weights of {', '.join(sorted(names))}"
            followers.append(_make_exposed(experiment, run, card, use, versions))
        if len(later) == len(remaining):
            return followers
        sources |= {sha256: entry.run.name for entry in followers for _, sha256 in entry.weights}
        remaining = later


def _list_inputs(spec: Any) -> Iterator[str]:
    """Yield every checksum of an input in a spec, or in a part of one."""
    if isinstance(spec, Mapping):
        if isinstance(spec.get("sha256"), str) and spec["sha256"]:
            yield spec["sha256"]
        for value in spec.values():
            yield from _list_inputs(value)
