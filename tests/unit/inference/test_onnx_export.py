"""What a graph for other programs computes, before any converter sees it; and one conversion."""

from __future__ import annotations

import json

import onnx
import onnxruntime
import pytest
import torch

from detectors import AUS, make_detector
from facscale.data import augment
from facscale.data.views import Batch, Faces
from facscale.inference import onnx_export
from facscale.inference.onnx_export import DetectorGraph, ExportError, export_onnx


def test_the_graph_of_single_faces_is_the_detector():
    detector = make_detector(members=2)
    graph = DetectorGraph(detector)
    faces, *others = graph.make_inputs(count=4)
    assert not others
    assert torch.equal(graph(faces)[0], detector(faces))


def estimate_by_augmentation(detector, faces, landmarks):
    """What the detector says of samples that were cropped as in evaluation."""
    preprocessing, view = detector.preprocessing, detector.views["face"]
    parameters = torch.from_numpy(augment.eval_params(preprocessing.make_augment(), margin=preprocessing.crop.margin))
    sample = Faces(
        images=faces.reshape(len(faces), view.count, *faces.shape[-3:]).permute(0, 1, 3, 4, 2).contiguous(),
        identity=torch.zeros(len(faces), dtype=torch.int64),
        augmentation=parameters.expand(len(faces), view.count, 1, -1),
        columns={} if landmarks is None else {"landmarks": landmarks.reshape(len(faces), view.count, 136)},
        is_aligned=view.is_aligned,
    )
    return detector.estimate(augment.Augmenter(size=preprocessing.image_size)(Batch(face=sample)))


@pytest.mark.parametrize(
    ("name", "options", "frames"),
    [
        ("supervised", {}, 1),
        ("rtatl", {}, 1),
        ("aunet", {"interval": 2}, 3),
        ("aunet", {"interval": 2, "align": False}, 3),
        ("aunet", {"interval": 0}, 1),
    ],
)
def test_the_graph_prepares_samples_as_evaluation_does(name, options, frames):
    detector = make_detector(name, options=options)
    graph = DetectorGraph(detector)
    inputs = graph.make_inputs(count=3)
    assert graph.frames == frames
    assert len(inputs) == 1 + detector.needs_landmarks
    expected = estimate_by_augmentation(detector, *inputs, *[None] * (2 - len(inputs)))
    assert torch.allclose(graph(*inputs)[0], expected.probability, atol=1e-5)


def test_an_onnx_file_has_all_that_its_reader_needs():
    detector = make_detector(probe=True, intensities=True, card={"method": "supervised"})
    data = export_onnx(detector)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["aus"]) == ["AU01", "AU12", "AU25"]
    assert json.loads(facts["thresholds"]) == pytest.approx([0.3, 0.5, 0.7])
    assert json.loads(facts["preprocessing"])["crop"]["size"] == 64
    assert json.loads(facts["card"]) == {"method": "supervised"}
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()] == [
        ("faces", "tensor(uint8)", [3, 77, 77])
    ]
    assert [each.name for each in session.get_outputs()] == ["probabilities", "intensities"]
    for count in (1, 7):  # the batch is dynamic
        (faces,) = DetectorGraph(detector).make_inputs(count=count, seed=9)
        probability, intensity = session.run(None, {"faces": faces.numpy()})
        assert probability == pytest.approx(detector(faces).numpy(), abs=1e-4)
        assert intensity.shape == (count, 2)
        assert intensity.min() >= 0
        assert len(AUS) == probability.shape[1]


def test_what_gives_other_numbers_is_not_written(monkeypatch):
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="differ from torch's by .* nothing is written"):
        export_onnx(make_detector())


def test_what_a_graph_cannot_do_is_said():
    detector = make_detector()
    detector.views = {"face": detector.views["face"], "clip": detector.views["face"]}
    with pytest.raises(ExportError, match="reads 2 kinds of samples"):
        export_onnx(detector)
