"""Intensities: measures against slow definitions, intervals over people, and the probe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facscale.evaluate.intensity import (
    IntensityPredictions,
    fit_intensity_probe,
    fit_intensity_probes,
    predict_intensities,
    score_intensities,
)
from facscale.report.intensity_table import build_intensity_table, build_intensity_values
from facscale.spec.models import Probe

QUICK = Probe(epochs=20, batch_size=64)


def make_predictions(people=12, frames=30, *, seed=0, noise=1.0):
    """Two AUs in three folds; predictions too low and noisy, a tenth of the labels missing, people of different accuracy."""
    random = np.random.default_rng(seed)
    intensity = random.integers(0, 6, (people * frames, 2)).astype(np.int8)
    person = np.repeat(np.arange(people), frames)
    error = noise * random.normal(size=intensity.shape) + random.normal(size=(people, 2))[person]
    predicted = (0.7 * intensity + error).astype(np.float32)
    intensity[random.random(intensity.shape) < 0.1] = -1
    return IntensityPredictions(
        "ours",
        (6, 12),
        predicted,
        intensity,
        identity=np.array([f"id{number:02d}" for number in person]),
        video=np.full(len(person), "v"),
        frame=np.tile(np.arange(frames, dtype=np.int32), people),
        fold=(person % 3).astype(np.int8),
        folds=("fold0", "fold1", "fold2"),
        protocol="linear-probe",
    )


def compute_icc_slowly(x, y):
    """Shrout and Fleiss, ICC(3,1), from the sums of squares of targets, raters and errors."""
    table = np.stack([x, y], axis=1)
    targets, raters = table.shape
    grand = table.mean()
    between = sum(raters * (row.mean() - grand) ** 2 for row in table)
    of_raters = sum(targets * (table[:, rater].mean() - grand) ** 2 for rater in range(raters))
    total = sum((value - grand) ** 2 for value in table.ravel())
    bms = between / (targets - 1)
    ems = (total - between - of_raters) / ((targets - 1) * (raters - 1))
    return (bms - ems) / (bms + (raters - 1) * ems)


def test_measures_are_their_slow_definitions():
    predictions = make_predictions()
    scores = score_intensities(predictions, resamples=50)
    for column in range(2):
        labelled = predictions.intensity[:, column] >= 0
        y = predictions.intensity[labelled, column].astype(float)
        x = predictions.predicted[labelled, column].astype(float).clip(0, 5)
        assert (predictions.predicted[labelled, column] > 5).any()
        expected = {
            "icc": compute_icc_slowly(x, y),
            "pcc": np.corrcoef(x, y)[0, 1],
            "mse": sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x),
            "mae": sum(abs(a - b) for a, b in zip(x, y, strict=True)) / len(x),
        }
        for measure, value in expected.items():
            assert scores.by_au[measure][column].value == pytest.approx(value), measure
    for measure, mean in scores.mean.items():
        assert mean.value == pytest.approx(np.mean([interval.value for interval in scores.by_au[measure]]))
        assert scores.to_metrics()[f"intensity/{measure}/mean"] == mean.value


def test_intervals_are_over_people_and_not_over_frames():
    predictions = make_predictions()
    one = score_intensities(predictions, resamples=500)
    repeated = {name: np.tile(getattr(predictions, name), (4, 1)) for name in ("predicted", "intensity")}
    repeated |= {name: np.tile(getattr(predictions, name), 4) for name in ("identity", "video", "frame", "fold")}
    again = score_intensities(replace(predictions, **repeated), resamples=500)
    more = score_intensities(make_predictions(people=120), resamples=500)
    for measure, interval in one.mean.items():
        assert interval.low < interval.value < interval.high
        assert again.mean[measure] == pytest.approx(interval)
        width = more.mean[measure].high - more.mean[measure].low
        assert width < 0.6 * (interval.high - interval.low)
    assert (one.people, again.frames) == (12, 4 * one.frames)


def test_an_au_whose_labels_do_not_vary_has_no_correlation_and_is_left_out_of_means():
    predictions = make_predictions()
    predictions.intensity[:, 1] = 0
    scores = score_intensities(predictions, resamples=50)
    assert np.isnan(scores.by_au["icc"][1].value)
    assert scores.by_au["mse"][1].value > 0
    assert scores.mean["icc"].value == scores.by_au["icc"][0].value
    assert "intensity/pcc/AU12" not in scores.to_metrics()


def test_tables_have_every_measure_of_every_method():
    scores = {name: score_intensities(make_predictions(seed=seed), resamples=50) for seed, name in enumerate("ab")}
    scores["b"] = replace(scores["b"], aus=(6, 25))
    table = build_intensity_table(scores, title="Intensities on DISFA")
    assert [column.heading for column in table.columns[2:5]] == ["AU6", "AU12", "AU25"]
    assert [row[:2] for row in table.rows[:4]] == [["a", name] for name in ("ICC(3,1)", "PCC", "MSE", "MAE")]
    assert table.rows[4][3] is None
    assert "linear probe on the frozen encoder: a, b" in table.notes
    lines = build_intensity_values(scores).to_csv().splitlines()
    assert len(lines) == 1 + 2 * 4 * 3
    assert lines[1].startswith("a,icc,mean,")


def test_predictions_are_kept_with_labels_by_frame():
    predictions = make_predictions()
    table = pq.read_table(pa.BufferReader(predictions.to_parquet()))
    assert table.column_names == ["identity", "video", "frame", "fold", "AU6", "r6", "AU12", "r12"]
    assert table["r12"].to_pylist() == predictions.predicted[:, 1].tolist()
    assert table["AU6"].to_pylist() == predictions.intensity[:, 0].tolist()


def test_the_probe_learns_intensities_from_labelled_entries_alone():
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 8)).astype(np.float32)
    true = 5 / (1 + np.exp(-features[:, :2] * 2))
    intensity = true.round().astype(np.int8)
    intensity[::3, 0] = -1
    model = fit_intensity_probe(features, intensity=intensity, probe=QUICK, seed=0)
    found = predict_intensities(model, features=features)
    assert found.min() >= 0
    assert found.max() <= 5
    assert np.abs(found - true).mean() < 0.3
    hidden = intensity.copy()
    hidden[::5] = -1
    before = fit_intensity_probe(features, intensity=hidden, probe=QUICK, seed=1)
    changed = features.copy()
    changed[::5] += 10  # frames without any label
    after = fit_intensity_probe(changed, intensity=hidden, probe=QUICK, seed=1)
    assert np.array_equal(predict_intensities(before, features=features), predict_intensities(after, features=features))
    with pytest.raises(ValueError, match="at least 2 frames with an intensity, here are 0"):
        fit_intensity_probe(features, intensity=np.full_like(intensity, -1), probe=QUICK, seed=0)


def test_probes_of_several_folds_learn_together_what_each_learns_alone():
    random = np.random.default_rng(0)
    features, intensity = (
        random.normal(size=(300, 8)).astype(np.float32),
        random.integers(-1, 6, (300, 3)).astype(np.int8),
    )
    rows = {4: np.arange(0, 200), 5: np.arange(100, 300)}
    together = fit_intensity_probes(features, intensity=intensity, rows=rows, probe=QUICK)
    for seed, chosen in rows.items():
        alone = fit_intensity_probe(features[chosen], intensity=intensity[chosen], probe=QUICK, seed=seed)
        assert np.array_equal(
            predict_intensities(together[seed], features=features), predict_intensities(alone, features=features)
        )
