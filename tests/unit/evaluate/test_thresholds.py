"""Thresholds, tuned honestly and dishonestly, and areas under curves."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import mannwhitneyu
from sklearn.metrics import average_precision_score, roc_auc_score

from facscale.evaluate import Predictions, Thresholds, operating
from facscale.evaluate.thresholds import curve


def predictions(frames=300, *, seed=0, people=9, folds=3, decimals=2):
    """Probabilities with many ties."""
    random = np.random.default_rng(seed)
    person = np.arange(frames) % people
    au = (random.random((frames, 2)) < [0.4, 0.15]).astype(np.int8)
    probability = np.clip(0.3 * au + random.random(au.shape) * 0.6, 0, 1).round(decimals).astype(np.float32)
    au[random.random(au.shape) < 0.1] = -1
    return Predictions(
        "ours", (1, 12), probability, au, np.array([f"id{number}" for number in person]), np.full(frames, "v"),
        np.arange(frames, dtype=np.int32), (person % folds).astype(np.int8), tuple(f"fold{one}" for one in range(folds)),
    )  # fmt: skip


def f1_score(au, found):
    """Twice what is right over what there is and what is found."""
    return 2 * np.sum((au == 1) & found) / (np.sum(au == 1) + np.sum(found))


def brute(probability, au):
    """The best F1 and its highest threshold, by trying every probability."""
    known = au >= 0
    tried = [
        (f1_score(au[known], probability[known] >= value), float(value)) for value in np.unique(probability[known])
    ]
    return max(tried)


@pytest.mark.parametrize("decimals", [1, 2, 7])
def test_the_best_threshold_is_the_best_of_all(decimals):
    for seed in range(4):
        ours = predictions(120, seed=seed, decimals=decimals)
        for number in range(2):
            probability, au = ours.probability[:, number], ours.au[:, number]
            found, (f1, threshold) = curve(probability, au), brute(probability, au)
            assert found.best == threshold
            assert np.max(found.f1) == pytest.approx(f1)


@pytest.mark.parametrize("decimals", [1, 2, 7])
def test_areas_are_scikit_learns_and_scipys(decimals):
    ours = predictions(decimals=decimals)
    probability, au = ours.probability[:, 1], ours.au[:, 1]
    found, known = curve(probability, au), au >= 0
    assert found.auc == pytest.approx(roc_auc_score(au[known], probability[known]))
    u = mannwhitneyu(probability[au == 1], probability[au == 0]).statistic
    assert found.auc == pytest.approx(u / (au == 1).sum() / (au == 0).sum())
    assert found.average_precision == pytest.approx(average_precision_score(au[known], probability[known]))


def test_by_hand():
    # from .8 on: 1 of 1 right of 2, F1 = 2/3; from .6 on 2 of 4 (ties come together): 4/6; from .1 on 2 of 5: 4/7
    found = curve(np.array([0.6, 0.8, 0.6, 0.1, 0.6, 0.9]), np.array([0, 1, 1, 0, 0, -1]))
    assert found.threshold.tolist() == [0.8, 0.6, 0.1]
    assert (found.tp.tolist(), found.fp.tolist()) == ([1, 2, 2], [0, 2, 3])
    assert found.f1 == pytest.approx([2 / 3, 2 / 3, 4 / 7])
    assert found.best == 0.8
    assert found.auc == pytest.approx((3 + 1 + 2 / 2) / 6)  # .8 beats three, .6 beats one and ties with two
    assert found.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


def test_without_frames_of_a_kind_areas_are_undefined():
    never = curve(np.array([0.1, 0.2]), np.array([0, 0]))
    assert np.isnan([never.best, never.auc, never.average_precision]).all()
    always = curve(np.array([0.1, 0.2]), np.array([1, 1]))
    assert np.isnan(always.auc)
    assert (always.best, always.average_precision) == (pytest.approx(0.1), 1)
    nothing = curve(np.array([0.1]), np.array([-1]))
    assert np.isnan([nothing.best, nothing.auc, nothing.average_precision]).all()


def test_each_fold_takes_the_threshold_of_the_others():
    ours = predictions()
    found = operating([ours], threshold=0.5)
    assert np.array_equal(found.fixed, ours.row(0.5).by_fold)
    for fold in range(3):
        mine, others = ours.chosen(ours.fold == fold), ours.chosen(ours.fold != fold)
        for number in range(2):
            _, threshold = brute(others.probability[:, number], others.au[:, number])
            assert found.chosen[fold, number] == threshold
            known = mine.au[:, number] >= 0
            f1 = f1_score(mine.au[known, number], mine.probability[known, number] >= threshold)
            assert found.cross_fitted[fold, number] == pytest.approx(f1)
            best, _ = brute(mine.probability[:, number], mine.au[:, number])
            assert found.cheating[fold, number] == pytest.approx(best)
            auc = roc_auc_score(mine.au[known, number], mine.probability[known, number])
            assert found.auc[fold, number] == pytest.approx(auc)


def test_no_label_of_a_tested_person_decides_their_threshold():
    ours = predictions()
    before = operating([ours], threshold=0.5)
    flipped = np.where((ours.fold == 1)[:, None] & (ours.au >= 0), 1 - ours.au, ours.au).astype(np.int8)
    after = operating([replace(ours, au=flipped)], threshold=0.5)
    assert np.array_equal(after.chosen[1], before.chosen[1])
    assert (after.chosen[[0, 2]] != before.chosen[[0, 2]]).any()


def test_repeated_splits_do_not_let_a_tested_person_in_by_another_split():
    ours = predictions()
    other = replace(ours, fold=((ours.fold + (np.arange(300) % 9 < 3)) % 3).astype(np.int8))
    both = Predictions.repeated([ours, other])
    found = operating([both], threshold=0.5)
    for fold in range(6):
        tested = set(both.identity[both.fold == fold])
        others = both.chosen(~np.isin(both.identity, list(tested)))
        assert found.chosen[fold, 0] == brute(others.probability[:, 0], others.au[:, 0])[1]


def test_cheating_is_never_worse():
    for seed in range(5):
        found = operating([predictions(seed=seed)], threshold=0.5)
        assert (found.cheating >= np.maximum(found.fixed, found.cross_fitted)).all()


def test_where_nobody_else_is_there_nothing_is_cross_fitted():
    alone = replace(predictions(), fold=np.zeros(300, np.int8), folds=("all",))
    every = Predictions.joined([alone, replace(alone, folds=("again",))])
    for one in (alone, every):
        found = operating([one], threshold=0.5)
        assert np.isnan(found.cross_fitted).all()
        assert not np.isnan([found.fixed, found.cheating, found.auc, found.average_precision]).any()
    assert "| - |" in Thresholds((operating([alone], threshold=0.5),)).markdown()


def test_where_the_others_never_show_an_au_the_fixed_threshold_stays():
    ours = predictions()
    au = np.where((ours.fold > 0)[:, None] & (ours.au == 1), 0, ours.au).astype(np.int8)
    found = operating([replace(ours, au=au)], threshold=0.4)
    assert (found.chosen[0] == 0.4).all()
    assert np.array_equal(found.cross_fitted[0], found.fixed[0])
    assert np.isnan(found.cheating[1:]).all()


def test_it_shows_itself():
    one, other = predictions(), predictions(seed=1)
    rows = operating([one, other], threshold=0.4), operating([replace(one, name="alone")], threshold=0.4)
    assert rows[0].fixed.shape == (6, 2)
    table = Thresholds(rows)
    lines = table.markdown().splitlines()
    assert lines[0].startswith("| method | F1 x 100 at 0.4 |")
    assert "cheating" in lines[0]
    assert lines[3].startswith(f"| alone | {100 * one.row(0.4).mean:.1f} |")
    assert len({line.count("|") for line in lines}) == 1
    found = {(line["method"], line["figure"]): line for line in csv.DictReader(io.StringIO(table.csv()))}
    assert len(found) == 12
    seeds = [float(split.row(0.4).f1[1]) for split in (one, other)]
    assert float(found["ours", "fixed"]["AU12"]) == pytest.approx(np.mean(seeds))
    assert float(found["alone", "cheating"]["Avg"]) == pytest.approx(rows[1].cheating.mean())
    assert float(found["alone", "chosen"]["AU1"]) == pytest.approx(rows[1].chosen[:, 0].mean())
    console = Console(width=160, file=io.StringIO())
    console.print(table.rich(title="thresholds"))
    assert "a bound, no result" in console.file.getvalue()
