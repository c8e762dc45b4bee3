"""New data sets from others: samples, unions, and versions without a person.

Data sets never change, so each of these is written to a folder of its own. Its recipe is that of its source, and ends
with a `history`: the commands that led to it, with the fingerprints of the data sets that they read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from facscale.data.errors import DataError
from facscale.data.folds import subsample
from facscale.data.manifest import Manifest
from facscale.data.shards import Dataset
from facscale.data.tracks import Advance, check_identities, write_tracks

SEPARATOR = ":"  # between the name of a data set and an identity, where `merge_datasets` tells them apart
TERMS = ("licence", "consent")  # keys of a recipe that belong to the source material, not to its processing


def draw_people(source: Dataset, *, count: int, seed: int) -> frozenset[str]:
    """Draw `count` people; a larger sample contains every smaller one. Raises DataError for more than there are."""
    everybody = source.runs.identities
    if not 0 < count <= len(everybody):
        raise DataError(f"{source.url} has {len(everybody)} people, so {count} cannot be drawn; give a smaller number")
    return subsample(everybody, count=count, seed=seed)


def select_people(
    source: Dataset,
    url: str,
    *,
    identities: Collection[str],
    step: Mapping[str, Any],
    advance: Advance = lambda: None,
) -> Manifest:
    """Write all tracks of the given people; `step` is the command for the history. Raises DataError as `write_tracks`."""
    check_identities(source, identities)
    return write_tracks(url, [source], identities=[identities], recipe=extend_history([source], step), advance=advance)


def forget_people(
    source: Dataset, url: str, *, identities: Collection[str], advance: Advance = lambda: None
) -> Manifest:
    """Write a data set without the given people. Its history keeps hashes of their names, not the names.

    Raises DataError for an identity that is not there, if nobody would be left, or as `write_tracks`.
    """
    check_identities(source, identities)
    remaining = set(source.runs.identities) - set(identities)
    if not remaining:
        raise DataError(f"{source.url} has nobody else, so there is nothing to write; delete the folder instead")
    step = {"command": "forget", "people": sorted(hash_identity(identity) for identity in identities)}
    return select_people(source, url, identities=remaining, step=step, advance=advance)


def merge_datasets(
    sources: Sequence[Dataset],
    url: str,
    *,
    name: str = "",
    should_prefix: bool = False,
    is_same_people: bool = False,
    advance: Advance = lambda: None,
) -> Manifest:
    """Write all tracks of several data sets.

    An identity that two of them have is one person with `is_same_people`; with `should_prefix` each identity begins with
    the name of its data set. Raises DataError where neither is given and names are shared, or as `write_tracks`.
    """
    names = [source.manifest.name for source in sources]
    if should_prefix and len(set(names)) < len(names):
        raise DataError(f"the data sets are called {', '.join(names)}: equal names cannot tell their people apart")
    shared = find_shared_identities(sources)
    if shared and not (should_prefix or is_same_people):
        raise DataError(
            f"{len(shared)} identities are in several of the data sets, such as {shared[0]}; if they are the same people, "
            "add --same-people, otherwise --prefix, which puts the name of its data set before each identity"
        )
    return write_tracks(
        url,
        sources,
        identities=[None] * len(sources),
        recipe=extend_history(sources, {"command": "merge"}),
        name=name or "+".join(dict.fromkeys(names)),
        prefixes=[f"{name}{SEPARATOR}" for name in names] if should_prefix else (),
        advance=advance,
    )


def find_shared_identities(sources: Sequence[Dataset]) -> list[str]:
    """List the identities that at least two data sets have."""
    seen: set[str] = set()
    shared: set[str] = set()
    for source in sources:
        shared |= seen & set(source.runs.identities)
        seen |= set(source.runs.identities)
    return sorted(shared)


def find_recipe_differences(sources: Sequence[Dataset]) -> dict[str, list[Any]]:
    """Return the settings of the crops (detector, crop, every, ...) that are not the same in all data sets."""
    recipes = [source.manifest.recipe for source in sources]
    own = {"history", "listing", "layout", "limit", "aus", "render", "sources", *TERMS}
    keys = sorted({key for recipe in recipes for key in recipe} - own)
    values = {key: [recipe.get(key) for recipe in recipes] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def extend_history(sources: Sequence[Dataset], step: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of a data set that is made from `sources` by the command in `step`.

    Of several sources, settings that all share stand in the recipe itself, and each recipe under "sources".
    """
    recipes = [source.manifest.recipe for source in sources]
    origin = [{"name": source.manifest.name, "fingerprint": source.manifest.fingerprint} for source in sources]
    first = recipes[0]
    recipe = {key: value for key, value in first.items() if all(other.get(key) == value for other in recipes)}
    recipe.pop("history", None)
    history = [entry for other in recipes for entry in other.get("history", [])]
    unique = [entry for number, entry in enumerate(history) if entry not in history[:number]]
    if len(sources) > 1:
        recipe["sources"] = [
            {"name": source.manifest.name, **{key: value for key, value in other.items() if key != "history"}}
            for source, other in zip(sources, recipes, strict=True)
        ]
        for term in TERMS:
            if texts := list(dict.fromkeys(str(other[term]) for other in recipes if other.get(term))):
                recipe[term] = "; ".join(texts)
    return {**recipe, "history": [*unique, {**step, "from": origin}]}


def list_ancestors(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fingerprints of all data sets from which the data set with this recipe was made."""
    history = recipe.get("history")
    for entry in history if isinstance(history, list) else []:
        yield from (origin["fingerprint"] for origin in entry.get("from", []))


def list_forgotten(recipe: Mapping[str, Any]) -> frozenset[str]:
    """Return the hashes of the people whom a data set has forgotten."""
    history = recipe.get("history")
    steps = history if isinstance(history, list) else []
    return frozenset(person for step in steps if step.get("command") == "forget" for person in step["people"])


def hash_identity(identity: str) -> str:
    """Hash an identity to 16 hexadecimal digits: whoever knows the name finds it again, nobody else reads it."""
    return hashlib.sha256(f"facscale/{identity}".encode()).hexdigest()[:16]
