"""The page on which AUs are seen beside the photo or video that they were read from: its script, styles and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from facscale.inference.predictor import FrameResult
from facscale.inference.tables import AULayout


def read_asset(name: str) -> str:
    """Read a file of this folder, such as "viewer.js"."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def build_upload_page() -> str:
    """Build the page on which a file is dropped, with its script and styles inside."""
    page = read_asset("upload.html")
    return page.replace("VIEWER_CSS", read_asset("viewer.css")).replace("VIEWER_JS", read_asset("viewer.js"))


def describe_frame(result: FrameResult, layout: AULayout) -> dict[str, Any]:
    """Describe a frame in plain values, as `viewer.js` reads it; numbers are rounded."""
    return {
        "frame": result.number,
        "timestamp": round(result.time_s, 4),
        "faces": [
            {
                "face": face.face,
                "confidence": _round(face.confidence),
                "box": [_round(value, 1) for value in face.box],
                "pose": dict(zip(("pitch", "yaw", "roll"), (_round(value, 1) for value in face.pose), strict=True)),
                "landmarks": [] if not _is_known(face.points[0, 0]) else face.points.astype(float).round(1).tolist(),
                "probabilities": [_round(value) for value in face.probability],
                "present": [
                    f"AU{au:02d}"
                    for au, decision in zip(layout.aus, layout.decide(face.probability), strict=True)
                    if decision
                ],
                "intensities": _describe_intensities(face.intensity, layout),
            }
            for face in result.faces
        ],
    }


def _describe_intensities(intensity: Any, layout: AULayout) -> Mapping[str, float | None]:
    if intensity is None:
        return {}
    return {f"AU{au:02d}": _round(value, 2) for au, value in zip(layout.intensity_aus, intensity, strict=True)}


def _is_known(value: float) -> bool:
    return math.isfinite(value)


def _round(value: float, digits: int = 4) -> float | None:
    return round(float(value), digits) if _is_known(value) else None
