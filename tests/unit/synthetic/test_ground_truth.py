"""Aligned faces with known ground truth: their motion fields are those that the images show."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from facscale.spec.pipelines import Crop
from facscale.synthetic.ground_truth import CLIPS, FRAMES, KINDS, GroundTruth, load_ground_truth

SIZE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("truth")


@pytest.fixture(scope="module")
def known(folder) -> GroundTruth:
    return load_ground_truth(people=1, size=SIZE, crop=Crop(size=500), cache=folder)


def test_shapes(known):
    frames, pairs = CLIPS * FRAMES, CLIPS * FRAMES // 4
    assert known.images.shape == (frames, SIZE, SIZE, 3)
    assert known.intensities.shape == (frames, 15)
    assert known.turn.shape == (frames, 2)
    assert all(known.origin[kind].shape == (pairs, SIZE, SIZE, 2) for kind in KINDS)
    assert known.target.tolist() == (known.source + FRAMES // 2).tolist()
    assert len(set(known.identity)) == 1


def test_sampling_the_source_at_the_origins_gives_the_target(known):
    """Up to light and wrinkles, which do not move."""
    rows, columns = np.indices((SIZE, SIZE)).astype(np.float32)
    still, moved = [], []
    for pair, (s, t) in enumerate(zip(known.source, known.target, strict=True)):
        source, target = (known.images[n].astype(np.float32) for n in (s, t))
        dx, dy = np.moveaxis(known.origin["all"][pair].astype(np.float32), -1, 0)
        rebuilt = cv2.remap(source, columns + dx, rows + dy, cv2.INTER_LINEAR)
        where = known.valid["all"][pair]
        still.append(np.abs(source - target)[where].mean())
        moved.append(np.abs(rebuilt - target)[where].mean())
    assert np.mean(moved) < 0.7 * np.mean(still)


def test_alone_the_face_and_the_head_move_as_they_do_together(known):
    """To first order, for small turns, and where all three are defined."""
    where = known.valid["au"] & known.valid["pose"] & known.valid["all"]
    au, pose, both = (known.origin[kind].astype(np.float64)[where] for kind in KINDS)
    assert np.linalg.norm(au + pose - both, axis=1).mean() < 0.35 * np.linalg.norm(both, axis=1).mean()
    assert np.linalg.norm(au, axis=1).mean() > 0.1
    assert np.linalg.norm(pose, axis=1).mean() > 0.1


def test_faces_are_rendered_once(known, folder, monkeypatch):
    monkeypatch.setattr("facscale.synthetic.ground_truth._render_people", lambda *_: pytest.fail("rendered again"))
    again = load_ground_truth(people=1, size=SIZE, crop=Crop(size=96), cache=folder)
    assert (again.images == known.images).all()
    assert all((again.valid[kind] == known.valid[kind]).all() for kind in KINDS)
