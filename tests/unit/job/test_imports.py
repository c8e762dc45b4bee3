"""What a driver imports to judge a method: not torch's compiler, which takes 1.3 s and 80 MB (`compat.torch.without_compiler`)."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT

JUDGING = """
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from detectors import FACTS, make_detector
from facscale.evaluate.expression import fit_expression_probe
from facscale.evaluate.intensity import fit_intensity_probe
from facscale.evaluate.probe import fit_probes
from facscale.inference import detector, export
from facscale.methods import find_method
from facscale.spec.models import Probe
from tiny import get_tiny_options

config = find_method("simsiam").Config(**get_tiny_options(find_method("simsiam").Config))
saved = export.save_export(export.build_method("simsiam", config, FACTS))
random, probe = np.random.default_rng(0), Probe(epochs=20, batch_size=16)
features = random.normal(size=(64, 8)).astype(np.float32)
au, classes = random.integers(0, 2, (64, 3)).astype(np.int8), random.integers(0, 3, 64)
with ThreadPoolExecutor(4) as threads:  # as folds and rows of a job do
    for _ in range(3):
        done = [
            threads.submit(export.load_export, saved),
            threads.submit(fit_probes, features, au=au, rows={0: np.arange(64)}, probe=probe),
            threads.submit(fit_intensity_probe, features, intensity=au.astype(np.float32), probe=probe, seed=0),
            threads.submit(fit_expression_probe, features, expression=classes, classes=3, probe=probe, seed=0),
        ]
        for one in done:
            one.result()
detector.load_detector_bytes(detector.save_detector(make_detector("clp", probe=True)))
print(*sorted({"torch._dynamo", "sympy"} & sys.modules.keys()))
"""


def test_exports_are_loaded_and_probes_trained_without_torchs_compiler():
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("platform", "tests"))
    done = subprocess.run(
        [sys.executable, "-c", JUDGING], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
