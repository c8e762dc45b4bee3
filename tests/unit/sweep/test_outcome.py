"""What came of trials: which is best, what mattered, and the page that says it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from pandas import DataFrame

from facscale.spec.sweep import Span, Sweep
from facscale.sweep.outcome import TrialOutcome
from facscale.sweep.page import build_page, compute_importance, find_common_percent
from facscale.sweep.run import write_csv
from facscale.sweep.search import SweepError, choose_best
from facscale.sweep.watch import build_trial_table

SPACE = {"method.margin": Span(low=0.0, high=1.0), "method.queue_size": (64, 128)}


def trial(number, *, margin=0.5, size=64, course=((20, 0.1), (100, 0.3)), **about):
    return TrialOutcome(f"t{number}", {"method.margin": margin, "method.queue_size": size}, course, **about)


def test_the_best_is_the_best_of_those_that_reached_their_end():
    sweep = Sweep(space=SPACE)
    whole, better = trial(0), trial(1, course=((20, 0.2), (100, 0.4)))
    stopped = trial(2, course=((20, 0.9),))
    collapsed = trial(3, course=((20, 0.1), (100, 0.95)), stop_reason="collapsed")
    failed = trial(4, course=((100, 0.99),), error="no memory")
    assert choose_best([whole, better, stopped, collapsed, failed], sweep) is better
    assert choose_best([whole, better, stopped], Sweep(space=SPACE, goal="min")) is whole
    with pytest.raises(SweepError, match="stopped at 20 %") as error:
        choose_best([stopped, collapsed, failed], sweep)
    assert "collapsed" in str(error.value)


def test_a_trial_that_never_reported_has_no_course():
    result = SimpleNamespace(metrics={"trial_id": "t0"}, metrics_dataframe=DataFrame(), config={"a": 1}, error=None)
    assert TrialOutcome.from_result(result) == TrialOutcome("t0", {"a": 1})
    result.metrics_dataframe = DataFrame({"percent": [50, 100], "objective": [0.1, 0.2]})
    assert TrialOutcome.from_result(result).history == ((50, 0.1), (100, 0.2))


def test_states_in_words():
    assert trial(0).state == "done"
    assert trial(0, course=((26, 0.1),)).state == "stopped at 26 %"
    assert trial(0, stop_reason="diverged").state == "diverged"
    assert trial(0, error="x").state == "failed"
    assert math.isnan(trial(0, course=()).objective)
    assert trial(0, margin=0.123456).title == "margin=0.1235 queue_size=64"


def test_trials_compare_where_all_have_had_the_same_training():
    long, short = trial(0, course=((20, 0.1), (50, 0.4), (100, 0.3))), trial(1, course=((20, 0.2), (60, 0.6)))
    gone = trial(2, course=((10, -math.inf),), stop_reason="collapsed")
    assert find_common_percent([long, short, gone, trial(3, course=())]) == 60
    assert (long.objective_at(60), short.objective_at(60)) == (0.4, 0.6)
    assert math.isnan(long.objective_at(10))


def test_what_decides_the_objective_is_what_matters():
    alike = [trial(n, margin=n / 20, size=(64, 128)[n % 2], course=((100, n / 20),)) for n in range(20)]
    shares = compute_importance(alike, Sweep(space=SPACE))
    assert shares["margin"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    by_size = [trial(n, margin=n / 20, size=(64, 128)[n % 2], course=((100, n % 2),)) for n in range(20)]
    assert compute_importance(by_size, Sweep(space=SPACE))["queue_size"] > 0.8
    assert compute_importance(alike[:3], Sweep(space=SPACE)) == {}
    assert compute_importance([trial(n, course=((100, 0.3),)) for n in range(9)], Sweep(space=SPACE)) == {}


def test_the_page_holds_every_trial_and_needs_no_network():
    trials = [trial(n, margin=n / 8, course=((20, 0.1), (100, n / 10))) for n in range(6)]
    trials += [trial(6, course=((20, -math.inf),), stop_reason="collapsed"), trial(7, course=(), error="<no memory>")]
    text = build_page(
        trials, Sweep(space=SPACE), title="clp & co: 8 trials", best=trials[5], spec="method: {name: clp}"
    )
    assert "clp &amp; co" in text
    assert "&lt;no memory&gt;" in text
    assert "<no memory>" not in text
    assert text.count("<tr>") == 9, "a heading and eight trials"
    assert 'src="http' not in text
    assert "parcoords" in text
    assert "method: {name: clp}" in text


def test_the_table_shows_the_best_first_and_failures_last():
    trials = [trial(0), trial(1, course=((100, 0.7),)), trial(2, course=(), error="no memory")]
    shown = build_trial_table(trials, Sweep(space=SPACE), best="t1")
    assert list(shown.columns[3].cells) == ["0.7", "0.3", ""]
    assert list(shown.columns[0].cells) == ["best", "", ""]
    running = build_trial_table(trials, Sweep(space=SPACE, goal="min"), finished={"t0"})
    assert list(running.columns[3].cells) == ["0.3", "0.7", ""]
    assert list(running.columns[5].cells)[1] == "running"


def test_csv_has_a_line_a_trial():
    lines = write_csv([trial(0), trial(1, course=(), error="no, memory")], Sweep(space=SPACE)).splitlines()
    assert lines[0] == "trial,method.margin,method.queue_size,objective,percent,state,error"
    assert lines[1:] == ["t0,0.5,64,0.3,100,done,", 't1,0.5,64,,0,failed,"no, memory"']
