"""The searched keys of a spec: as domains for Ray Tune, and as patches over the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import tune

from facscale.job.variants import Variant, of_fold, refuse_a_blind, stages, variant
from facscale.spec import Document, SpecError, merge
from facscale.spec.sweep import Domain, Scalar, Span, Sweep

Values = Mapping[str, Scalar]  # by dotted key, as in {"method.margin": 0.05}


def domains(sweep: Sweep) -> dict[str, Any]:
    """What Ray Tune draws from, by dotted key."""
    return {key: _domain(values, grid=sweep.search == "grid") for key, values in sweep.searched.items()}


def _domain(values: Domain, *, grid: bool) -> Any:
    if isinstance(values, tuple):
        return tune.grid_search(list(values)) if grid else tune.choice(list(values))
    if values.whole:
        draw = tune.lograndint if values.log else tune.randint
        return draw(int(values.low), int(values.high) + 1)
    return (tune.loguniform if values.log else tune.uniform)(float(values.low), float(values.high))


def within(values: Values, sweep: Sweep) -> dict[str, Scalar]:
    """PBT multiplies by 0.8 and 1.2, wherever that leads: back into the ranges of the spec."""
    found = dict(values)
    for key, span in sweep.searched.items():
        if isinstance(span, Span):
            kept = min(max(float(found[key]), span.low), span.high)
            found[key] = round(kept) if span.whole else kept
    return found


def chosen(document: Document, values: Values) -> Document:
    """The spec with these values, and without its sweep."""
    plain = Document({key: part for key, part in document.data.items() if key != "sweep"}, document.origins)
    for key, value in values.items():
        path = tuple(key.split("."))
        nested: Any = value
        for part in reversed(path):
            nested = {part: nested}
        origin = document.origin(("sweep", "space", key))
        plain = merge(plain, Document(nested, {path[:end]: origin for end in range(len(path) + 1)}))
    return plain


def refuse_impossible(document: Document, sweep: Sweep, *, name: str) -> None:
    """Raises SpecError, with the line in the space, for a key or a value at its ends that the spec cannot take."""
    usual = {key: _ends(values)[0] for key, values in sweep.searched.items()}
    for key, values in sweep.searched.items():
        for value in _ends(values):
            row = variant(chosen(document, usual | {key: value}), name=name)
            refuse_a_blind(row)
            of_fold(row)
            stages(row)


def _ends(values: Domain) -> tuple[Scalar, ...]:
    return values if isinstance(values, tuple) else (values.low, values.high)


def refuse_unheard(row: Variant, sweep: Sweep, *, labelled: bool) -> None:
    """Raises SpecError for an objective that the training never tells."""
    where = row.document.origin(("sweep", "objective"))
    kind, _, name = sweep.objective.partition("/")
    train, data = row.job.train, row.job.data
    if kind == "online" and not train.probe_every:
        raise SpecError(f"{where}: {sweep.objective} is told every train.probe_every steps, which is 0; set it")
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
            f'{where}: "{sweep.objective}" is no figure of people whom a trial is not trained on; take online/probe/f1, '
            "online/effective_rank, online/alignment_uniformity, validation/total or validation/f1"
        )
