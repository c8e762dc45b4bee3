import io

import numpy as np
import pytest

from facscale.evaluate import ConfusionCounts, MethodScores, Predictions
from facscale.report.f1_table import F1Table
from facscale.report.figures import (
    plot_contact_sheet,
    plot_curves,
    plot_f1_bars,
    plot_heatmap,
    plot_histogram,
    plot_panels,
)
from facscale.report.timelines import plot_timeline


def drawn(figure):
    """The figure's pixels [H, W, 4]."""
    file = io.BytesIO()
    figure.savefig(file, format="rgba", dpi=50)
    return np.frombuffer(file.getvalue(), np.uint8)


@pytest.fixture
def table():
    counts = ConfusionCounts(
        tp=np.array([[4, 0], [1, 2]]), fp=np.array([[1, 1], [1, 3]]), fn=np.array([[1, 0], [2, 1]])
    )
    ours = MethodScores.from_counts("ours", aus=(1, 12), counts=counts, folds=("fold0", "fold1"))
    return F1Table((ours, MethodScores.from_paper("paper", f1={1: 47.7, 17: 60.0}, source="Table I")))


def test_bars_stand_at_their_f1_and_the_mean_is_last(table):
    figure = plot_f1_bars(table)
    (axes,) = figure.axes
    heights = [[bar.get_height() for bar in group] for group in axes.containers if hasattr(group, "patches")]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["AU1", "AU12", "AU17", "mean"]
    ours = table.rows[0]
    assert heights[0] == pytest.approx([*(ours.f1 * 100), np.nan, ours.mean * 100], nan_ok=True)
    assert heights[1] == pytest.approx([47.7, np.nan, 60.0, 53.85], nan_ok=True)
    assert len(drawn(figure))


def test_noisy_curves_get_their_running_mean():
    steps = np.arange(500)
    noisy = np.random.default_rng(0).normal(size=500) + 3
    figure = plot_curves({"total": (steps, noisy), "short": ([0, 1, 2], [1.0, 2.0, 3.0])}, title="losses")
    raw, smooth, short = (line.get_ydata() for line in figure.axes[0].lines)
    assert np.array_equal(raw, noisy)
    assert smooth.std() < 0.5 * raw.std()
    assert smooth.mean() == pytest.approx(3, abs=0.1)
    assert short.tolist() == [1, 2, 3]
    assert len(drawn(figure))


def test_panels_have_one_plot_a_quantity():
    figure = plot_panels({name: ([0, 1], [0.1, 0.2]) for name in "abcd"}, title="online")
    assert [axes.get_title(loc="left") for axes in figure.axes] == list("abcd")
    assert len(drawn(figure))


@pytest.mark.parametrize("labels", [(), [f"id{number}" for number in range(5)]])
def test_a_contact_sheet_shows_every_image(labels):
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    figure = plot_contact_sheet(images, columns=3, labels=labels, title="crops")
    assert [
        np.array_equal(axes.images[0].get_array(), image) for axes, image in zip(figure.axes, images, strict=True)
    ] == [True] * 5
    assert len(drawn(figure))


def test_a_heatmap_shows_each_value_in_its_field():
    values = np.array([[1.0, -0.25], [-0.25, 1.0]])
    (axes,) = plot_heatmap(values, labels=["AU1", "AU12"], title="relation").axes
    assert [text.get_text() for text in axes.texts] == ["1.0", "-.2", "-.2", "1.0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["AU1", "AU12"]


def test_a_histogram_tells_the_means():
    (axes,) = plot_histogram({"au": [0.1, 0.3], "pose": [0.5, 0.7]}, title="lengths", x="length").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["au  mean 0.2", "pose  mean 0.6"]
    assert sum(patch.get_height() for patch in axes.patches) == 4 - 1  # the longest half per cent lies outside


def course(name, *, aus, au, frame):
    """What a method says of one video."""
    frames = len(frame)
    probability = np.random.default_rng(0).random((frames, len(aus)), np.float32)
    place = np.full(frames, "F001"), np.full(frames, "T1"), np.array(frame, np.int32), np.zeros(frames, np.int8)
    return Predictions(name, aus, probability, np.array(au, np.int8), *place, ("fold0",))


def test_a_timeline_has_a_panel_an_au_and_a_line_a_method():
    au = [[1, -1, 0], [1, -1, -1], [0, -1, 1], [0, -1, 1], [0, -1, 1]]
    methods = [course(name, aus=(1, 2, 12), au=au, frame=[3, 4, 5, 9, 10]) for name in ("still", "moving")]
    figure = plot_timeline(methods, threshold=0.4)
    assert [axes.get_ylabel() for axes in figure.axes] == ["AU1", "AU12"]  # AU2 is not labelled
    first, last = figure.axes
    threshold, still, _ = first.lines
    assert set(threshold.get_ydata()) == {0.4}
    assert still.get_xdata() == pytest.approx([3, 4, 5, np.nan, 9, 10], nan_ok=True)  # nothing is drawn over a gap
    assert still.get_ydata()[4] == pytest.approx(methods[0].probability[3, 0])
    assert (len(first.collections), len(last.collections)) == (1, 2)  # frames that are not labelled are an area too
    area = first.collections[0].get_paths()[0].vertices
    assert area[area[:, 1] == 1, 0].max() == 4.5  # half way to the first frame in which it is over
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(legend) == ["labelled active", "moving", "not labelled", "still", "threshold"]
    assert figure.get_suptitle() == "F001, T1"
    assert len(drawn(figure))


def test_a_timeline_shows_the_aus_that_change_most():
    au = np.zeros((40, 14), int)
    for number in range(14):
        au[: 2 * number : 2, number] = 1  # AU number + 1 changes all the more often
    video = course("ours", aus=tuple(range(1, 15)), au=au, frame=range(40))
    assert [axes.get_ylabel() for axes in plot_timeline([video]).axes] == [f"AU{number}" for number in range(3, 15)]
    assert [axes.get_ylabel() for axes in plot_timeline([video], aus=[9, 4]).axes] == ["AU9", "AU4"]


def test_rows_that_share_a_colour_differ_and_undefined_rows_are_drawn():
    f1 = np.full((3, 2), 0.5)
    rows = [MethodScores(f"row {n}", (1, 2), f1, f1.mean(0), (0, 1, 2)) for n in range(14)]
    nothing = np.full((3, 2), np.nan)
    rows.append(MethodScores("undefined", (1, 2), nothing, nothing[0], (0, 1, 2)))
    figure = plot_f1_bars(F1Table(tuple(rows)))
    bars = [container[0] for container in figure.axes[0].containers if hasattr(container[0], "get_hatch")]
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in bars}
    assert len(looks) == len(rows)
    figure.savefig(io.BytesIO())


def test_a_single_step_is_seen_and_small_values_have_no_sign():
    (axes,) = plot_curves({"loss": ([1], [0.5])}, title="loss").axes
    assert axes.lines[0].get_marker() == "o"
    title = "a very long name of a method, seed 2: AUs together, predicted, on BP4D"
    (axes,) = plot_heatmap(np.array([[1.0, -0.004], [-0.004, 1.0]]), labels=["AU1", "AU2"], title=title).axes
    assert {text.get_text() for text in axes.texts} == {"1.0", ".0"}
    assert "\n" in axes.get_title(loc="left")
