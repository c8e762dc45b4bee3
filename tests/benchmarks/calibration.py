"""How well the probabilities of a detector are calibrated on people whom nothing has seen, and what its thresholds are worth.

    make demo
    facscale run pipelines/synthetic_bp4d.yaml name=strangers render.first_identity=5000 render.identities=60 render.seed=5 \\
        source.root=demo/data/raw/strangers output=demo/data/strangers
    python tests/benchmarks/calibration.py demo/mlflow/artifacts/1/RUN/artifacts/detector.safetensors demo/data/strangers [--out FILE]

The data set is labelled, and has crops of the kind that the detector reads. "Before" are the networks' own probabilities and
decisions from 0.5 on, "after" those that the detector gives.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from results import ResultWriter, add_out_option

from facscale.data import Dataset
from facscale.data.rows import to_numpy
from facscale.data.tracks import iterate_tracks
from facscale.evaluate.calibration import measure_reliability
from facscale.evaluate.f1 import count_confusions, nanmean
from facscale.inference.detector import Detector, load_detector_bytes
from facscale.inference.predictor import Predictor, read_crops
from facscale.nn.calibration import Calibration

UNCALIBRATED_THRESHOLD = 0.5


class Rating(NamedTuple):
    """Probabilities of one AU against its labels."""

    ece: float
    log_loss: float
    f1: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=argparse.FileType("rb"))
    parser.add_argument("data", help="URL of a labelled data set")
    add_out_option(parser)
    options = parser.parse_args()
    weights, dataset = options.detector.read(), Dataset(options.data)
    detector, plain = load_detector_bytes(weights), load_detector_bytes(weights)
    plain.calibration = Calibration(aus=len(plain.aus))
    au = read_labels(dataset, aus=detector.aus)
    before = rate(predict(plain, dataset), au=au, thresholds=np.full(len(detector.aus), UNCALIBRATED_THRESHOLD))
    after = rate(predict(detector, dataset), au=au, thresholds=detector.thresholds.numpy())
    columns = {"AU": None, "positive, %": 1}
    columns |= {
        f"{name} {when}": digits for name, digits in (("ECE", 3), ("log loss", 3)) for when in ("before", "after")
    }
    columns |= {f"F1 x 100 {when}": 1 for when in ("before", "after")}
    title = "A detector's probabilities of people whom nothing has seen, before and after calibration"
    with ResultWriter(options.out, title=title, columns=columns) as table:
        rows = []
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            labels = au[au[:, number] >= 0, number]
            cells = [one.ece, other.ece, one.log_loss, other.log_loss, 100 * one.f1, 100 * other.f1]
            rows.append([100 * labels.mean(), *cells])
            table.add(f"AU{detector.aus[number]}", *rows[-1])
        table.add("mean", *nanmean(np.array(rows), axis=0))
        people = len(set(dataset.runs.identities))
        table.note(f"{len(au):,} frames of {people} people; the detector learned from others.")
        for row in table.rows:
            print(
                *(
                    f"{name} {value:.3f}" if isinstance(value, float) else value
                    for name, value in zip(columns, row, strict=True)
                )
            )


def predict(detector: Detector, dataset: Dataset) -> np.ndarray:
    """Probabilities [N, n] of all stored faces, in stored order."""
    predictor = Predictor(detector)
    results = [
        face.probability
        for _, interval_s, frames in read_crops(dataset, detector)
        for result in predictor.predict_crops(frames, interval_s=interval_s)
        for face in result.faces
    ]
    return np.stack(results)


def read_labels(dataset: Dataset, *, aus: tuple[int, ...]) -> np.ndarray:
    """Labels [N, n] of all stored faces, in stored order: 1, 0, or -1 for not labelled."""
    columns = [dataset.manifest.au.index(au) for au in aus]
    labels = [to_numpy(track.rows["au"]).reshape(len(track.rows), -1) for track in iterate_tracks(dataset)]
    return np.concatenate(labels)[:, columns]


def rate(probability: np.ndarray, *, au: np.ndarray, thresholds: np.ndarray) -> list[Rating]:
    """Compare probabilities [N, n] with labels [N, n], AU by AU."""
    ratings = []
    for number, threshold in enumerate(thresholds):
        rows = au[:, number] >= 0
        one, labels = probability[rows, number], au[rows, number]
        reliability = measure_reliability(one, labels)
        counts = count_confusions(probability=one[:, None], au=labels[:, None], threshold=float(threshold))
        ratings.append(Rating(reliability.bins.ece, reliability.log_loss, float(counts.f1[0])))
    return ratings


if __name__ == "__main__":
    main()
