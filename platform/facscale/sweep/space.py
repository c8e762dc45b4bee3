"""The search space of a sweep: as domains for Ray Tune, and its values as patches over the spec."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from ray import tune

from facscale.job.check import check_batches
from facscale.job.variants import Variant, build_variant, find_fold_stages, require_image_encoder
from facscale.spec import Document, SpecError, merge
from facscale.spec.sweep import Domain, Scalar, Span, Sweep

Values = Mapping[str, Scalar]  # by dotted key, as in {"method.margin": 0.05}


def make_tune_space(sweep: Sweep) -> dict[str, Any]:
    """The domains that Ray Tune draws from, by dotted key."""
    return {key: _make_domain(domain) for key, domain in sweep.active_space.items()}


def _make_domain(domain: Domain) -> Any:
    if isinstance(domain, tuple):
        return tune.choice(list(domain))
    if domain.is_integer:
        draw = tune.lograndint if domain.log else tune.randint
        return draw(int(domain.low), int(domain.high) + 1)
    return (tune.loguniform if domain.log else tune.uniform)(float(domain.low), float(domain.high))


def draw_points(sweep: Sweep) -> list[Values]:
    """The values of all trials: every point of a grid, else `sweep.trials` random draws, which `sweep.seed` decides."""
    space = sweep.active_space
    if sweep.search == "grid":
        return [
            dict(zip(space, point, strict=True)) for point in itertools.product(*map(_list_extremes, space.values()))
        ]
    generator = np.random.default_rng(sweep.seed)
    domains = make_tune_space(sweep)
    return [
        {key: domain.sample(random_state=generator) for key, domain in domains.items()} for _ in range(sweep.trials)
    ]


def count_trials(sweep: Sweep) -> int:
    """The number of trials."""
    if sweep.search != "grid":
        return sweep.trials
    return math.prod(len(values) for values in sweep.active_space.values() if isinstance(values, tuple))


def clip_to_space(values: Values, sweep: Sweep) -> dict[str, Scalar]:
    """Clip values to the ranges of the spec: PBT multiplies by 0.8 and 1.2, wherever that leads. Other keys are left out."""
    clipped = {key: values[key] for key in sweep.active_space}
    for key, span in sweep.active_space.items():
        if isinstance(span, Span):
            value = min(max(float(clipped[key]), span.low), span.high)
            clipped[key] = round(value) if span.is_integer else value
    return clipped


def apply_values(document: Document, values: Values) -> Document:
    """The spec with the values of a trial, and without its sweep."""
    patched = Document({key: block for key, block in document.data.items() if key != "sweep"}, document.locations)
    for key, value in values.items():
        path = tuple(key.split("."))
        nested: Any = value
        for part in reversed(path):
            nested = {part: nested}
        location = document.source_location(("sweep", "space", key))
        patched = merge(patched, Document(nested, {path[:end]: location for end in range(len(path) + 1)}))
    return patched


def check_space(document: Document, sweep: Sweep, *, name: str) -> list[Variant]:
    """The variants of a sweep with each value of a list and both ends of each range, one key at a time.

    Raises SpecError, with the line in the space, for a key or a value that the spec does not allow.
    """
    first_values = {key: _list_extremes(domain)[0] for key, domain in sweep.active_space.items()}
    variants = []
    for key, domain in sweep.active_space.items():
        for value in _list_extremes(domain):
            variant = build_variant(apply_values(document, first_values | {key: value}), name=name)
            require_image_encoder(variant)
            find_fold_stages(variant)
            with _locate(document, key, value):
                check_batches(variant)
            variants.append(variant)
    return variants


@contextmanager
def _locate(document: Document, key: str, value: Scalar) -> Iterator[None]:
    """Put the place and the value of a key of the space before an error of the block."""
    try:
        yield
    except SpecError as error:
        where = document.source_location(("sweep", "space", key))
        raise SpecError(f"{where}: {key}={value} cannot run: {error}") from None


def _list_extremes(domain: Domain) -> tuple[Scalar, ...]:
    return domain if isinstance(domain, tuple) else (domain.low, domain.high)


def check_objective(variant: Variant, sweep: Sweep, *, labelled: bool) -> None:
    """Raise SpecError for an objective that the training never reports."""
    where = variant.document.source_location(("sweep", "objective"))
    kind, _, name = sweep.objective.partition("/")
    train, data = variant.job.train, variant.job.data
    if kind == "online" and not train.probe_every:
        raise SpecError(f"{where}: {sweep.objective} is reported every train.probe_every steps, which is 0; set it")
    if kind == "online" and name.split("/")[0] in {"probe", "knn"} and not labelled:
        raise SpecError(
            f"{where}: {sweep.objective} needs labels: give data.labelled, or search by online/effective_rank"
        )
    if kind == "validation" and not (data.validation and train.validate_every):
        raise SpecError(
            f"{where}: {sweep.objective} needs data.validation (a share of the people) and train.validate_every"
        )
    if kind not in {"online", "validation"}:
        raise SpecError(
            f'{where}: "{sweep.objective}" is not a validation metric; choose online/probe/f1, online/effective_rank, '
            "online/alignment_uniformity, validation/total or validation/f1"
        )
