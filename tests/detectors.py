"""Small untrained detectors of each family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from facscale import methods
from facscale.inference import export
from facscale.inference.detector import Detector, Preprocessing, ProbedMember, SupervisedMember
from facscale.methods import DataFacts
from facscale.nn.calibration import Calibration
from facscale.nn.heads import LinearProbe
from facscale.spec.pipelines import Crop
from tiny import get_tiny_options

AUS = (1, 12, 25)
FACTS = DataFacts(
    aus=AUS,
    label_weights=((0.6, 0.7, 0.8), (2.0, 3.0, 4.0)),
    au_weights=(0.5, 1.5, 1.0),
    sets=(AUS,),
    identities=6,
    image_size=32,
)
PREPROCESSING = Preprocessing(crop=Crop(size=64, margin=0.1), image_size=32, eval_crop=0.9)


def make_detector(
    name: str = "supervised",
    *,
    options: Mapping[str, Any] | None = None,
    probe: bool = False,
    intensities: bool = False,
    members: int = 1,
    **settings: Any,
) -> Detector:
    """Build an untrained detector whose probabilities differ between faces and AUs.

    probe: linear probes on the encoder, instead of the method's own head.
    """
    kind = methods.find_method(name)
    built = []
    for number in range(members):
        torch.manual_seed(number)
        method = export.build_method(name, kind.Config(**{**get_tiny_options(kind.Config), **(options or {})}), FACTS)
        if probe:
            dim = method.encoder.dim
            probes = [LinearProbe(dim=dim, aus=len(AUS))]
            intensity_probes = [LinearProbe(dim=dim, aus=len(AUS))] if intensities else []
            built.append(ProbedMember(method, probes, intensity_probes))
        else:
            built.append(SupervisedMember(method))
    calibration = Calibration(aus=len(AUS), knots=3)
    calibration.scale.copy_(torch.tensor([0.5, 1.0, 2.0]))
    calibration.is_isotonic[2] = True
    calibration.knots[2] = torch.tensor([-1.0, 0.0, 1.0])
    calibration.values[2] = torch.tensor([0.1, 0.3, 0.9])
    return Detector(
        built,
        aus=AUS,
        preprocessing=PREPROCESSING,
        thresholds=torch.tensor([0.3, 0.5, 0.7]),
        calibration=calibration,
        intensity_aus=(1, 12) if intensities else (),
        **settings,
    ).requires_grad_(False)


def write_video(path: Path, frames: np.ndarray, *, fps: int) -> Path:
    """Write frames [T, H, W, 3] uint8 as an H.264 video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
