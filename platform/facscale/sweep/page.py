"""A sweep on one page: the trials, what mattered, and their histories. Opens without a network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from facscale.report.pages import render_page
from facscale.report.table import Column, ReportTable
from facscale.spec.sweep import Domain, Scalar, Span, Sweep
from facscale.sweep.outcome import (
    TrialOutcome,
    format_objective,
    format_value,
    name_objective,
    scale_objective,
    shorten_key,
)

MIN_TRIALS = 4  # with fewer, importance is chance
MAX_TICKS = 7  # of an axis
MAX_LEVEL_AXES = 6  # the names of more would overlap, and stand aslant
SCALE = [[0.0, "#c2410c"], [0.5, "#7c6bb0"], [1.0, "#14397d"]]  # from the worst to the best; all are visible on white


def make_study(outcomes: Sequence[TrialOutcome], sweep: Sweep, *, percent: int | None = None) -> optuna.Study:
    """The trials as Optuna's, with the objective that each had at `percent` of its training (at its end)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it prints a line for each study
    study = optuna.create_study(direction="maximize" if sweep.goal == "max" else "minimize")
    ranges = {shorten_key(key): _distribution(values) for key, values in sweep.active_space.items()}
    for outcome in outcomes:
        value = outcome.objective if percent is None else outcome.objective_at(percent)
        if math.isfinite(value):
            params = {shorten_key(key): outcome.values[key] for key in sweep.active_space}
            study.add_trial(create_trial(params=params, distributions=ranges, value=value, state=TrialState.COMPLETE))
    return study


def find_common_percent(outcomes: Sequence[TrialOutcome]) -> int:
    """Per cent of a training that all trials have done, except those that collapsed or failed: there objectives are comparable."""
    return min(
        (outcome.percent for outcome in outcomes if outcome.history and math.isfinite(outcome.objective)), default=0
    )


def compute_importance(outcomes: Sequence[TrialOutcome], sweep: Sweep) -> dict[str, float]:
    """Share of the objective's variance that each key explains (fANOVA, Hutter et al., 2014).

    Objectives are taken after the same share of the training. Empty for fewer than four of them, or where all objectives are equal.
    """
    study = make_study(outcomes, sweep, percent=find_common_percent(outcomes))
    if len(study.trials) < MIN_TRIALS or len({trial.value for trial in study.trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=sweep.seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def build_page(
    outcomes: Sequence[TrialOutcome],
    sweep: Sweep,
    *,
    title: str,
    best: TrialOutcome,
    spec: str,
    written: Mapping[str, Any],
    comparisons: Sequence[ReportTable] = (),
) -> str:
    """One HTML file: parallel coordinates, importance, courses, the table, and the best spec.

    `written`: the values of the spec as written, by dotted key. `comparisons`: the best trial beside the spec as written, a
    table with a verdict for each data set; none before the job has evaluated both.
    """
    figures = [
        plot_coordinates(outcomes, sweep),
        plot_importance(compute_importance(outcomes, sweep), percent=find_common_percent(outcomes)),
        plot_histories(outcomes, sweep, best=best),
    ]
    plots = [figure.to_html(full_html=False, include_plotlyjs=number == 0) for number, figure in enumerate(figures)]
    return render_page(
        "sweep.html",
        title=title,
        count=len(outcomes),
        best=best.title,
        objective=name_objective(sweep),
        value=format_objective(best, sweep),
        comparisons=comparisons,
        plots=plots,
        trials=build_trials_table(outcomes, sweep, best=best, written=written),
        spec=spec,
    )


def build_trials_table(
    outcomes: Sequence[TrialOutcome], sweep: Sweep, *, best: TrialOutcome, written: Mapping[str, Any]
) -> ReportTable:
    """The spec as written, then one row per trial: its values, objective, how far it was trained, and its state or error.

    The spec as written has the objective of the trial with the same values, if there is one.
    """
    keys = list(sweep.active_space)
    headings = ["", *map(shorten_key, keys), name_objective(sweep), "of the training", "state"]
    same = next((trial for trial in outcomes if all(trial.values.get(key) == written.get(key) for key in keys)), None)
    rest = [format_objective(same, sweep), f"{same.percent} %", same.state] if same else ["", "", "no trial"]
    rows = [["as written", *(format_value(written.get(key, "")) for key in keys), *rest]]
    for number, outcome in enumerate(outcomes, start=1):
        name = f"trial {number}{', best' if outcome is best else ''}"
        values = [format_value(outcome.values[key]) for key in keys]
        state = outcome.error or outcome.state
        rows.append([name, *values, format_objective(outcome, sweep), f"{outcome.percent} %", state])
    return ReportTable([Column(heading) for heading in headings], rows)


def plot_coordinates(outcomes: Sequence[TrialOutcome], sweep: Sweep) -> go.Figure:
    """Each trial as a line through its values to its objective; trials without a finite objective are left out."""
    trials = [outcome for outcome in outcomes if math.isfinite(outcome.objective)]
    if not trials:
        return go.Figure(layout={"title": "no trial has reported its objective"})
    axes = [
        build_axis(
            shorten_key(key), [trial.values[key] for trial in trials], is_log=isinstance(span, Span) and span.log
        )
        for key, span in sweep.active_space.items()
    ]
    objectives = [scale_objective(trial.objective, sweep) for trial in trials]
    lines = {"color": objectives, "colorscale": SCALE, "reversescale": sweep.goal == "min", "showscale": True}
    dimensions = [*axes, build_axis(name_objective(sweep), objectives)]
    is_dense = len(dimensions) > MAX_LEVEL_AXES
    angle = -25 if is_dense else 0
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=lines, labelangle=angle))
    title = "Values and objective (drag along an axis to choose trials; the best are dark blue)"
    return figure.update_layout(title=title, height=420, margin={"t": 160 if is_dense else 100})


def build_axis(name: str, values: Sequence[Scalar], *, is_log: bool = False) -> dict[str, Any]:
    """An axis of parallel coordinates: a place for each of few values or words, else a range, each tick with a text of its own."""
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(distinct) <= MAX_TICKS or not all(isinstance(value, int | float) for value in distinct):
        places = {value: float(number) for number, value in enumerate(distinct)}
    else:
        places = {value: math.log10(value) if is_log else float(value) for value in distinct}  # type: ignore[arg-type]
    low, high = min(places.values()), max(places.values())
    if len(distinct) <= MAX_TICKS or isinstance(distinct[-1], str):
        ticks = {place: format_value(value) for value, place in places.items()}
    else:
        marks = [low + (high - low) * step / (MAX_TICKS - 1) for step in range(MAX_TICKS)]
        numbers = [10**mark if is_log else mark for mark in marks]
        if all(isinstance(value, int) for value in distinct):
            numbers = [round(number) for number in numbers]
        ticks = {math.log10(number) if is_log else number: format_value(number) for number in numbers}
    texts = {text: place for place, text in reversed(ticks.items())}  # a text that would stand twice stands once
    if low == high:
        low, high = low - 0.5, high + 0.5  # an axis of a single value
    return {
        "label": name,
        "values": [places[value] for value in values],
        "range": [low, high],
        "tickvals": list(texts.values()),
        "ticktext": list(texts),
    }


def plot_importance(shares: dict[str, float], *, percent: int) -> go.Figure:
    """The importance of each key, as bars."""
    if not shares:
        about = "Importance: unknown, because too few trials have reported an objective, or all objectives are equal"
        axis = {"visible": False}
        return go.Figure(layout={"title": about, "height": 90, "xaxis": axis, "yaxis": axis, "plot_bgcolor": "white"})
    bars = go.Bar(x=list(shares.values())[::-1], y=list(shares)[::-1], orientation="h")
    layout = {
        "title": f"Importance: share of the objective's variance, at {percent} % of the training",
        "height": 120 + 40 * len(shares),
        "margin": {"t": 60, "b": 40},  # the rest is the bars': 40 pixels each, so that none is without its name
        "xaxis": {"range": [0, 1]},
        "yaxis": {"automargin": True, "dtick": 1},
    }
    return go.Figure(bars, layout=layout)


def plot_histories(outcomes: Sequence[TrialOutcome], sweep: Sweep, *, best: TrialOutcome) -> go.Figure:
    """The objective of each trial over its training."""
    figure = go.Figure(
        layout={
            "title": "Histories",
            "xaxis": {"title": "% of the training"},
            "yaxis": {"title": name_objective(sweep)},
        }
    )
    for outcome in outcomes:
        points = [
            (percent, scale_objective(value, sweep)) for percent, value in outcome.history if math.isfinite(value)
        ]
        line = {"width": 4 if outcome is best else 1}
        name = f"{outcome.title} ({outcome.state})"
        figure.add_scatter(
            x=[x for x, _ in points], y=[y for _, y in points], name=name, line=line, mode="lines+markers"
        )
    return figure


def _distribution(values: Domain) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if values.is_integer:
            return IntDistribution(int(values.low), int(values.high), log=values.log)
        return FloatDistribution(float(values.low), float(values.high), log=values.log)
