"""A sweep on one page: what was tried, what mattered, how the trials went. Opens without a network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from facscale.report import html
from facscale.spec.sweep import Domain, Sweep
from facscale.sweep.outcome import Outcome, short, shown

FEWEST = 4  # trials from which on importance is more than chance


def study(outcomes: Sequence[Outcome], sweep: Sweep, *, percent: int | None = None) -> optuna.Study:
    """The trials as Optuna's, with the objective that each had at `percent` of its training (at its end)."""
    made = optuna.create_study(direction="maximize" if sweep.goal == "max" else "minimize")
    ranges = {short(key): _distribution(values) for key, values in sweep.searched.items()}
    for one in outcomes:
        value = one.objective if percent is None else one.at(percent)
        if math.isfinite(value):
            params = {short(key): one.values[key] for key in sweep.searched}
            made.add_trial(create_trial(params=params, distributions=ranges, value=value, state=TrialState.COMPLETE))
    return made


def comparable(outcomes: Sequence[Outcome]) -> int:
    """Per cent of a training that all trials have done which did not collapse or fail: there their objectives compare."""
    return min((one.percent for one in outcomes if one.course and math.isfinite(one.objective)), default=0)


def importance(outcomes: Sequence[Outcome], sweep: Sweep) -> dict[str, float]:
    """Share of the objective's variance that each key explains (fANOVA, Hutter et al., 2014).

    With the same training behind all trials. Empty for fewer than four of them, or where all went alike.
    """
    made = study(outcomes, sweep, percent=comparable(outcomes))
    if len(made.trials) < FEWEST or len({trial.value for trial in made.trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=sweep.seed)
    return optuna.importance.get_param_importances(made, evaluator=evaluator)


def page(outcomes: Sequence[Outcome], sweep: Sweep, *, title: str, best: Outcome, spec: str) -> str:
    """One HTML file: parallel coordinates, importance, courses, the table, and the best spec."""
    figures = [
        parallel(outcomes, sweep),
        weights(importance(outcomes, sweep), percent=comparable(outcomes)),
        courses(outcomes, sweep, best=best),
    ]
    parts = [one.to_html(full_html=False, include_plotlyjs=number == 0) for number, one in enumerate(figures)]
    return html.page(
        title,
        html.text(f"The best of {len(outcomes)} trials: {best.title}, {sweep.objective} {best.objective:.4g}."),
        *parts,
        html.section("Trials", trials(outcomes, sweep)),
        html.section("The best spec", html.code(spec)),
    )


def trials(outcomes: Sequence[Outcome], sweep: Sweep) -> str:
    """As an HTML table."""
    lines = [[*map(short, sweep.searched), "objective", "of the training", "state"]]
    for one in outcomes:
        objective = f"{one.objective:.4g}" if one.course else ""
        lines.append(
            [*(shown(one.values[key]) for key in sweep.searched), objective, f"{one.percent} %", one.error or one.state]
        )
    return html.table(lines)


def parallel(outcomes: Sequence[Outcome], sweep: Sweep) -> go.Figure:
    """Each trial as a line through its values to its objective; trials that collapsed have none, and are left out."""
    made = study(outcomes, sweep)
    if not made.trials:
        return go.Figure(layout={"title": "no trial has told its objective"})
    figure = optuna.visualization.plot_parallel_coordinate(made, target_name=sweep.objective)
    return figure.update_layout(title="Values and objective (drag along an axis to choose trials)", height=420)


def weights(shares: dict[str, float], *, percent: int) -> go.Figure:
    """What mattered, as bars."""
    bars = go.Bar(x=list(shares.values())[::-1], y=list(shares)[::-1], orientation="h")
    about = (
        f"Importance: share of the objective's variance, at {percent} % of the training"
        if shares
        else "Importance: too few trials"
    )
    return go.Figure(bars, layout={"title": about, "height": 120 + 40 * len(shares), "xaxis": {"range": [0, 1]}})


def courses(outcomes: Sequence[Outcome], sweep: Sweep, *, best: Outcome) -> go.Figure:
    """The objective of each trial as its training goes."""
    figure = go.Figure(
        layout={"title": "Courses", "xaxis": {"title": "% of the training"}, "yaxis": {"title": sweep.objective}}
    )
    for one in outcomes:
        points = [(percent, value) for percent, value in one.course if math.isfinite(value)]
        line = {"width": 4 if one is best else 1}
        name = f"{one.title} ({one.state})"
        figure.add_scatter(
            x=[x for x, _ in points], y=[y for _, y in points], name=name, line=line, mode="lines+markers"
        )
    return figure


def _distribution(values: Domain) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if values.whole:
            return IntDistribution(int(values.low), int(values.high), log=values.log)
        return FloatDistribution(float(values.low), float(values.high), log=values.log)
