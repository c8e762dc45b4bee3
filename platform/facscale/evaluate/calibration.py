"""Calibration of a detector's probabilities and its thresholds, from out-of-fold predictions.

For each AU three functions of the logit x are compared by the log loss of a cross-validation over people:

    raw        sigmoid(x): as the networks are
    logistic   sigmoid(a x + b), a > 0: a temperature with a bias, fitted by maximum likelihood on targets that Platt
               ("Probabilistic outputs for support vector machines", 1999) moved away from 0 and 1: (P + 1) / (P + 2) for
               positives and 1 / (N + 2) for negatives
    isotonic   the non-decreasing function with the least squared error (Zadrozny & Elkan, KDD 2002), with at most KNOTS knots

The one with the lowest log loss is fitted again on everybody. The numbers about calibration, and F1, are of probabilities
for people whom the fitted function, and the threshold, had not seen:

    ECE = sum over BINS bins of equal width of  n_b / n * | mean probability in b - share of positives in b |

(Guo et al., "On calibration of modern neural networks", ICML 2017, for the positive class). One leak remains, as in
`thresholds`: the logits of one person are by a model that was trained on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, log_expit, logit

from facscale.evaluate.bootstrap import (
    RESAMPLES,
    Interval,
    compute_intervals,
    count_degrees_of_freedom,
    draw_subjects,
    draw_trainings,
    resample_f1,
)
from facscale.evaluate.predictions import Predictions
from facscale.evaluate.subjects import count_by_subject
from facscale.evaluate.thresholds import trace_curve

CalibrationKind = Literal["raw", "logistic", "isotonic"]
KINDS: tuple[CalibrationKind, ...] = ("raw", "logistic", "isotonic")
FOLDS = 5  # of people
BINS = 15
KNOTS = 32
MAX_LOGIT = 16.0  # float32 probabilities beyond it are 0 or 1
MIN_SCALE = 1e-3  # a logit that says nothing, or the opposite, does not turn around
CLIP = 1e-6  # of probabilities in a log loss
DEFAULT_THRESHOLD = 0.5


class Curve(NamedTuple):
    """A function from logits to probabilities; the fields that its kind does not use are neutral."""

    kind: CalibrationKind
    scale: float = 1.0
    bias: float = 0.0
    knots: np.ndarray = np.zeros(1)  # [K] logits, ascending
    values: np.ndarray = np.full(1, 0.5)  # [K] probabilities, ascending

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities [N] of logits [N]."""
        if self.kind == "isotonic":
            return np.interp(logits, self.knots, self.values)
        return np.asarray(expit(self.scale * logits + self.bias))


class Bins(NamedTuple):
    """A reliability diagram: frames by predicted probability, in BINS bins of equal width."""

    frames: np.ndarray  # [BINS] int64
    probability: np.ndarray  # [BINS] mean prediction; nan in an empty bin
    positive: np.ndarray  # [BINS] share of positive frames; nan in an empty bin

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1]; nan without frames."""
        if not self.frames.sum():
            return float("nan")
        gaps = np.abs(self.probability - self.positive)
        return float(np.nansum(self.frames * gaps) / self.frames.sum())


class Reliability(NamedTuple):
    """How well probabilities of one AU are calibrated, on frames of people that nothing was fitted on."""

    bins: Bins
    log_loss: float
    brier: float  # mean squared difference of probability and label


@dataclass(frozen=True)
class AUCalibration:
    """One AU."""

    au: int
    curve: Curve  # fitted on everybody
    threshold: float  # with the best F1 of the out-of-fold calibrated probabilities
    before: Reliability  # of the networks' own probabilities
    after: Reliability  # of calibrated ones, out of fold by person
    frames: int  # with a label
    positives: int
    people: int


@dataclass(frozen=True)
class CalibrationResult:
    """All AUs, and F1 of decisions for people whom neither the curve nor the threshold had seen."""

    aus: tuple[AUCalibration, ...]
    f1: dict[int, Interval]  # by AU, in [0, 1]; nan where undefined
    mean_f1: Interval

    @property
    def thresholds(self) -> np.ndarray:
        """[n] float32."""
        return np.array([au.threshold for au in self.aus], np.float32)

    def to_metrics(self) -> dict[str, float]:
        """Flat metrics for the tracker: calibration/ece_before/AU12, calibration/f1/mean, ...; undefined ones are left out."""
        metrics: dict[str, float] = {"calibration/f1/mean": self.mean_f1.value}
        for item in self.aus:
            name = f"AU{item.au}"
            metrics[f"calibration/f1/{name}"] = self.f1[item.au].value
            metrics[f"calibration/threshold/{name}"] = item.threshold
            for when, reliability in (("before", item.before), ("after", item.after)):
                metrics[f"calibration/ece_{when}/{name}"] = reliability.bins.ece
                metrics[f"calibration/log_loss_{when}/{name}"] = reliability.log_loss
        for when in ("ece_before", "ece_after", "log_loss_before", "log_loss_after"):
            values = [metrics[f"calibration/{when}/AU{item.au}"] for item in self.aus]
            defined = [value for value in values if not np.isnan(value)]
            metrics[f"calibration/{when}/mean"] = float(np.mean(defined)) if defined else float("nan")
        return {name: value for name, value in metrics.items() if not np.isnan(value)}


def calibrate(tables: Sequence[Predictions], *, aus: Sequence[int], seed: int = 0) -> CalibrationResult:
    """Fit curves and thresholds on out-of-fold predictions of one model, of one or several tested data sets.

    An AU without frames of both kinds keeps the sigmoid and the threshold 0.5. `seed`: of the folds of people.
    """
    people = [np.char.add(f"{number}/", table.identity.astype(np.str_)) for number, table in enumerate(tables)]
    names = np.unique(np.concatenate(people))
    random = np.random.default_rng(seed)
    fold_of = dict(zip(names.tolist(), random.permutation(np.arange(len(names)) % FOLDS).tolist(), strict=True))
    folds = [np.array([fold_of[name] for name in table.tolist()], np.int64) for table in people]
    results = []
    decided = [np.zeros(table.probability.shape, np.float32) for table in tables]
    for au in aus:
        parts = [(number, table.aus.index(au)) for number, table in enumerate(tables) if au in table.aus]
        pieces = [np.flatnonzero(tables[number].au[:, column] >= 0) for number, column in parts]
        x = _join([to_logits(tables[n].probability[rows, c]) for (n, c), rows in zip(parts, pieces, strict=True)])
        y = _join([tables[n].au[rows, c] for (n, c), rows in zip(parts, pieces, strict=True)]).astype(np.int8)
        fold = _join([folds[n][rows] for (n, _), rows in zip(parts, pieces, strict=True)]).astype(np.int64)
        who = len({name for (n, _), rows in zip(parts, pieces, strict=True) for name in people[n][rows].tolist()})
        fit, decisions = _calibrate_au(au, x=x, y=y, fold=fold, people=who)
        results.append(fit)
        start = 0
        for (number, column), rows in zip(parts, pieces, strict=True):
            decided[number][rows, column] = decisions[start : start + len(rows)]
            start += len(rows)
    f1, mean_f1 = _score(tables, decided, aus=aus)
    return CalibrationResult(tuple(results), f1, mean_f1)


def to_logits(probability: np.ndarray) -> np.ndarray:
    """Logits float64 of probabilities, within [-16, 16]."""
    return np.clip(logit(np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)), -MAX_LOGIT, MAX_LOGIT)


def fit_curve(kind: CalibrationKind, *, x: np.ndarray, y: np.ndarray) -> Curve:
    """Fit a curve to logits x [N] and labels y [N] in {0, 1}; the sigmoid where one of the two labels is missing."""
    if kind == "raw" or not 0 < y.sum() < len(y):
        return Curve("raw")
    if kind == "logistic":
        return _fit_logistic(x, y)
    return _fit_isotonic(x, y)


def measure_reliability(probability: np.ndarray, y: np.ndarray) -> Reliability:
    """Measure probabilities [N] against labels [N] in {0, 1}; nan without frames."""
    number = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    frames = np.bincount(number, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(number, weights=probability, minlength=BINS) / frames
        positive = np.bincount(number, weights=y.astype(float), minlength=BINS) / frames
    bins = Bins(frames, mean, positive)
    if not len(y):
        return Reliability(bins, float("nan"), float("nan"))
    return Reliability(bins, _log_loss(probability, y), float(((probability - y) ** 2).mean()))


def _calibrate_au(
    au: int, *, x: np.ndarray, y: np.ndarray, fold: np.ndarray, people: int
) -> tuple[AUCalibration, np.ndarray]:
    """One AU, and its decisions [N] bool by thresholds that other people gave."""
    before = measure_reliability(expit(x), y)
    facts = {"frames": len(y), "positives": int(y.sum()), "people": people}
    if not 0 < y.sum() < len(y) or len(np.unique(fold)) < 2:
        return AUCalibration(au, Curve("raw"), DEFAULT_THRESHOLD, before, before, **facts), expit(
            x
        ) >= DEFAULT_THRESHOLD
    out_of_fold = {kind: _predict_out_of_fold(kind, x=x, y=y, fold=fold) for kind in KINDS}
    losses = {kind: _log_loss(probability, y) for kind, probability in out_of_fold.items()}
    kind = min(KINDS, key=lambda name: losses[name])
    probability = out_of_fold[kind]
    decisions = np.zeros(len(y), bool)
    for number in np.unique(fold):
        test = fold == number
        decisions[test] = probability[test] >= _tune_threshold(probability[~test], y[~test])
    after = measure_reliability(probability, y)
    threshold = _tune_threshold(probability, y)
    return AUCalibration(au, fit_curve(kind, x=x, y=y), threshold, before, after, **facts), decisions


def _predict_out_of_fold(kind: CalibrationKind, *, x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Probabilities [N], each by a curve that was fitted on the people of other folds."""
    probability = np.empty(len(x))
    for number in np.unique(fold):
        test = fold == number
        probability[test] = fit_curve(kind, x=x[~test], y=y[~test]).apply(x[test])
    return probability


def _tune_threshold(probability: np.ndarray, y: np.ndarray) -> float:
    """The threshold with the best F1, halfway to the next lower probability; 0.5 without a positive frame."""
    order = np.argsort(-probability, kind="stable")
    curve = trace_curve(probability[order], y[order])
    best = curve.best
    if np.isnan(best):
        return DEFAULT_THRESHOLD
    lower = curve.threshold[curve.threshold < best]
    return float((best + lower[0]) / 2 if len(lower) else best)


def _fit_logistic(x: np.ndarray, y: np.ndarray) -> Curve:
    from scipy.optimize import minimize  # half a second, which every job would wait for at its start

    positives, negatives = int(y.sum()), int(len(y) - y.sum())
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, spread = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / spread

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        u = parameters[0] * z + parameters[1]
        value = -(target * log_expit(u) + (1 - target) * log_expit(-u)).mean()
        error = expit(u) - target
        return float(value), np.array([(error * z).mean(), error.mean()])

    start = np.array([1.0, float(logit((positives + 1) / (len(y) + 2)))])
    bounds = [(MIN_SCALE * spread, None), (None, None)]
    scale, bias = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x / np.array([spread, 1.0])
    return Curve("logistic", float(scale), float(bias - scale * centre))


def _fit_isotonic(x: np.ndarray, y: np.ndarray) -> Curve:
    """Values stay away from 0 and 1 by one frame in all, so that no log loss is infinite."""
    from sklearn.isotonic import IsotonicRegression  # a second, as above

    margin = 1 / (len(y) + 2)
    fit = IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip").fit(x, y)
    knots, values = fit.X_thresholds_, fit.y_thresholds_
    if len(knots) > KNOTS:
        rows = np.unique(np.linspace(0, len(knots) - 1, KNOTS).round().astype(int))
        knots, values = knots[rows], values[rows]
    return Curve("isotonic", knots=np.asarray(knots, float), values=np.asarray(values, float))


def _log_loss(probability: np.ndarray, y: np.ndarray) -> float:
    p = np.clip(probability, CLIP, 1 - CLIP)
    return float(-np.where(y == 1, np.log(p), np.log(1 - p)).mean())


def _score(
    tables: Sequence[Predictions], decided: Sequence[np.ndarray], *, aus: Sequence[int]
) -> tuple[dict[int, Interval], Interval]:
    """F1 by AU and its mean over the decisions, with intervals over people; an AU of several tables: of the first."""
    by_au: dict[int, Interval] = {}
    means: list[Interval] = []
    for table, decisions in zip(tables, decided, strict=True):
        answers = Predictions(
            **{
                name: getattr(table, name)
                for name in ("name", "aus", "au", "identity", "video", "frame", "fold", "folds", "source", "protocol")
            },
            probability=decisions,
        )
        counts = count_by_subject(answers, threshold=0.5)
        people = draw_subjects(counts.tested, resamples=RESAMPLES, random=np.random.default_rng(0))
        draws = resample_f1(
            [counts], people=people, trainings=draw_trainings(1, resamples=RESAMPLES, random=np.random.default_rng(0))
        )
        mean, *intervals = compute_intervals(draws, level=0.95, freedom=count_degrees_of_freedom(counts.tested))
        means.append(mean)
        for au, interval in zip(table.aus, intervals, strict=True):
            by_au.setdefault(au, interval)
    undefined = Interval(float("nan"), float("nan"), float("nan"))
    return {au: by_au.get(au, undefined) for au in aus}, means[0] if means else undefined


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0)
