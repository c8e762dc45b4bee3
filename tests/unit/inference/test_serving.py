"""What a service does without its cluster: settings, uploads, and batches of several requests."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from fastapi import HTTPException

from detectors import make_detector
from facscale.inference.detector import save_detector
from facscale.inference.onnx_export import DetectorGraph
from facscale.inference.predictor import FaceResult, FrameResult
from facscale.inference.serving import (
    Serving,
    ServingError,
    build_app,
    concatenate_batches,
    count_faces,
    hide_path,
    load_served_detector,
    receive_upload,
)
from facscale.inference.tables import AULayout
from facscale.inference.viewer import build_upload_page, describe_frame
from facscale.ingest.detectors.base import Box

TOKEN = "sixteen-letters-"


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("FACSCALE_SERVE_TOKEN", TOKEN)
    (tmp_path / "detector.safetensors").write_bytes(save_detector(make_detector()))
    return str(tmp_path / "detector.safetensors")


def test_settings_may_be_plain_values(model):
    app = build_app({"model": model, "max_megabytes": 1, "network_gpus": 0.5})
    assert app is not None
    with pytest.raises(ValueError, match="max_megabyte"):
        build_app({"model": model, "max_megabyte": 1})


@pytest.mark.parametrize("token", ["", "short"])
def test_no_service_without_a_token(model, monkeypatch, token):
    monkeypatch.setenv("FACSCALE_SERVE_TOKEN", token)
    with pytest.raises(ServingError, match="at least 16 characters"):
        build_app(Serving(model=model))


def test_settings_that_contradict_each_other(model):
    with pytest.raises(ServingError, match="max_fronts=1 is less than fronts=2"):
        build_app(Serving(model=model, fronts=2))


def test_crops_of_unknown_making_are_not_served(model, tmp_path):
    detector = make_detector()
    detector.preprocessing = detector.preprocessing.model_copy(update={"is_known": False})
    (tmp_path / "unknown.safetensors").write_bytes(save_detector(detector))
    with pytest.raises(ServingError, match="nobody recorded how they were made"):
        build_app(Serving(model=str(tmp_path / "unknown.safetensors")))


def test_a_name_that_means_another_detector_by_now_is_refused(model):
    with pytest.raises(ServingError, match="another detector than when it was deployed"):
        load_served_detector(Serving(model=model), "0" * 64)


@pytest.mark.parametrize("name", ["supervised", "rtatl", "aunet"])
def test_batches_of_several_requests_are_answered_as_alone(name):
    detector = make_detector(name)
    batches = []
    for count in (2, 1, 3):
        faces = torch.randint(0, 256, (count, 3, 77, 77), dtype=torch.uint8)
        batches.append(detector.make_batch(faces))
    joined = concatenate_batches(batches)
    assert (count_faces(batches), count_faces([joined])) == (6, 6)
    together = detector.estimate(joined).probability.split([2, 1, 3])
    for batch, probability in zip(batches, together, strict=True):
        assert torch.allclose(detector.estimate(batch).probability, probability, atol=1e-5)
    assert DetectorGraph(detector).view_name == "face"


def receive(path, chunks, *, limit):
    async def stream():
        for chunk in chunks:
            yield chunk

    asyncio.run(receive_upload(stream(), path, limit=limit))


def test_an_upload_is_stored_up_to_its_limit(tmp_path):
    receive(tmp_path / "a", [b"12", b"345"], limit=5)
    assert (tmp_path / "a").read_bytes() == b"12345"
    with pytest.raises(HTTPException, match="larger than") as refused:
        receive(tmp_path / "b", [b"12", b"345", b"6"], limit=5)
    assert refused.value.status_code == 413
    assert (tmp_path / "b").stat().st_size <= 5
    with pytest.raises(HTTPException, match="no body"):
        receive(tmp_path / "c", [], limit=5)


def test_messages_do_not_name_temporary_files():
    assert hide_path("/tmp/facscale-x1/upload: no video", "/tmp/facscale-x1") == "the upload: no video"


def test_what_is_unknown_of_a_face_is_null():
    nan = float("nan")
    face = FaceResult(
        3, nan, Box(0, 1, 2, 3), np.full(3, nan), np.full((68, 2), nan), np.array([0.25, 0.5]), np.array([1.234])
    )
    layout = AULayout((1, 12), np.array([0.5, 0.5]), (12,))
    (described,) = describe_frame(FrameResult(7, 0.28, (face,)), layout)["faces"]
    assert described == {
        "face": 3,
        "confidence": None,
        "box": [0, 1, 2, 3],
        "pose": {"pitch": None, "yaw": None, "roll": None},
        "landmarks": [],
        "probabilities": [0.25, 0.5],
        "present": ["AU12"],
        "intensities": {"AU12": 1.23},
    }


def test_the_page_needs_no_other_file():
    page = build_upload_page()
    assert "VIEWER_" not in page
    assert "showResult" in page
    assert "http" not in page.replace("http-equiv", "")
