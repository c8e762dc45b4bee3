"""Our ResNets beside torchvision's own, which the lock has in the release that fits its torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facscale.nn import ResNet
from facscale.nn.resnet import IMAGENET_MEAN, IMAGENET_STD

models = pytest.importorskip("torchvision.models", reason="a .venv that was made with TORCH=…+cpu has no torchvision")


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_torchvisions_weights_give_torchvisions_features(depth):
    torch.manual_seed(depth)
    reference = getattr(models, f"resnet{depth}")(weights=None)
    images = torch.rand(4, 3, 96, 96)
    normalised = (images - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        reference(normalised)  # in training mode: statistics of BatchNorm that are not those of a new network
    reference.fc = nn.Identity()
    encoder = ResNet(depth)
    encoder.load_state_dict(reference.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(images), reference.eval()(normalised))
