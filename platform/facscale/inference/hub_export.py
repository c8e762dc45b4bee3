"""Detectors as folders in the layout of the Hugging Face Hub: configuration, weights, preprocessing and a model card.

Nothing is uploaded. `model.safetensors` is a detector's own file, so that facscale reads such a folder as it is.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facscale import __version__
from facscale.files import write_atomically
from facscale.inference.detector import Detector, save_detector
from facscale.inference.onnx_export import INSTALL, ExportError

CONFIG = "config.json"
MODEL_TYPE = "facscale-detector"
AU_NAMES = {  # Ekman, Friesen and Hager, Facial Action Coding System, 2002
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    11: "nasolabial deepener",
    12: "lip corner puller",
    13: "sharp lip puller",
    14: "dimpler",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    18: "lip pucker",
    20: "lip stretcher",
    22: "lip funneler",
    23: "lip tightener",
    24: "lip pressor",
    25: "lips part",
    26: "jaw drop",
    27: "mouth stretch",
    28: "lip suck",
    43: "eyes closed",
}
LICENCES = {  # as users write them, in small letters -> the Hub's identifier
    "apache-2.0": "apache-2.0",
    "apache 2.0": "apache-2.0",
    "mit": "mit",
    "cc by 4.0": "cc-by-4.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc by-nc 4.0": "cc-by-nc-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc0": "cc0-1.0",
    "cc0-1.0": "cc0-1.0",
}
USE = """```sh
pip install facscale
facscale predict THIS_FOLDER talk.mp4   # a table: each frame, each face, each AU
facscale serve THIS_FOLDER              # the same over HTTP, with a page
```

facscale finds, aligns and crops faces as for the data that this detector learned from (`preprocessor_config.json`). Other
programs have to do the same; for them, `facscale export THIS_FOLDER --to onnx` writes a graph."""
LIMITS = (
    (
        "Scores hold for people and recordings like those of the data above. On other cameras, light, head poses, ages or "
        "skin colours they can be much worse, and nothing in the output says so: measure them on labelled frames of your own."
    ),
    "A probability is calibrated for the share of each AU in that data. Where an AU is rarer or more frequent, it is not.",
    "Action units are movements of the face. They do not tell what somebody feels or thinks.",
)


def write_hub_folder(detector: Detector, folder: Path) -> None:
    """Write a folder that appears complete or not at all. Raises ExportError where there is something else already."""
    if folder.exists() and not _is_ours(folder):
        raise ExportError(f"{folder} exists and is no earlier export; name another folder with --output")
    card = render_model_card(detector)
    _check_model_card(card)
    texts = {
        CONFIG: _to_json(describe_config(detector)),
        "preprocessor_config.json": _to_json(describe_preprocessing(detector)),
        "README.md": card,
    }
    files = {name: text.encode() for name, text in texts.items()} | {"model.safetensors": save_detector(detector)}
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    replaced = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.replaced")
    try:
        partial.mkdir()
        for name, data in files.items():
            write_atomically(partial / name, data)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    except BaseException:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def describe_config(detector: Detector) -> dict[str, Any]:
    """The content of config.json: what the outputs are, in their order."""
    labels = [f"AU{au:02d}" for au in detector.aus]
    return {
        "model_type": MODEL_TYPE,
        "library_name": "facscale",
        "facscale_version": __version__,
        "architectures": sorted({member.recipe.method.method for member in detector.members}),  # type: ignore[union-attr]
        "problem_type": "multi_label_classification",
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "thresholds": dict(zip(labels, _round(detector.thresholds.tolist()), strict=True)),
        "intensities": [f"AU{au:02d}" for au in detector.intensity_aus],
        "frames_per_sample": detector.frames_per_sample,
        "image_size": detector.preprocessing.crop.stored_size,
        "card": detector.card,
    }


def describe_preprocessing(detector: Detector) -> dict[str, Any]:
    """The content of preprocessor_config.json: from a photo to the input, in words that other libraries use, and in ours.

    Resizing, cropping and scaling happen in the model, which takes the stored crop.
    """
    preprocessing = detector.preprocessing
    side, crop = preprocessing.crop.stored_size, preprocessing.crop
    left, right = ((0.5 - crop.eyes_distance / 2), (0.5 + crop.eyes_distance / 2))
    scale, margin = crop.size, crop.margin
    return {
        "image_processor_type": "facscale",
        "size": {"height": side, "width": side},
        "do_resize": False,
        "do_rescale": False,
        "do_normalize": False,
        "do_convert_rgb": True,
        "eyes": {  # the centres of both eyes in the crop, in pixels, as seen in the picture
            "left": _round([(left + margin) * scale, (crop.eyes_y + margin) * scale]),
            "right": _round([(right + margin) * scale, (crop.eyes_y + margin) * scale]),
        },
        "facscale": preprocessing.model_dump(mode="json"),
    }


def render_model_card(detector: Detector) -> str:
    """The model card: Markdown with the Hub's metadata in front. What the detector's card lacks is said to be unknown."""
    card = detector.card
    name = str(card.get("name") or "facscale detector")
    parts = [
        _render_metadata(detector, name=name),
        f"# {name}",
        _render_summary(detector),
        "## Use",
        USE,
        "## Intended use",
        str(card.get("intended_use") or "Not stated."),
        "## Limits",
        "\n".join(f"- {limit}" for limit in LIMITS),
        "## Data",
        _render_data(card),
        "## How well it does",
        _render_scores(detector),
        "## Licence",
        _render_licence(card),
        "## Made with",
        _render_table(
            ["", ""], sorted((str(key), str(value)) for key, value in dict(card.get("versions", {})).items())
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _render_summary(detector: Detector) -> str:
    rated = ", and intensities from 0 to 5" if detector.intensity_aus else ""
    return (
        f"Detects {len(detector.aus)} facial action units (FACS) in aligned faces: calibrated probabilities and "
        f"decisions{rated}. Made with facscale {__version__}; method `{detector.card.get('method', 'unknown')}`."
    )


def _render_metadata(detector: Detector, *, name: str) -> str:
    """The YAML in front of a model card."""
    from ruamel.yaml import YAML
    from ruamel.yaml.compat import StringIO

    card = detector.card
    licence = _choose_licence(card)
    metadata: dict[str, Any] = {
        "library_name": "facscale",
        "pipeline_tag": "image-classification",
        "tags": ["facial-action-units", "facs", "facial-expression-recognition", str(card.get("method", "unknown"))],
        "license": licence,
    }
    if licence == "other":
        metadata |= {"license_name": "see-the-data", "license_link": "README.md"}
    mean = (card.get("mean_f1") or {}).get("value")
    data = [str(entry.get("name")) for entry in card.get("data", [])]
    if mean is not None and data:
        title = ", ".join(data)
        metadata["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Facial action unit detection"},
                        "dataset": {"name": title, "type": re.sub(r"[^a-z0-9_-]+", "-", title.lower())},
                        "metrics": [{"type": "f1", "name": "F1, mean over AUs", "value": round(float(mean), 4)}],
                    }
                ],
            }
        ]
    file = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(metadata, file)
    return f"---\n{file.getvalue()}---"


def _render_data(card: Mapping[str, Any]) -> str:
    rows = [
        (entry["name"], f"{entry['people']:,}", f"{entry['frames']:,}", entry["licence"], entry["consent"])
        for entry in card.get("data", [])
    ]
    if not rows:
        return "Not stated."
    table = _render_table(["data set", "people", "labelled frames", "licence", "consent"], rows)
    learned = f"It learned from these people: {card['learned']}." if card.get("learned") else ""
    people = len(card.get("people", []))
    hashes = (
        f"`config.json` has hashes of the {people} people that it has seen, by which `facscale data forget` finds it."
        if people
        else ""
    )
    return "\n\n".join(part for part in (table, learned, hashes) if part)


def _render_scores(detector: Detector) -> str:
    card, thresholds = detector.card, detector.thresholds.tolist()
    rows = []
    for au, threshold in zip(detector.aus, thresholds, strict=True):
        key = f"AU{au}"
        calibration = card.get("calibration", {}).get(key, {})
        rows.append(
            (
                f"AU{au:02d} {AU_NAMES.get(au, '')}".strip(),
                _format_interval(card.get("f1", {}).get(key)),
                f"{threshold:.3f}",
                _format(calibration.get("ece_before")),
                _format(calibration.get("ece_after")),
            )
        )
    rows.append(("mean", _format_interval(card.get("mean_f1")), "", "", ""))
    headings = ["AU", "F1 (95 % interval)", "threshold", "ECE before", "ECE after calibration"]
    about = str(card.get("f1_about") or "Its F1 is not known.")
    return f"{_render_table(headings, rows)}\n\nF1: {about} ECE: expected calibration error."


def _render_licence(card: Mapping[str, Any]) -> str:
    entries = card.get("data", [])
    stated = "; ".join(f"{entry['name']}: {entry['licence']}" for entry in entries) or "not stated"
    return (
        f"The weights are derived from data, whose licences bind what may be done with them: {stated}. The code is under the "
        "Apache License 2.0. A licence that is not stated here permits nothing: ask whoever made this model."
    )


def _choose_licence(card: Mapping[str, Any]) -> str:
    """The Hub's identifier where all data sets have one and the same known licence; "other" in every other case."""
    stated = {str(entry.get("licence", "")).strip().lower() for entry in card.get("data", [])}
    return LICENCES.get(stated.pop(), "other") if len(stated) == 1 else "other"


def _check_model_card(text: str) -> None:
    """Let the Hub's own library read the card. Raises ExportError where it refuses."""
    try:
        from huggingface_hub import ModelCard
    except ImportError as error:
        raise ExportError(f"a Hugging Face folder needs the package {error.name}; install it: {INSTALL}") from None
    try:
        ModelCard(text, ignore_metadata_errors=False)
    except ValueError as error:
        raise ExportError(f"the model card is not one that the Hub accepts: {error}") from None


def _is_ours(folder: Path) -> bool:
    """Whether a folder is empty or an earlier export."""
    if not folder.is_dir():
        return False
    try:
        return not any(folder.iterdir()) or json.loads((folder / CONFIG).read_bytes())["model_type"] == MODEL_TYPE
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _render_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; "" without rows."""
    if not rows:
        return ""
    lines = [list(headings), ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(_escape(cell) for cell in line)} |" for line in lines)


def _escape(cell: object) -> str:
    return " ".join(str(cell).split()).replace("|", "\\|")


def _format_interval(interval: Mapping[str, float | None] | None) -> str:
    if not interval or interval.get("value") is None:
        return "not known"
    low, high = interval.get("low"), interval.get("high")
    return f"{_format(interval['value'])} ({_format(low)} to {_format(high)})"


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, 6) for value in values]


def _to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
