"""Every family of methods, as other programs run it: onnxruntime, and torch without our code."""

from __future__ import annotations

import io

import pytest
import torch

from detectors import make_detector
from facscale import methods
from facscale.inference import onnx_export
from facscale.inference.onnx_export import DetectorGraph, export_onnx, export_program
from tiny import get_tiny_options

pytestmark = pytest.mark.slow("converts the network of every method", minutes=2.5)


def list_families():
    """Every method that has a head of its own, and every encoder with a probe on it, once where methods share it."""
    seen = set()
    for name in methods.list_methods():
        if not name.startswith("tiny-"):  # plug-ins of other tests
            kind = methods.find_method(name)
            config = kind.Config(**get_tiny_options(kind.Config))
            if kind.has_image_encoder and (network := repr(make_detector(name, probe=True).members)) not in seen:
                seen.add(network)
                yield pytest.param(name, {}, True, id=f"{name} probed")
            if (
                kind.has_image_encoder
                and kind.learns_from_labels(config)
                and kind.predict is not methods.Method.predict
            ):
                yield pytest.param(name, {}, False, id=name)
    yield pytest.param("aunet", {"interval": 0}, False, id="aunet of single frames")
    yield pytest.param("rtatl", {"relation": "graph"}, False, id="rtatl with a graph")


@pytest.mark.parametrize(("name", "options", "probe"), list_families())
def test_onnxruntime_gives_torchs_probabilities(name, options, probe, monkeypatch):
    detector = make_detector(name, options=options, probe=probe)
    differences = []
    check = onnx_export._check_parity

    def measure(graph, run, *, kind):
        check(graph, run, kind=kind)
        inputs = graph.make_inputs(count=5, seed=7)
        differences.append(abs(graph(*inputs)[0].numpy() - run(inputs)[0]).max())

    monkeypatch.setattr(onnx_export, "_check_parity", measure)
    export_onnx(detector)
    assert differences[0] <= 1e-4


@pytest.mark.parametrize(("name", "probe"), [("supervised", False), ("clp", True), ("aunet", False)])
def test_a_program_of_torch_runs_without_our_code(name, probe):
    detector = make_detector(name, probe=probe)
    files = {"facscale.json": ""}
    program = torch.export.load(io.BytesIO(export_program(detector)), extra_files=files)
    assert '"AU12' in files["facscale.json"].replace("\\", "")
    graph = DetectorGraph(detector)
    for count in (1, 5):
        inputs = graph.make_inputs(count=count)
        assert torch.allclose(program.module()(*inputs)[0], graph(*inputs)[0], atol=1e-4)
