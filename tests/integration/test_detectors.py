"""The detectors that evaluations leave: from a data set to the registry, and back as a file, a run, a model and a pyfunc."""

from __future__ import annotations

import json

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from faces import make_picture, write_face_data_set
from facscale.data import Dataset
from facscale.data.derivation import hash_identity
from facscale.inference.api import AUDetector
from facscale.inference.detector import DetectorError, load_detector_bytes, save_detector
from facscale.inference.sources import load_detector
from facscale.job.detectors import build_detector, log_detector, report_calibration
from facscale.job.plan import name_detector
from facscale.job.variants import build_variant
from facscale.spec import Document
from facscale.track import Tracker
from planned import PlannedJob

pytestmark = [
    pytest.mark.slow("it embeds a data set with Ray, and logs to an MLflow server", minutes=1),
    pytest.mark.usefixtures("ray_cluster"),
]
AUS = (1, 12)
RECIPE = {
    "version": 3,
    "detector": {"name": "none"},
    "crop": {"size": 32, "margin": 0.0, "eyes_y": 0.34, "eyes_distance": 0.28, "quality": 92},
    "licence": "for tests",
    "every": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "toy"
    write_face_data_set(str(folder), [12] * 6, au=AUS, name="Toy Faces", recipe=RECIPE)
    return str(folder)


def plan(data, storage, *, method, **evaluate):
    spec = {
        "method": {
            "name": method,
            "depth": 18,
            "width": 4,
            **({"intensities": True} if method == "supervised" else {}),
        },
        "data": {"labelled": [data], "image_size": 32, "unlabelled": [data]},
        "train": {"batch_size": 4, "epochs": 1},
        "cluster": {"workers": 1, "gpus_per_worker": 0, "cpus_per_worker": 1, "storage": str(storage)},
        "evaluate": {"folds": 3, "probe": {"epochs": 2, "batch_size": 8}, **evaluate},
    }
    return PlannedJob(build_variant(Document(spec, {}), name="row"))


def build(job):
    (node,) = job.evaluations
    trained = build_detector(node, job.exports, job.predict(), agreement={}, facts={"job": "toy"})
    return node, trained


@pytest.mark.parametrize(
    ("method", "kind", "members", "probes"),
    [
        ("simclr", "auto", 1, 1),
        ("simclr", "folds", 1, 3),
        ("supervised", "auto", 3, 0),
        ("supervised", "all", 1, 0),
    ],
)
def test_what_a_detector_learns_from_is_the_specs_choice(data, tmp_path, method, kind, members, probes):
    job = plan(data, tmp_path, method=method, detector=kind)
    node, trained = build(job)
    detector = trained.detector
    assert len(detector.members) == members
    assert detector.members[0].recipe.probes == probes
    assert detector.aus == AUS
    assert detector.intensity_aus == AUS
    trainings = {"simclr": 1, "supervised": 3 + (kind == "all")}[method]
    assert len(job.plan.trainings) == trainings
    assert (node.final != "") == (method == "supervised" and kind == "all")
    if node.final:
        assert job.people("row Toy Faces everybody") is None
    preprocessing = detector.preprocessing
    assert (preprocessing.crop.stored_size, preprocessing.image_size, preprocessing.fps) == (32, 32, 25.0)
    assert (preprocessing.detector.name, preprocessing.is_known) == ("none", True)
    card = detector.card
    assert card["people"] == sorted(hash_identity(f"id{number:05d}") for number in range(6))
    assert card["data"][0]["licence"] == "for tests"
    assert card["f1"].keys() == {"AU1", "AU12"}
    json.dumps(card, allow_nan=False)
    assert save_detector(load_detector_bytes(save_detector(detector))) == save_detector(detector)


def test_none_leaves_none(data, tmp_path):
    job = plan(data, tmp_path, method="supervised", detector="none")
    assert [node.detector_kind for node in job.evaluations] == ["none"]


def test_the_probability_of_a_stored_face_is_that_of_evaluation_calibrated(data, tmp_path):
    """One fold's probe on the folds' frames: the detector of `folds` and the evaluation differ in the averaging alone."""
    job = plan(data, tmp_path, method="simclr", detector="folds")
    _, trained = build(job)
    detector = trained.detector
    detector.members[0].probes = detector.members[0].probes[:1]  # the first fold's
    table = job.predict()["Toy Faces"]
    rows = table.fold == 0
    predicted = AUDetector(detector, device="cpu").predict(data)
    keys = dict(zip(zip(predicted["input"], predicted["frame"], strict=True), predicted.index, strict=True))
    places = [
        keys[f"{i}/{v}", f] for i, v, f in zip(table.identity[rows], table.video[rows], table.frame[rows], strict=True)
    ]
    for number, item in enumerate(trained.calibration.aus):
        p = np.clip(table.probability[rows, number].astype(float), 1e-12, 1 - 1e-12)
        expected = item.curve.apply(np.log(p / (1 - p)))
        assert predicted[f"AU{item.au:02d}"].to_numpy()[places] == pytest.approx(expected, abs=1e-3)


def test_a_detector_is_registered_once_and_is_read_from_everywhere(data, tmp_path, mlflow_server, monkeypatch):
    uri = mlflow_server.url
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    node, trained = build(plan(data, tmp_path, method="simclr"))
    name = name_detector(node)
    assert name == "facscale-Toy-Faces-simclr"
    for _ in range(2):  # a job that is submitted again
        tracker = Tracker(uri, "detectors", key="detectors-1", name="toy", spool=tmp_path / "spool")
        report = report_calibration(trained.calibration, title="Toy", about="toy", prefix="")
        tracker.log_metrics(report.metrics)
        for figure_name, figure in report.figures.items():
            tracker.log_figure(figure, figure_name)
        log_detector(trained, tracker, name=name, artifact="detector.safetensors", tags={"job": "toy"}, about="toy")
        assert tracker.close()
    api = MlflowClient(uri)
    (version,) = api.search_model_versions(f"name = '{name}'")
    aliases = api.get_registered_model(name).aliases
    assert str(aliases["best-Toy-Faces"]) == str(version.version)
    data_file = save_detector(trained.detector)
    for source in (
        f"models:/{name}@best-Toy-Faces",
        f"models:/{name}/{version.version}",
        f"models:/{name}",
        version.run_id,
    ):
        assert save_detector(load_detector(source)) == data_file
    with pytest.raises(DetectorError, match=f"nothing: .*it has .*{name}"):
        load_detector("models:/nothing")
    with pytest.raises(DetectorError, match="does not give"):
        load_detector(f"models:/{name}@nobody")
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"models:/{name}/{version.version}")
    image = make_picture(1, size=32)
    cv2.imwrite(str(tmp_path / "face.png"), image[..., ::-1])
    expected = AUDetector(trained.detector, device="cpu").predict(image)
    by_path = model.predict(pd.DataFrame({"path": [str(tmp_path / "face.png")]}))
    by_bytes = model.predict(pd.DataFrame({"image": [(tmp_path / "face.png").read_bytes()]}))
    for table in (by_path, by_bytes):
        assert table["AU12"].to_numpy() == pytest.approx(expected["AU12"].to_numpy(), abs=1e-5)
    assert model.metadata.get_input_schema().input_names() == ["path", "image"]
    requirements = mlflow.pyfunc.get_model_dependencies(f"models:/{name}/{version.version}")
    assert "facscale==" in open(requirements).read()  # noqa: PTH123, SIM115
    assert Dataset(data).manifest.counts["identities"] == 6
