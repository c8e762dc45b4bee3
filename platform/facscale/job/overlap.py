"""People whom a job tests and who are in its unlabelled data too, as far as manifests tell.

A name alone tells nothing: two data sets may both call somebody "0001". Names are compared where both data sets have them
from one place:

- one data set: both are it (equal fingerprints), versions of it, or made from it (the history of their recipes);
- one public data set, such as BP4D: both were read with its layout, and neither was rendered;
- one rendering: the same layout, seed and first identity;
- one list of source files: the same layout, and equal listings.

A merged data set has the places of all its sources. Where its identities begin with the name of a source ("BP4D:F001"), what
follows is a name there. The same person under two names, or in data of two places, is not found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from facscale.data import Dataset
from facscale.data.derivation import SEPARATOR
from facscale.data.manifest import Manifest
from facscale.evaluate.protocol import LabelledDataset
from facscale.job.datasets import JobData
from facscale.spec import SpecError

LAYOUT = "layout "  # begins the place of names that a public data set's layout gives
MEANING = "pre-training sees the faces of these people, who are tested, but not their labels"
ADVICE = "a stricter comparison leaves them out: source.exclude of the pipeline, or facscale data forget"


class Origin(NamedTuple):
    """A place where names of people come from, and what the data set is called there."""

    place: str
    name: str


class Person(NamedTuple):
    """A name, and a place in which it means one person."""

    place: str
    identity: str


def describe_overlap(data: JobData) -> str:
    """One line: how many people of each tested set are in the unlabelled data too, and what that means; "" for nobody.

    Stand-ins of absent data sets are left out: nothing is known of their people. Raises DataError for an index that is
    damaged.
    """
    unlabelled = [(dataset, frozenset(list_origins(dataset.manifest))) for dataset in data.unlabelled]
    parts = []
    for dataset in (*data.labelled, *data.transfer):
        tested = {person for fold in dataset.split for person in fold.test}
        if dataset.url not in data.outlines and (shared := find_shared_people(dataset, tested, unlabelled)):
            parts.append(f"{len(shared)} of the {len(tested)} people of {dataset.name}")
    return f"the unlabelled data hold {' and '.join(parts)}: {MEANING}; {ADVICE}" if parts else ""


def find_shared_people(
    dataset: LabelledDataset, people: Collection[str], others: Collection[tuple[Dataset, Collection[Origin]]]
) -> frozenset[str]:
    """Of the given people of a data set, those who are in one of the other data sets, which come with their origins."""
    origins = frozenset(list_origins(Dataset(dataset.url).manifest))
    shared: set[str] = set()
    for other, other_origins in others:
        common = {origin.place for origin in origins} & {origin.place for origin in other_origins}
        places = {place for place in common if not place.startswith(LAYOUT) or is_public(place.removeprefix(LAYOUT))}
        if not places:  # then its index, of a million runs perhaps, is not read
            continue
        seen = {
            person
            for identity in other.runs.identities
            for person in list_meanings(identity, other_origins)
            if person.place in places
        }
        shared |= {identity for identity in people if not seen.isdisjoint(list_meanings(identity, origins))}
    return frozenset(shared)


def is_public(layout: str) -> bool:
    """Whether a layout is that of one public data set; others, and those that are not installed here, are of any files."""
    from facscale.ingest import layouts  # loads the face detectors, which few jobs need here

    try:
        return bool(layouts.find(layout).published)
    except SpecError:
        return False


def list_meanings(identity: str, origins: Collection[Origin]) -> Iterator[Person]:
    """Yield whom an identity of a data set with these origins names."""
    for place, name in origins:
        yield Person(place, identity)
        if identity.startswith(f"{name}{SEPARATOR}"):
            yield Person(place, identity.removeprefix(f"{name}{SEPARATOR}"))


def list_origins(manifest: Manifest) -> Iterator[Origin]:
    """Yield all places from which a data set has the names of its people, itself first."""
    yield Origin(f"data set {manifest.fingerprint}", manifest.name)
    if manifest.previous:
        yield Origin(f"data set {manifest.previous}", manifest.name)
    for step in _list_mappings(manifest.recipe.get("history")):
        for source in _list_mappings(step.get("from")):
            yield Origin(f"data set {source.get('fingerprint')}", str(source.get("name")))
    yield from _list_source_origins(manifest.recipe, name=manifest.name)


def _list_source_origins(recipe: Mapping[str, Any], *, name: str) -> Iterator[Origin]:
    """Yield the origins of what a pipeline has read, from its recipe; of a merged data set, those of its sources."""
    if sources := list(_list_mappings(recipe.get("sources"))):  # beside them stands only what all of them share
        for source in sources:
            yield from _list_source_origins(source, name=str(source.get("name", name)))
        return
    layout, render, listing = (recipe.get(key) for key in ("layout", "render", "listing"))
    if not isinstance(layout, str):
        return
    if isinstance(render, Mapping):
        yield Origin(f"rendering {layout} {render.get('seed')} {render.get('first_identity')}", name)
    else:
        yield Origin(f"{LAYOUT}{layout}", name)
    if listing:
        yield Origin(f"files {layout} {listing}", name)


def _list_mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the mappings in a list of a recipe, which may be anything."""
    yield from (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, list) else ()
