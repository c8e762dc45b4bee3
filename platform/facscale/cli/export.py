"""`facscale export`: writes a detector in the format of other programs."""

from __future__ import annotations

import re
from pathlib import Path

from facscale.files import is_disk_full, write_atomically
from facscale.inference.detector import Detector, save_detector
from facscale.inference.hub_export import write_hub_folder
from facscale.inference.onnx_export import ExportError, export_onnx, export_program
from facscale.inference.sources import load_detector

SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors", "pt2": ".pt2", "hf": ""}
CONVERTERS = {"onnx": export_onnx, "safetensors": save_detector, "pt2": export_program}


def export_detector(source: str, *, target: str, output: Path | None, tracker: str) -> None:
    """Convert the detector at `source` to the format `target` (a key of SUFFIXES), and say what was written.

    Raises ExportError, DetectorError and DataError.
    """
    path = check_output(output, target=target) if output else None
    detector = load_detector(source, tracker=tracker)
    path = path or check_output(Path(name_output(detector) + SUFFIXES[target]), target=target)
    try:
        if target == "hf":
            write_hub_folder(detector, path)
        else:
            write_atomically(path, CONVERTERS[target](detector))
    except OSError as error:
        advice = "free space there" if is_disk_full(error) else "choose another place with --output"
        raise ExportError(f"{path} cannot be written: {error.strerror or error}; {advice}") from None
    aus = " ".join(f"AU{au:02d}" for au in detector.aus)
    print(f"{path}: {describe_size(path)}, {aus}")
    if target in ("onnx", "pt2"):
        side = detector.preprocessing.crop.stored_size
        print(
            f"compared with torch: no probability differs by more than 0.0001. Its input are RGB crops of {side} pixels"
        )


def check_output(path: Path, *, target: str) -> Path:
    """Return the absolute path of an output. Raises ExportError for one that cannot be written."""
    path, suffix = path.expanduser().absolute(), SUFFIXES[target]
    if suffix and path.suffix.lower() != suffix:
        raise ExportError(f"--output {path.name}: --to {target} writes a file; call it {path.with_suffix(suffix).name}")
    if not path.parent.is_dir():
        raise ExportError(f"--output {path}: there is no folder {path.parent}; make it first")
    if suffix and path.is_dir():
        raise ExportError(f"--output {path}: this is a folder; name a file in it")
    return path


def name_output(detector: Detector) -> str:
    """The name of an output, without its suffix, after the detector's own name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(detector.card.get("name") or "detector")).strip("-.") or "detector"


def describe_size(path: Path) -> str:
    """The size of a file, or of the files in a folder, in MB."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
