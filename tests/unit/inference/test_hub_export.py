"""A detector as a folder for the Hugging Face Hub."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from detectors import make_detector
from facscale.data import align
from facscale.inference.hub_export import describe_preprocessing, render_model_card, write_hub_folder
from facscale.inference.onnx_export import ExportError
from facscale.inference.sources import load_detector
from facscale.spec.pipelines import Crop

INTERVAL = {"value": 0.61, "low": 0.52, "high": 0.7}
CARD = {
    "name": "facscale-bp4d-clp",
    "method": "clp",
    "learned": "all labelled people",
    "data": [
        {"name": "bp4d", "people": 41, "frames": 146_847, "licence": "CC BY-NC 4.0", "consent": "research | teaching"}
    ],
    "people": ["0" * 64, "1" * 64],
    "f1": {"AU1": INTERVAL, "AU12": {"value": None, "low": None, "high": None}},
    "mean_f1": INTERVAL,
    "f1_about": "cross-validated over people.",
    "calibration": {"AU1": {"ece_before": 0.12, "ece_after": 0.03}},
    "intended_use": "Research with people who agree.",
    "versions": {"torch": "2.14.1"},
}


def test_a_folder_is_read_back_as_the_same_detector(tmp_path):
    detector = make_detector(probe=True, intensities=True, card=CARD)
    write_hub_folder(detector, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    faces = torch.randint(0, 256, (2, 3, 77, 77), dtype=torch.uint8)
    assert torch.equal(load_detector(tmp_path / "model")(faces), detector(faces))
    assert load_file(tmp_path / "model" / "model.safetensors")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "AU01", "1": "AU12", "2": "AU25"}
    assert config["thresholds"] == pytest.approx({"AU01": 0.3, "AU12": 0.5, "AU25": 0.7})
    assert config["intensities"] == ["AU01", "AU12"]


def test_the_card_says_what_the_detector_is_and_is_not():
    text = render_model_card(make_detector(card=CARD))
    metadata = ModelCard(text, ignore_metadata_errors=False).data
    assert metadata.license == "cc-by-nc-4.0"
    assert metadata.eval_results[0].metric_value == 0.61
    assert "| AU01 inner brow raiser | 0.610 (0.520 to 0.700) | 0.300 | 0.120 | 0.030 |" in text
    assert "| AU12 lip corner puller | not known | 0.500 | - | - |" in text
    assert "| bp4d | 41 | 146,847 | CC BY-NC 4.0 | research \\| teaching |" in text
    for sentence in (
        "Research with people who agree.",
        "It learned from these people: all labelled people.",
        "2 people",
    ):
        assert sentence in text


def test_a_card_without_facts_claims_nothing():
    text = render_model_card(make_detector())
    assert ModelCard(text, ignore_metadata_errors=False).data.license == "other"
    assert "not known" in text
    assert "not stated" in text


@pytest.mark.parametrize("licences", [("MIT", "Apache-2.0"), ("not stated",), ("MIT", "not stated")])
def test_a_licence_is_only_claimed_where_all_data_have_it(licences):
    data = [{**CARD["data"][0], "licence": licence} for licence in licences]
    text = render_model_card(make_detector(card=CARD | {"data": data}))
    assert ModelCard(text).data.license == "other"


def test_eyes_are_where_faces_are_aligned_to():
    detector = make_detector()
    crop = detector.preprocessing.crop
    eyes = describe_preprocessing(detector)["eyes"]
    centres = np.array([[50.0, 60], [90, 70]])
    moved = align.transform_points(centres, align.fit_similarity(centres, crop))
    # pixel centres are at whole numbers in `align`, and half a pixel further where sides are shares
    assert np.abs(moved - np.array([eyes["left"], eyes["right"]])).max() <= 0.5 + 1e-3
    assert isinstance(crop, Crop)


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "anna.jpg").write_bytes(b"x")
    with pytest.raises(ExportError, match="is no earlier export"):
        write_hub_folder(make_detector(), tmp_path / "photos")
    assert (tmp_path / "photos" / "anna.jpg").exists()
    write_hub_folder(make_detector(card=CARD), tmp_path / "model")
    write_hub_folder(make_detector(card=CARD | {"name": "newer"}), tmp_path / "model")
    assert "# newer" in (tmp_path / "model" / "README.md").read_text()
