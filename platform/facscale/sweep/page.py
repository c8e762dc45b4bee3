"""A sweep on one page: the trials, what mattered, and their histories. Opens without a network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from facscale.report.pages import render_page
from facscale.report.table import Column, ReportTable
from facscale.spec.sweep import Domain, Sweep
from facscale.sweep.outcome import TrialOutcome, format_value, shorten_key

MIN_TRIALS = 4  # with fewer, importance is chance


def make_study(outcomes: Sequence[TrialOutcome], sweep: Sweep, *, percent: int | None = None) -> optuna.Study:
    """The trials as Optuna's, with the objective that each had at `percent` of its training (at its end)."""
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


def build_page(outcomes: Sequence[TrialOutcome], sweep: Sweep, *, title: str, best: TrialOutcome, spec: str) -> str:
    """One HTML file: parallel coordinates, importance, courses, the table, and the best spec."""
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
        objective=sweep.objective,
        value=f"{best.objective:.4g}",
        plots=plots,
        trials=build_trials_table(outcomes, sweep),
        spec=spec,
    )


def build_trials_table(outcomes: Sequence[TrialOutcome], sweep: Sweep) -> ReportTable:
    """One row per trial: its values, its objective, how far it was trained, and its state or error."""
    headings = [*map(shorten_key, sweep.active_space), "objective", "of the training", "state"]
    rows = []
    for outcome in outcomes:
        objective = f"{outcome.objective:.4g}" if outcome.history else ""
        values = [format_value(outcome.values[key]) for key in sweep.active_space]
        rows.append([*values, objective, f"{outcome.percent} %", outcome.error or outcome.state])
    return ReportTable([Column(heading) for heading in headings], rows)


def plot_coordinates(outcomes: Sequence[TrialOutcome], sweep: Sweep) -> go.Figure:
    """Each trial as a line through its values to its objective; trials that collapsed have none, and are left out."""
    study = make_study(outcomes, sweep)
    if not study.trials:
        return go.Figure(layout={"title": "no trial has reported its objective"})
    figure = optuna.visualization.plot_parallel_coordinate(study, target_name=sweep.objective)
    return figure.update_layout(title="Values and objective (drag along an axis to choose trials)", height=420)


def plot_importance(shares: dict[str, float], *, percent: int) -> go.Figure:
    """The importance of each key, as bars."""
    bars = go.Bar(x=list(shares.values())[::-1], y=list(shares)[::-1], orientation="h")
    about = (
        f"Importance: share of the objective's variance, at {percent} % of the training"
        if shares
        else "Importance: too few trials"
    )
    return go.Figure(bars, layout={"title": about, "height": 120 + 40 * len(shares), "xaxis": {"range": [0, 1]}})


def plot_histories(outcomes: Sequence[TrialOutcome], sweep: Sweep, *, best: TrialOutcome) -> go.Figure:
    """The objective of each trial over its training."""
    figure = go.Figure(
        layout={"title": "Histories", "xaxis": {"title": "% of the training"}, "yaxis": {"title": sweep.objective}}
    )
    for outcome in outcomes:
        points = [(percent, value) for percent, value in outcome.history if math.isfinite(value)]
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
