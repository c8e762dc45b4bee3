"""Figures of disentanglement, on made-up features and movements of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facscale.evaluate.disentangle import compare_flow, measure_disentanglement, probe_embedding
from facscale.synthetic.ground_truth import KINDS, GroundTruth

PEOPLE, EACH, SIZE, PAIRS = 30, 20, 8, 5
random = np.random.default_rng(0)


@pytest.fixture(scope="module")
def known() -> GroundTruth:
    count = PEOPLE * EACH
    intensities = (random.random((count, 15)) < 0.3) * random.uniform(2, 5, (count, 15))
    return GroundTruth(
        images=random.integers(0, 255, (count, SIZE, SIZE, 3), dtype=np.uint8),
        identity=np.repeat(np.arange(PEOPLE), EACH),
        intensities=intensities.astype(np.float32),
        turn=random.normal(0, 0.2, (count, 2)).astype(np.float32),
        source=np.arange(PAIRS),
        target=np.arange(PAIRS) + 5,
        origin={kind: random.normal(size=(PAIRS, SIZE, SIZE, 2)).astype(np.float16) for kind in KINDS},
        valid={kind: random.random((PAIRS, SIZE, SIZE)) < 0.7 for kind in KINDS},
    )


def mixed(what, width=24):
    return what @ random.normal(size=(what.shape[1], width))


@pytest.mark.parametrize(("held", "au", "pose"), [("intensities", True, False), ("turn", False, True)])
def test_what_is_held_is_found_and_what_is_not_is_not(known, held, au, pose):
    features = mixed(getattr(known, held)).astype(np.float32)
    found = probe_embedding(features, intensities=known.intensities, turn=known.turn, identity=known.identity)
    assert (found["au_f1"] > 0.95) is au
    assert (found["pose_r2"] > 0.95) is pose
    assert au or found["au_f1"] < 0.55
    assert pose or found["pose_r2"] < 0.1


def test_agreement_by_hand():
    true = np.zeros((1, 2, 2, 2))
    true[0, 0, 0], true[0, 0, 1] = (3, 4), (0, 1)
    found = np.zeros_like(true)
    found[0, 0, 1] = (0, 2)
    valid = np.array([[[True, True], [False, False]]])
    # distances 5 and 1; found (0, 0, 0, 2) and true (3, 4, 0, 1), both about their means 0.5 and 2
    correlation = (-0.5 * 1 + -0.5 * 2 + -0.5 * -2 + 1.5 * -1) / np.sqrt(3 * 10)
    figures = compare_flow(found, true, valid=valid)
    assert figures == {"epe": pytest.approx(3.0), "correlation": pytest.approx(correlation)}
    assert compare_flow(np.zeros_like(true), true, valid=valid) == {"epe": pytest.approx(3.0)}


class Oracle(torch.nn.Module):
    """Knows the truth of the pairs, in the order in which they come."""

    def __init__(self, known):
        super().__init__()
        self.known, self.seen = known, 0

    def embed(self, images):
        return {"encoder": images.flatten(1)}

    def predict_motion(self, source, target):
        part = slice(self.seen, self.seen + len(source))
        self.seen += len(source)
        return {kind: torch.from_numpy(self.known.origin[kind][part]).permute(0, 3, 1, 2) for kind in KINDS}


def test_a_method_that_tells_the_truth_makes_no_error(known, monkeypatch):
    monkeypatch.setattr("facscale.evaluate.disentangle.BATCH", 2)
    found = measure_disentanglement(Oracle(known), known)
    for kind in KINDS:
        assert found[f"flow/{kind}/{kind}/epe"] == 0
        assert found[f"flow/{kind}/{kind}/correlation"] == pytest.approx(1)
        distances = np.linalg.norm(known.origin[kind].astype(float), axis=-1)[known.valid[kind]]
        assert found[f"flow/none/{kind}/epe"] == pytest.approx(distances.mean())
    assert abs(found["flow/au/pose/correlation"]) < 0.3
    assert {"encoder/au_f1", "encoder/pose_r2"} <= found.keys()
