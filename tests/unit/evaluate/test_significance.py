"""Whether one method errs less than another."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import ttest_rel

from facscale.evaluate import Predictions, adjacency_distance, compared, dependency_f1, paired_t
from facscale.evaluate.significance import SMALLEST


def judged(probability, au, *, name="ours", identity=None):
    frames, aus = np.shape(au)
    return Predictions(
        name, tuple(range(1, aus + 1)), np.array(probability, np.float32), np.array(au, np.int8),
        np.array(identity if identity is not None else ["a"] * frames), np.full(frames, "v"),
        np.arange(frames, dtype=np.int32), np.zeros(frames, np.int8), ("fold0",),
    )  # fmt: skip


def pair(frames=90, *, seed=0):
    """Three AUs of nine people; the second method is a little better."""
    random = np.random.default_rng(seed)
    au = random.integers(-1, 2, (frames, 3), np.int8)
    au[0] = -1
    identity = [f"id{number}" for number in np.arange(frames) % 9]
    error = random.random((2, frames, 3)) * np.array([0.8, 0.7])[:, None, None]
    a, b = np.where(au == 1, 1 - error, error)
    return judged(a, au, name="a", identity=identity), judged(b, au, name="b", identity=identity)


def slow(a, b):
    """Differences of the frames' errors, and of the people's, in Python's floats."""
    frames, people = [], {}
    for row in range(len(a)):
        known = [number for number in range(len(a.aus)) if a.au[row, number] >= 0]
        if not known:
            continue
        one, other = (
            sum(abs(float(method.probability[row, number]) - int(method.au[row, number])) for number in known)
            / len(known)
            for method in (a, b)
        )
        frames.append(other - one)
        people.setdefault(a.identity[row], []).append(other - one)
    return frames, [sum(values) / len(values) for values in people.values()]


def formula(differences):
    number = len(differences)
    average = sum(differences) / number
    return average / sqrt(sum((value - average) ** 2 for value in differences) / (number - 1) / number)


def test_t_is_its_formula_over_frames_and_over_people():
    a, b = pair()
    frames, people = slow(a, b)
    assert (len(frames), len(people)) == ((a.au >= 0).any(axis=1).sum(), 9)
    found = paired_t(a, b)
    assert found.frames_t == pytest.approx(formula(frames), rel=1e-9)
    assert found.subjects_t == pytest.approx(formula(people), rel=1e-9)
    assert found.difference == pytest.approx(sum(frames) / len(frames), rel=1e-9)
    assert found.difference < 0
    assert found.frames_t < 0


def test_t_and_p_are_scipys():
    a, b = pair(seed=3)
    found = paired_t(a, b)
    frames, people = slow(a, b)
    for differences, t, p in ((frames, found.frames_t, found.frames_p), (people, found.subjects_t, found.subjects_p)):
        theirs = ttest_rel(differences, np.zeros(len(differences)))
        assert (t, p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)


def test_by_hand():
    # errors of a: .5 .5 .5, of b: .3 .4 .2; differences -.2 -.1 -.3: mean -.2, deviation .1, t = -.2 / (.1 / sqrt(3))
    a, b = (judged([[1 - error] for error in errors], [[1]] * 3) for errors in ((0.5, 0.5, 0.5), (0.3, 0.4, 0.2)))
    found = paired_t(a, b)
    assert found.frames_t == pytest.approx(-2 * sqrt(3), rel=1e-5)
    assert found.frames_p == pytest.approx(0.0741799, rel=1e-4)  # two degrees of freedom: 1 - t / sqrt(t^2 + 2)
    assert found.difference == pytest.approx(-0.2)
    assert np.isnan([found.subjects_t, found.subjects_p]).all()  # one person


def test_exchanged_methods_only_change_the_sign():
    a, b = pair()
    one, other = paired_t(a, b), paired_t(b, a)
    assert (one.frames_t, one.subjects_t, one.difference) == (-other.frames_t, -other.subjects_t, -other.difference)
    assert (one.frames_p, one.subjects_p) == (other.frames_p, other.subjects_p)


def test_frames_are_matched_in_whatever_order():
    a, b = pair()
    shuffled = b.chosen(np.random.default_rng(1).permutation(len(b)))
    assert paired_t(a, shuffled) == paired_t(a, b)
    objects = replace(b, identity=b.identity.astype(object), video=b.video.astype(object))
    assert paired_t(a, objects) == paired_t(a, b)


def test_the_same_predictions_do_not_differ():
    a, _ = pair()
    assert paired_t(a, a) == (0, 1, 0, 1, 0)


def test_the_same_step_everywhere_is_as_sure_as_a_float_can_say():
    a, b = (judged([[value]] * 4, [[0]] * 4, identity=list("aabb")) for value in (0.5, 0.25))
    assert paired_t(a, b) == (-np.inf, SMALLEST, -np.inf, SMALLEST, -0.25)


def test_without_labels_nothing_is_known():
    a = judged([[0.5]] * 4, [[-1]] * 4)
    assert np.isnan(paired_t(a, a)).all()


def test_what_does_not_belong_together_is_refused():
    a, b = pair()
    with pytest.raises(ValueError, match=r"a and b were not tested on the same frames \(90 and 89\)"):
        paired_t(a, b.chosen(np.arange(89)))
    with pytest.raises(ValueError, match="not tested on the same frames"):
        paired_t(a, replace(b, video=np.full(90, "w")))
    with pytest.raises(ValueError, match="different AUs"):
        paired_t(a, replace(b, aus=(1, 2, 4)))
    with pytest.raises(ValueError, match="different labels"):
        paired_t(a, replace(b, au=np.zeros_like(b.au)))
    twice = np.arange(90).repeat(2)
    with pytest.raises(ValueError, match="more than once"):
        paired_t(a.chosen(twice), b.chosen(twice))


def test_comparison_holds_what_each_function_says():
    a, b = pair()
    rows = compared([a, b], threshold=0.5).rows
    assert [row.name for row in rows] == ["a", "b"]
    assert rows[0].test is None
    assert rows[1].test == paired_t(a, b)
    for row, method in zip(rows, (a, b), strict=True):
        assert row.f1 == method.row(0.5).mean
        assert row.distance == adjacency_distance(method, threshold=0.5)
        assert row.dependency == dependency_f1(method, threshold=0.5)


def test_comparison_shows_itself():
    a, b = pair(900)
    table = compared([a, b, replace(a, name="again")], threshold=0.5)
    test = table.rows[1].test
    lines = table.markdown().splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].endswith("| - | - | - | - | - |")
    assert f"| {100 * test.difference:+.2f} | {test.frames_t:.2f} | {test.frames_p:.2g} |" in lines[3]
    assert lines[4].endswith("| +0.00 | 0.00 | 1 | 0.00 | 1 |")
    first, second, _ = csv.DictReader(io.StringIO(table.csv()))
    assert first["frames_t"] == ""
    assert float(second["subjects_p"]) == test.subjects_p
    assert float(second["f1"]) == table.rows[1].f1
    console = Console(width=160, file=io.StringIO())
    console.print(table.rich(title="compared"))
    assert f"{test.frames_t:.2f}" in console.file.getvalue()
    assert "errs less than a" in console.file.getvalue()


def test_a_vanishing_p_is_shown_as_such():
    a, b = (judged([[value]] * 4, [[0]] * 4, identity=list("aabb")) for value in (0.5, 0.25))
    assert compared([a, b], threshold=0.5).markdown().endswith("| -inf | < 1e-300 | -inf | < 1e-300 |\n")
