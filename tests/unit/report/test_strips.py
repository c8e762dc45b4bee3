"""The picture of each person's F1."""

from __future__ import annotations

import io

import numpy as np
import pytest

from facscale.report.strips import plot_subject_strips, spread_dots


def test_every_person_has_a_dot_a_line_and_the_lowest_a_name():
    figure = plot_subject_strips({"a": {"p": 0.5, "q": 0.3, "r": 0.9}, "b": {"p": 0.6, "q": np.nan, "r": 0.2}})
    (axes,) = figure.axes
    dots = [line.get_offsets() for line in axes.collections if len(line.get_offsets()) > 1]
    assert [sorted(of[:, 0]) for of in dots] == [pytest.approx([30, 50, 90]), pytest.approx([20, 60])]
    assert [round(float(of[:, 1].mean())) for of in dots] == [0, 1]
    followed = next(line for line in axes.collections if hasattr(line, "get_segments")).get_segments()
    assert sorted(ends[:, 0].tolist() for ends in followed) == [[50, 60], [90, 20]]
    assert [text.get_text() for text in axes.texts] == ["q", "r"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a\nmedian 50.0", "b\nmedian 40.0"]
    assert axes.get_xlim()[0] <= 20
    assert axes.get_xlim()[1] >= 90
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_a_method_without_a_defined_f1_has_an_empty_row():
    figure = plot_subject_strips({"a": {"p": 0.5}, "b": {"p": np.nan}})
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a\nmedian 50.0", "b"]
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_dots_do_not_hide_each_other():
    values = np.random.default_rng(0).normal(60, 5, size=60)
    levels = spread_dots(values, distance=1.5)
    for level in set(levels.tolist()):
        mine = np.sort(values[levels == level])
        assert (np.diff(mine) >= 1.5).all()
    assert levels.min() <= -1
    assert spread_dots(np.array([1.0, 9.0, 1.1, 1.2]), distance=1).tolist() == [0, 0, 1, -1]
    assert len(spread_dots(np.array([]), distance=1)) == 0
