"""AU intensities, 0 to 5: a probe that predicts them from frozen features, and how well predictions agree with labels.

For predictions x in [0, 5] and labels y of the test frames of all folds together, by AU::

    ICC(3,1) = 2 cov(x, y) / (var x + var y)        PCC = cov(x, y) / sqrt(var x var y)
    MSE      = mean of (x - y)^2                    MAE = mean of |x - y|

ICC(3,1) is Shrout and Fleiss' (BMS - EMS) / (BMS + EMS) for two raters, "Intraclass Correlations: Uses in Assessing Rater
Reliability", Psychological Bulletin 1979. PCC ignores the scale of predictions, ICC does not, and neither sees a constant
offset; MSE and MAE do, but they are small for a rare AU whatever is predicted. Frames are pooled over the folds, as in
Sanchez-Lozano et al. (BMVC 2018); means over folds, as in LibreFace (WACV 2024), differ.

Intervals are over people, who are drawn with replacement within their fold, as in `bootstrap`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from facscale.evaluate.bootstrap import (
    RESAMPLES,
    Interval,
    compute_intervals,
    count_degrees_of_freedom,
    draw_subjects,
)
from facscale.evaluate.f1 import nanmean
from facscale.evaluate.probe import fit_together
from facscale.evaluate.solver import slope_squared_error
from facscale.nn.heads import MAX_INTENSITY, LinearProbe, to_intensities
from facscale.spec.models import Probe

MEASURES = {"icc": "ICC(3,1)", "pcc": "PCC", "mse": "MSE", "mae": "MAE"}


@dataclass(frozen=True)
class IntensityPredictions:
    """Intensities of N frames, each predicted by the probe of a fold that was not trained on its person."""

    name: str  # of the method
    aus: tuple[int, ...]  # the n AU numbers
    predicted: np.ndarray  # [N, n] float32 in [0, 5]
    intensity: np.ndarray  # [N, n] int8: 0 to 5, or -1 for not labelled
    identity: np.ndarray  # [N] str
    video: np.ndarray  # [N] str
    frame: np.ndarray  # [N] int32, number in the source video
    fold: np.ndarray  # [N] int8
    folds: tuple[str, ...]  # their names
    protocol: str

    @classmethod
    def concat(cls, pieces: Sequence[IntensityPredictions]) -> IntensityPredictions:
        """Join the predictions of one method in different folds, of one fold each."""
        first = pieces[0]
        arrays = {
            name: np.concatenate([getattr(piece, name) for piece in pieces])
            for name in ("predicted", "intensity", "identity", "video", "frame")
        }
        fold = np.repeat(np.arange(len(pieces), dtype=np.int8), [len(piece.frame) for piece in pieces])
        names = tuple(name for piece in pieces for name in piece.folds)
        return cls(first.name, first.aus, **arrays, fold=fold, folds=names, protocol=first.protocol)

    def to_parquet(self) -> bytes:
        """A Parquet file: columns identity, video, frame, fold, and for each AU "AU12" (label) and "r12" (prediction)."""
        columns = {name: pa.array(getattr(self, name)) for name in ("identity", "video", "frame", "fold")}
        for number, au in enumerate(self.aus):
            columns[f"AU{au}"] = pa.array(self.intensity[:, number], pa.int8())
            columns[f"r{au}"] = pa.array(self.predicted[:, number], pa.float32())
        metadata = {"name": self.name, "aus": self.aus, "folds": self.folds, "protocol": self.protocol}
        out = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, metadata={"intensities": json.dumps(metadata)}), out, compression="zstd")
        return out.getvalue().to_pybytes()


@dataclass(frozen=True)
class IntensityScores:
    """Agreement of one method's intensities with the labels."""

    name: str
    aus: tuple[int, ...]
    mean: dict[str, Interval]  # over AUs, by measure (MEASURES)
    by_au: dict[str, tuple[Interval, ...]]  # likewise, in the order of `aus`; nan where the labels do not vary
    people: int
    frames: int  # with at least one labelled intensity
    protocol: str

    def to_metrics(self) -> dict[str, float]:
        """Flat metrics for the tracker: intensity/icc/AU12, intensity/icc/mean, ...; undefined ones are left out."""
        metrics: dict[str, float] = {}
        for measure, intervals in self.by_au.items():
            named = dict(zip((f"AU{au}" for au in self.aus), intervals, strict=True)) | {"mean": self.mean[measure]}
            metrics |= {f"intensity/{measure}/{name}": interval.value for name, interval in named.items()}
        return {name: value for name, value in metrics.items() if not np.isnan(value)}


def score_intensities(
    predictions: IntensityPredictions, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> IntensityScores:
    """Measure the agreement over all frames with labels, with intervals over people."""
    names, person = np.unique(predictions.identity.astype(np.str_), return_inverse=True)
    tested = np.zeros((len(names), len(predictions.folds)), bool)
    tested[person, predictions.fold] = True
    sums = _sum_by_person(predictions, person=person, people=len(names))
    weights = draw_subjects(tested, resamples=resamples, random=np.random.default_rng(seed))
    draws = _compute_measures((weights @ sums.reshape(len(names), -1)).reshape(-1, *sums.shape[1:]))
    freedom = count_degrees_of_freedom(tested)
    mean: dict[str, Interval] = {}
    by_au: dict[str, tuple[Interval, ...]] = {}
    for measure, values in draws.items():
        columns = np.column_stack([nanmean(values, axis=1), values])
        mean[measure], *rest = compute_intervals(columns, level=level, freedom=freedom)
        by_au[measure] = tuple(rest)
    frames = int((predictions.intensity >= 0).any(axis=1).sum())
    return IntensityScores(predictions.name, predictions.aus, mean, by_au, len(names), frames, predictions.protocol)


def fit_intensity_probe(features: np.ndarray, *, intensity: np.ndarray, probe: Probe, seed: int) -> LinearProbe:
    """Train BatchNorm and a linear layer on features [N, D] and intensities [N, n], -1 where missing.

    The prediction is 5 sigmoid(logit), the loss the mean squared error over the labelled entries (LibreFace); `probe.weighting`
    has no effect. Adam on shuffled minibatches; the same seed, the same probe. Returns it in evaluation mode. Raises
    ValueError for fewer than 2 labelled frames.
    """
    everything = {seed: np.arange(len(intensity))}
    return fit_intensity_probes(features, intensity=intensity, rows=everything, probe=probe)[seed]


def fit_intensity_probes(
    features: np.ndarray, *, intensity: np.ndarray, rows: Mapping[int, np.ndarray], probe: Probe
) -> dict[int, LinearProbe]:
    """Train several probes as `fit_intensity_probe`, each on some frames of the same features, as `probe.fit_probes`."""
    return fit_together(
        features,
        labels=intensity,
        rows=rows,
        probe=probe,
        weigh=lambda labels: np.ones((2, labels.shape[1]), np.float32),
        slope=slope_squared_error,
        kind="frames with an intensity",
    )


@torch.no_grad()
def predict_intensities(model: LinearProbe, *, features: np.ndarray, batch_size: int = 8192) -> np.ndarray:
    """Intensities [N, n] float32 in [0, 5] of features [N, D]."""
    batches = torch.split(torch.from_numpy(features.astype(np.float32)), batch_size)
    return torch.cat([to_intensities(model(batch)) for batch in batches]).numpy()


def _sum_by_person(predictions: IntensityPredictions, *, person: np.ndarray, people: int) -> np.ndarray:
    """Sums over the labelled frames of each person [S, 7, n]: 1, x, y, x^2, y^2, x y, |x - y|."""
    labelled = predictions.intensity >= 0
    x = np.clip(predictions.predicted.astype(float), 0, MAX_INTENSITY)
    y = predictions.intensity.astype(float)
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, np.abs(x - y)], axis=1)
    sums = np.zeros((people, *terms.shape[1:]))
    np.add.at(sums, person, terms * labelled[:, None, :])
    return sums


def _compute_measures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The measures [draws, n] by name from sums [draws, 7, n]; nan where they are undefined."""
    count, x, y, xx, yy, xy, absolute = np.moveaxis(sums, 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = xy / count - x * y / count**2
        var_x, var_y = xx / count - (x / count) ** 2, yy / count - (y / count) ** 2
        x_varies, y_varies = var_x > 1e-12, var_y > 1e-12  # otherwise only rounding errors are left
        return {
            "icc": np.where(y_varies, 2 * covariance / (var_x + var_y), np.nan),
            "pcc": np.where(x_varies & y_varies, covariance / np.sqrt(var_x * var_y), np.nan),
            "mse": (xx - 2 * xy + yy) / count,
            "mae": absolute / count,
        }
