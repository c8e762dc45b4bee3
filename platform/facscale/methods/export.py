"""A trained method as one safetensors file that rebuilds itself: weights, and name, hyper-parameters and facts as text.

Nothing in it is code, so a file from elsewhere can do no harm.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from facscale.methods import DataFacts, Method, find
from facscale.spec import SpecError
from facscale.spec.models import Input


def save(method: Method, path: Path, *, name: str) -> None:
    """Write `method` to `path`; `name` is what a spec calls it."""
    about = {
        "facscale": "1",
        "method": name,
        "config": method.config.model_dump_json(),
        "facts": json.dumps(asdict(method.facts)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in method.state_dict().items()}
    save_file(weights, path, metadata=about)


def load(path: Path, **inputs: Method) -> Method:
    """The method that `save` wrote, in eval mode. Raises SpecError for a file that is not such an export."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise SpecError(f"{path}: not an exported method (a safetensors file is expected): {error}") from None
    if about.get("facscale") != "1":
        raise SpecError(
            f"{path}: a safetensors file, but none that facscale exported: it does not say which method it holds"
        )
    kind = find(about["method"])
    facts = TypeAdapter(DataFacts).validate_json(about["facts"])
    method = kind(kind.Config.model_validate_json(about["config"]), facts, **inputs)
    method.load_state_dict(weights)
    return method.eval()


def about(path: Path) -> dict[str, Any]:
    """The arguments of `Exported` for an exported method."""
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
    return {"method": said["method"], "config": json.loads(said["config"]), "facts": json.loads(said["facts"])}


def fetch(source: Input) -> bytes:
    """The exported method at a URL. Raises SpecError where it cannot be read or is not the one that the spec means."""
    try:
        data = bytes(fsspec.open(source.url).open().read())
    except (OSError, ValueError) as error:
        raise SpecError(f"{source.url}: cannot be read: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != source.sha256:
        raise SpecError(f"{source.url} has the SHA-256 {found}, not {source.sha256}: another file than the spec means")
    return data


class Exported(nn.Module):
    """The encoder of an exported method, rebuilt from plain values: what MLflow's model loader calls."""

    def __init__(self, *, method: str, config: dict[str, Any], facts: dict[str, Any]) -> None:
        super().__init__()
        kind = find(method)
        self.encoder = kind(kind.Config.model_validate(config), TypeAdapter(DataFacts).validate_python(facts)).encoder

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] in [0, 1] -> features [N, D]."""
        features: Tensor = self.encoder(images)
        return features
