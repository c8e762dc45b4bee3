"""What came of trials: which is best, what mattered, and the page that says it."""

from __future__ import annotations

import math

import pytest

from facscale.report.table import Column, ReportTable
from facscale.spec.sweep import Span, Sweep
from facscale.sweep.outcome import TrialOutcome
from facscale.sweep.page import (
    build_axis,
    build_page,
    build_trials_table,
    compute_importance,
    find_common_percent,
    plot_coordinates,
    plot_importance,
)
from facscale.sweep.run import write_csv
from facscale.sweep.search import SweepError, choose_best
from facscale.sweep.watch import build_trial_table

SPACE = {"method.margin": Span(low=0.0, high=1.0), "method.queue_size": (64, 128)}


WRITTEN = {"method.margin": 0.25, "method.queue_size": 128}


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
        trials,
        Sweep(space=SPACE),
        title="clp & co: 8 trials",
        best=trials[5],
        spec="method: {name: clp}",
        written=WRITTEN,
    )
    assert "clp &amp; co" in text
    assert "&lt;no memory&gt;" in text
    assert "<no memory>" not in text
    assert text.count("<tr>") == 10, "a heading, the spec as written and eight trials"
    assert "There is none yet" in text
    assert 'src="http' not in text
    assert "parcoords" in text
    assert "method: {name: clp}" in text


def test_the_table_shows_the_best_first_and_failures_last():
    trials = [trial(0), trial(1, course=((100, 0.7),)), trial(2, course=(), error="no memory")]
    shown = build_trial_table(trials, Sweep(space=SPACE), best="t1")
    assert list(shown.columns[3].cells) == ["70.0", "30.0", ""]
    assert list(shown.columns[0].cells) == ["best", "", ""]
    running = build_trial_table(trials, Sweep(space=SPACE, goal="min"), finished={"t0"})
    assert list(running.columns[3].cells) == ["30.0", "70.0", ""]
    assert list(running.columns[5].cells)[1] == "running"


def test_every_trial_is_visible_and_every_tick_has_a_text_of_its_own():
    margins = [0.3 + n / 100_000 for n in range(9)]  # nearly alike: with four digits, neighbouring ticks are equal
    trials = [trial(n, margin=margin, course=((100, n / 10),)) for n, margin in enumerate(margins)]
    (lines,) = plot_coordinates(trials, Sweep(space=SPACE)).data
    assert list(lines.line.color) == pytest.approx([10 * n for n in range(9)])
    for colour in (colour for _, colour in lines.line.colorscale):
        shares = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [share / 12.92 if share < 0.04 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert 1.05 / (luminance + 0.05) > 3, "contrast with white, as WCAG asks for graphics"
    margin, size, objective = lines.dimensions
    assert len(set(margin.ticktext)) == len(margin.ticktext) > 0
    assert list(size.ticktext) == ["64"]
    assert size.range[0] < size["values"][0] < size.range[1]
    assert objective.label == "online/probe/f1 x 100"
    assert (objective.range[0], objective.range[1]) == pytest.approx((0, 80))


@pytest.mark.parametrize("values", [["sgd", "adam"], [True, False, True], [1e-5, 1e-3, 1e-4] * 4, [2.0] * 3, range(40)])
def test_an_axis_holds_values_of_each_kind(values):
    axis = build_axis("x", list(values), is_log=isinstance(values, list) and len(values) == 12)
    low, high = axis["range"]
    assert all(low <= value <= high for value in axis["values"])
    assert len(set(axis["ticktext"])) == len(axis["ticktext"]) == len(axis["tickvals"])
    assert len(set(axis["values"])) == len(set(values))
    assert all(low <= tick <= high for tick in axis["tickvals"])
    if values == range(40):
        assert axis["ticktext"] == [str(round(13 * n / 2)) for n in range(6, -1, -1)], "epochs are whole numbers"


def test_the_spec_as_written_is_the_first_row_and_has_the_objective_of_its_twin():
    sweep, trials = Sweep(space=SPACE), [trial(0), trial(1, margin=0.25, size=128)]
    table = build_trials_table(trials, sweep, best=trials[0], written=WRITTEN)
    assert table.rows[0] == ["as written", "0.25", "128", "30.0", "100 %", "done"]
    assert [row[0] for row in table.rows[1:]] == ["trial 1, best", "trial 2"]
    (first, *_) = build_trials_table(trials[:1], sweep, best=trials[0], written=WRITTEN).rows
    assert first == ["as written", "0.25", "128", "", "", "no trial"]


def test_the_page_has_the_verdict_of_the_job():
    table = ReportTable([Column("method"), Column("F1")], [["clp", 1.0]], notes=["not distinguishable"])
    about = {"title": "clp", "best": trial(0), "spec": "", "written": WRITTEN}
    text = build_page([trial(0)], Sweep(space=SPACE), comparisons=[table], **about)
    assert "not distinguishable" in text
    assert "There is none yet" not in text


def test_csv_has_a_line_a_trial():
    lines = write_csv([trial(0), trial(1, course=(), error="no, memory")], Sweep(space=SPACE)).splitlines()
    assert lines[0] == "trial,method.margin,method.queue_size,objective,percent,state,error"
    assert lines[1:] == ["t0,0.5,64,0.3,100,done,", 't1,0.5,64,,0,failed,"no, memory"']


def test_each_bar_of_importance_has_room_for_its_name_and_none_has_no_axis():
    for count in (1, 2, 14):
        layout = plot_importance({f"key{n}": 1 / count for n in range(count)}, percent=100).layout
        assert (layout.height - layout.margin.t - layout.margin.b) / count >= 40
    nothing = plot_importance({}, percent=0)
    assert "unknown" in nothing.layout.title.text
    assert nothing.layout.xaxis.visible is False
    assert not nothing.data


def test_names_of_many_axes_stand_aslant():
    space = {f"method.a_long_key_{n}": Span(low=0.0, high=1.0) for n in range(12)}
    trials = [TrialOutcome(f"t{n}", dict.fromkeys(space, n / 4), ((100, n / 4),)) for n in range(4)]
    (lines,) = plot_coordinates(trials, Sweep(space=space)).data
    assert lines.labelangle < 0
    (level,) = plot_coordinates([trial(0), trial(1, margin=0.1)], Sweep(space=SPACE)).data
    assert level.labelangle == 0
