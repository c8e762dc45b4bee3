"""Mean lengths of movements."""

from __future__ import annotations

import pytest
import torch

from facscale.data.views import Batch, Faces
from facscale.evaluate.motion import measure_motion


class Shift(torch.nn.Module):
    """Moves everything by (3, 4) pixels times what the target's first value is; its other movement is none."""

    def predict_motion(self, source, target):
        moved = torch.tensor([3.0, 4.0])[:, None, None].expand(len(source), 2, 11, 11)
        return {"all": moved * target[:, :1, :1, :1], "none": torch.zeros_like(moved)}


def batches(sizes):
    value = 0.0
    for size in sizes:
        images = torch.zeros(size, 2, 1, 3, 11, 11)
        for sample in images:
            sample[1] = (value := value + 1)
        yield Batch(
            {"pair": Faces(images=images, identity=torch.zeros(size), augmentation=torch.zeros(size), columns={})}
        )


def test_an_image_is_2_long():
    found = measure_motion(Shift(), batches([2, 2, 2]), pairs=3)
    # 5 pixels of 10 are half of an image: 1
    assert found["all"] == pytest.approx([1.0, 2.0, 3.0])
    assert found["none"] == pytest.approx([0.0, 0.0, 0.0])
