"""`facscale export`."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from detectors import make_detector
from facscale.cli import main
from facscale.inference.detector import save_detector
from facscale.inference.sources import load_detector


@pytest.fixture
def facscale(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detector.safetensors").write_bytes(save_detector(make_detector(card={"name": "facscale-toy set-clp"})))
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


def test_a_file_is_named_after_the_detector(facscale, tmp_path):
    done = facscale("export", "detector.safetensors", "--to", "safetensors")
    assert done.exit_code == 0, done.output
    assert "facscale-toy-set-clp.safetensors: " in done.output
    assert "AU01 AU12 AU25" in done.output
    assert load_detector(tmp_path / "facscale-toy-set-clp.safetensors").aus == (1, 12, 25)


def test_a_folder_for_the_hub(facscale, tmp_path):
    done = facscale("export", "detector.safetensors", "--to", "hf", "--output", tmp_path / "hub")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "hub" / "README.md").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing.safetensors", "--to", "hf"), "there is no such file or folder"),
        (("detector.safetensors", "--to", "onnx", "--output", "model.pt"), "call it model.onnx"),
        (("detector.safetensors", "--to", "hf", "--output", "no/where"), "there is no folder"),
        (("detector.safetensors", "--to", "tflite"), "'tflite' is not one of"),
        (("detector.safetensors",), "Missing option '--to'"),
    ],
)
def test_what_cannot_be_exported_is_one_error(facscale, tmp_path, words, message):
    done = facscale("export", *words)
    assert done.exit_code == 2
    assert message in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["detector.safetensors"]
