"""A tiny detector of AUs for faces that are red rectangles (`plugins.blob_faces`), for tests of what surrounds a detector."""

from __future__ import annotations

import torch

from facscale.inference import export
from facscale.inference.detector import Detector, Member, MemberOutput, Preprocessing, ProbedMember, save_detector
from facscale.methods import DataFacts, find_method
from facscale.nn.heads import LinearProbe

AUS = (1, 6, 12)
PREPROCESSING = Preprocessing.model_validate(
    {
        "detector": {"name": "blob"},
        "crop": {"size": 48, "eyes_y": 0.38, "eyes_distance": 0.38},
        "image_size": 32,
        "eval_crop": 0.9,
        "fps": 25.0,
    }
)


def make_detector(**preprocessing):
    """An untrained encoder with a probe, and one for the intensities of AU12."""
    config = find_method("simclr").Config.model_validate({"depth": 18, "width": 4})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = export.build_method("simclr", config, DataFacts(image_size=32)).eval()
        probes = [LinearProbe(dim=method.encoder.dim, aus=len(AUS)) for _ in range(2)]
    member = ProbedMember(method, probes[:1], probes[1:])
    return Detector(
        [member],
        aus=AUS,
        preprocessing=PREPROCESSING.model_copy(update=preprocessing),
        thresholds=torch.tensor([0.45, 0.5, 0.55]),
        intensity_aus=(12,),
        card={"name": "facscale-toy-simclr"},
    )


def write_detector(path, **preprocessing):
    """The file of `make_detector`."""
    path.write_bytes(save_detector(make_detector(**preprocessing)))
    return path


class Echo(Member):
    """A network whose logits are the mean brightness of each frame of its samples, one "AU" for each."""

    has_intensities = False

    def __init__(self, view):
        super().__init__()
        self.views = {"face": view}

    def forward(self, batch):
        return MemberOutput(batch.face.images[:, :, 0].mean((2, 3, 4)), None)
