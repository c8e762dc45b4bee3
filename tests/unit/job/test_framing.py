"""How much of a face training samples show, against pixels that are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from facscale.data import augment
from facscale.job.framing import SAMPLES, measure_eval_framing, measure_framing
from facscale.spec.models import Augment
from facscale.spec.pipelines import Crop

SIDE = 100
STILL = {"rotation": 0, "flip": 0, "brightness": 0, "contrast": 0, "saturation": 0}


def face(*, brow=0.2, chin=0.9, margin=0.0, crop=None):
    """Landmarks [1, 136] of a face whose eyes lie where a pipeline puts them; brows and chin at these heights."""
    crop, points = crop or Crop(), np.full((68, 2), 0.5)
    points[36:42] = 0.5 - crop.eyes_distance / 2, crop.eyes_y
    points[42:48] = 0.5 + crop.eyes_distance / 2, crop.eyes_y
    points[17:27, 1], points[7:10, 1] = brow, chin
    stored = SIDE * (1 + 2 * margin)
    return ((points + margin) * SIDE - 0.5).astype(np.float32).reshape(1, 136), {
        "stored": round(stored),
        "margin": margin,
    }


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_the_shares_are_those_of_the_crops_that_reach_so_far(margin):
    """A crop of side s shows the brow where its upper edge lies above it, likewise the chin: counted edge by edge."""
    points, options = face(margin=margin)
    spec = Augment(**STILL, crop=(0.6, 1.0))
    many = np.repeat(points, 500, 0)
    framing = measure_framing(many, spec, **options)
    drawn = augment.sample_params(spec, shape=(500, SAMPLES), random=np.random.default_rng(0)).astype(float)
    top = 0.5 + drawn[..., 9] - drawn[..., 7] / 2
    assert framing.brows == pytest.approx((top > 0.2).mean(), abs=1e-3)
    assert framing.chin == pytest.approx((top + drawn[..., 7] < 0.9).mean(), abs=1e-3)
    assert framing.brows > 0.1
    assert framing.eye_distance == pytest.approx(np.exp(np.log(0.28 / drawn[..., 6]).mean()), rel=1e-4)


def test_evaluation_shows_one_crop():
    points, options = face(margin=0.3, brow=-0.02)
    spec = Augment(**STILL, crop=(0.9, 1.4), eval_crop=1.09)
    framing = measure_eval_framing(points, spec, **options)
    assert (framing.brows, framing.chin) == (0, 0)  # the crop begins at -0.045
    assert framing.eye_distance == pytest.approx(0.28 / 1.09)
    assert measure_eval_framing(points, spec.model_copy(update={"eval_crop": 1.0}), **options).brows == 1


def test_a_point_is_outside_where_its_pixel_is_not_in_the_image():
    """The same by pixels: a bright dot at the chin is seen or not."""
    points, options = face(chin=0.86)
    spec = Augment(**STILL, crop=(0.6, 0.9))
    image = np.zeros((40, SIDE, SIDE, 3), np.uint8)
    column, row = points.reshape(68, 2)[8].round().astype(int)
    image[:, row, column] = 255
    drawn = augment.sample_params(spec, shape=(40, SAMPLES), random=np.random.default_rng(0))
    seen = augment.apply(torch.from_numpy(image), torch.from_numpy(drawn), size=200).amax((2, 3, 4)) > 0.5
    framing = measure_framing(np.repeat(points, 40, 0), spec, **options)
    assert framing.chin == pytest.approx(1 - seen.double().mean().item(), abs=0.03)
    assert 0.05 < framing.chin < 0.5
