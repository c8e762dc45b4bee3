import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import f1_score

from facscale.evaluate import ConfusionCounts, MethodScores, count_confusions
from facscale.evaluate.f1 import nanmean
from predicted import make_scores


@settings(deadline=None)
@given(data=st.data(), frames=st.integers(1, 30), threshold=st.sampled_from([0.2, 0.5, 0.9]))
def test_f1_is_scikit_learns_on_the_labelled_frames(data, frames, threshold):
    au = data.draw(arrays.arrays(np.int8, (frames, 3), elements=st.integers(-1, 1)))
    probability = data.draw(arrays.arrays(np.float32, (frames, 3), elements=st.floats(0, 1, width=32)))
    ours = count_confusions(probability=probability, au=au, threshold=threshold).f1
    for number in range(3):
        known = au[:, number] >= 0
        if not (au[known, number] == 1).any():
            assert np.isnan(ours[number])
            continue
        theirs = f1_score(au[known, number], probability[known, number] >= threshold, zero_division=0)
        assert ours[number] == pytest.approx(theirs)


def test_by_hand():
    probability = np.array([[0.9], [0.5], [0.4], [0.9], [0.9]])
    au = np.array([[1], [1], [1], [0], [-1]], np.int8)
    found = count_confusions(probability=probability, au=au)
    assert [found.tp.item(), found.fp.item(), found.fn.item()] == [2, 1, 1]  # 0.5 is found; -1 is no part of it
    assert found.f1.item() == pytest.approx(4 / 6)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        count_confusions(probability=np.zeros((2, 3)), au=np.zeros((2, 1), np.int8))


def test_mean_ignores_what_is_undefined():
    assert nanmean(np.array([[1.0, np.nan], [3.0, np.nan]]), axis=0).tolist()[0] == 2
    assert np.isnan(nanmean(np.array([np.nan])))


@pytest.fixture
def row():
    return make_scores()


def test_a_row_means_over_folds_then_over_aus(row):
    assert row.f1 == pytest.approx([0.6, 0.5])
    assert row.mean == pytest.approx(0.55)
    assert row.fold_means == pytest.approx([0.65, 0.4])
    assert row.pooled == pytest.approx([10 / 15, 2 / 7])
    assert row.undefined == ("AU12 in fold1",)


def test_with_everything_defined_the_mean_is_the_papers():
    random = np.random.default_rng(0)
    counts = ConfusionCounts(*random.integers(1, 50, (3, 3, 12)))
    row = MethodScores.from_counts("ours", aus=range(12), counts=counts, folds="abc")
    assert row.mean == pytest.approx(np.mean([row.by_fold[fold].mean() for fold in range(3)]))


def test_metrics_are_flat_and_leave_out_what_is_undefined(row):
    metrics = row.to_metrics()
    assert metrics["f1/AU12"] == 0.5
    assert metrics["fold0/f1/AU1"] == pytest.approx(0.8)
    assert metrics["fold1/f1/mean"] == pytest.approx(0.4)
    assert metrics["pooled/f1/mean"] == pytest.approx((10 / 15 + 2 / 7) / 2)
    assert "fold1/f1/AU12" not in metrics


def test_a_row_of_several_seeds_is_their_mean():
    def row(tp):
        counts = ConfusionCounts(*(np.array([[value, 1], [value, 1]]) for value in (tp, 1, 1)))
        return MethodScores.from_counts("m", aus=(1, 2), counts=counts, folds=("a", "b"))

    one, other = row(1), row(3)
    both = MethodScores.combine_seeds([one, other])
    assert both.seeds == 2
    assert both.folds == ("seed0 a", "seed0 b", "seed1 a", "seed1 b")
    assert both.mean == pytest.approx((one.mean + other.mean) / 2)
    assert MethodScores.combine_seeds([one]) is one
