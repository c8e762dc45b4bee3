"""The record of a sweep: plain data, from which the sweep is resumed, wherever it lies and whoever has written there."""

from __future__ import annotations

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from facscale.data.storage import Folder
from facscale.spec.sweep import Span, Sweep
from facscale.sweep.outcome import TrialOutcome
from facscale.sweep.record import FILE, SweepError, parse_pointer, read_record, write_record
from facscale.sweep.search import OBJECTIVE, TrialPlan, make_scheduler, make_source
from facscale.sweep.space import count_trials, draw_points
from facscale.sweep.trial import IDENTITY
from facscale.train.task import ResumePoint

SWEEP = Sweep(
    space={"method.margin": Span(low=0.0, high=1.0), "method.queue_size": (64, 128)}, search="random", trials=6
)


def trial(name, *, margin=0.5, size=64, **about):
    return TrialOutcome(name, {"method.margin": margin, "method.queue_size": size}, **about)


ENDED = trial("t0", history=((20, 0.1), (100, 0.3)), place="best-1", training="best-1-t0", step=40, has_ended=True)
GONE = trial("t1", history=((20, -math.inf),), stop_reason="diverged", has_ended=True)
RUNNING = trial("t2", margin=0.25, size=128, history=((20, 0.2),), place="best-2", training="best-2-t2", step=8)
FAILED = trial("t3", margin=0.125, error="the store was away")


def test_a_record_is_read_as_it_was_written(tmp_path):
    folder = Folder(str(tmp_path / "sweep"))
    assert read_record(folder, SWEEP) == []
    write_record(folder, [ENDED, GONE, RUNNING, FAILED])
    assert read_record(folder, SWEEP) == [ENDED, GONE, RUNNING, FAILED]


@pytest.mark.parametrize("search", ["random", "optuna", "pbt"])
def test_every_value_that_is_drawn_may_stand_in_the_record(tmp_path, search):
    spans = {
        "method.a": Span(low=0.01, high=0.5, log=True),
        "method.b": Span(low=1, high=9),
        "method.c": (True, "x", 0.5),
    }
    sweep = Sweep(space=spans, search=search, trials=200)
    edges = [{"method.a": math.exp(math.log(0.5)) * (1 + 1e-15), "method.b": 9, "method.c": "x"}]
    outcomes = [TrialOutcome(f"t{n}", values) for n, values in enumerate([*draw_points(sweep), *edges])]
    write_record(Folder(str(tmp_path)), outcomes)
    assert read_record(Folder(str(tmp_path)), sweep) == outcomes


def forge(**changes):
    """The record of one trial, of which something has been changed."""
    values = {"method.margin": 0.5, "method.queue_size": 64}
    return {"format": 1, "trials": [{"trial": "t0", "values": values} | changes]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "recursion"),
        (b"[]", "indices"),
        (forge() | {"format": 2}, "its format is 2"),
        (forge(trial="../t0"), "'../t0' is not the name of a trial"),
        (forge(place="../../home"), "'../../home' is not the name of a training"),
        (forge(training="a/b"), "'a/b' is not the name of a training"),
        (forge(training=".."), r"'\.\.' is not the name of a training"),
        (forge(values={"method.margin": 0.5}), "other keys than the space"),
        (forge(values={"method.margin": 0.5, "cluster.storage": "/"}), "other keys than the space"),
        (forge(values={"method.margin": 1.5, "method.queue_size": 64}), "method.margin=1.5, which is not in the space"),
        (forge(values={"method.margin": math.nan, "method.queue_size": 64}), "method.margin=nan"),
        (forge(values={"method.margin": "0.5", "method.queue_size": 64}), "method.margin=0.5, which is not"),
        (forge(values={"method.margin": 0.5, "method.queue_size": 65}), "method.queue_size=65"),
        (forge(history=[["x", 1]]), "valid integer"),
        ({"format": 1, "trials": forge()["trials"] * 2}, "two trials have one name"),
    ],
)
def test_a_record_that_this_sweep_cannot_have_written_is_refused(tmp_path, content, reason):
    (tmp_path / FILE).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(SweepError, match=reason) as error:
        read_record(Folder(str(tmp_path)), SWEEP)
    assert "delete it, and the search begins anew" in str(error.value)


@pytest.mark.parametrize("content", [b"\x80\x04N.", b"3", b'{"training": "../x", "step": 1}', b'{"step": 1}'])
def test_a_pointer_names_a_training_of_this_storage(content):
    with pytest.raises(SweepError, match="does not say which training"):
        parse_pointer(content)
    assert parse_pointer(b'{"training": "best-1-t0", "step": 3}') == ResumePoint("best-1-t0", 3)


def test_draws_depend_on_the_seed_alone_and_a_grid_has_every_point():
    assert draw_points(SWEEP) == draw_points(SWEEP) != draw_points(SWEEP.model_copy(update={"seed": 1}))
    assert len(draw_points(SWEEP)) == count_trials(SWEEP) == 6
    assert all(
        0 <= point["method.margin"] <= 1 and point["method.queue_size"] in {64, 128} for point in draw_points(SWEEP)
    )
    grid = Sweep(space={"method.a": (1, 2, 3), "method.b": (True, False)}, search="grid")
    points = [(point["method.a"], point["method.b"]) for point in draw_points(grid)]
    assert Counter(points) == Counter([(a, b) for a in (1, 2, 3) for b in (True, False)])
    assert count_trials(grid) == 6


class Watch:
    """Notes the trials that begin."""

    def __init__(self):
        self.began = []

    def begin_trial(self, outcome, *, trial_id):
        self.began.append((trial_id, outcome))


def begin_all(plan, count):
    """What Ray Tune's new trials n0, n1, ... get as their config."""
    trials = [SimpleNamespace(trial_id=f"n{number}", config={}) for number in range(count)]
    for each in trials:
        plan.begin(each)
    return [each.config for each in trials]


def test_a_resumed_sweep_continues_with_its_unfinished_trials_and_then_with_the_next_draws():
    watch, points = Watch(), draw_points(SWEEP)
    plan = make_source(SWEEP, [ENDED, GONE, RUNNING, FAILED], watch=watch, slots=2)._plan
    running, failed, *fresh = begin_all(plan, 4)
    assert running == dict(RUNNING.values) | {IDENTITY: {"name": "t2", "training": "best-2-t2", "step": 8}}
    assert failed[IDENTITY] == {"name": "t3", "training": "", "step": 0}
    assert [{key: value for key, value in config.items() if key != IDENTITY} for config in fresh] == points[4:]
    assert [config[IDENTITY]["name"] for config in fresh] == ["n2", "n3"]
    assert [(trial_id, outcome.trial, outcome.error) for trial_id, outcome in watch.began] == [
        ("n0", "t2", ""), ("n1", "t3", ""), ("n2", "n2", ""), ("n3", "n3", ""),
    ]  # fmt: skip
    assert watch.began[0][1].history == RUNNING.history


def test_optuna_knows_the_trials_of_before():
    sweep = SWEEP.model_copy(update={"search": "optuna"})
    source = make_source(sweep, [ENDED, GONE, RUNNING], watch=Watch(), slots=4)
    searcher = source.searcher.searcher
    states = Counter(each.state.name for each in searcher._ot_study.get_trials())
    assert states == {"COMPLETE": 1, "FAIL": 1, "WAITING": 1}
    assert searcher._ot_study.best_value == 0.3
    first = source.searcher.suggest("n0")
    assert first == dict(RUNNING.values)
    plan = TrialPlan([RUNNING], None, watch=Watch())
    begun = SimpleNamespace(trial_id="n1", config={"method.margin": 0.75, "method.queue_size": 64})
    begin_all(plan, 1)
    plan.begin(begun)
    assert begun.config["method.margin"] == 0.75
    assert begun.config[IDENTITY]["name"] == "n1"


@pytest.mark.parametrize("goal", ["max", "min"])
def test_asha_compares_new_trials_with_those_of_before(goal):
    sweep = SWEEP.model_copy(update={"early_stopping": "asha", "goal": goal, "grace": 0.2, "keep": 0.5})
    sign = 1 if goal == "max" else -1
    ended = [
        trial(f"t{number}", history=((20, sign * number), (100, sign * number)), has_ended=True) for number in range(9)
    ]
    scheduler = make_scheduler(sweep, ended)
    for objective, decision in ((0.5, TrialScheduler.STOP), (7.5, TrialScheduler.CONTINUE)):
        new = SimpleNamespace(trial_id=f"n{objective}")
        scheduler.on_trial_add(None, new)
        assert scheduler.on_trial_result(None, new, {"percent": 20, OBJECTIVE: sign * objective}) == decision
    alone = make_scheduler(sweep)
    alone.on_trial_add(None, new)
    assert alone.on_trial_result(None, new, {"percent": 20, OBJECTIVE: -sign}) == TrialScheduler.CONTINUE
