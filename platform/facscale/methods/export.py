"""A trained method as one safetensors file that rebuilds itself: weights, and its recipe as text.

The recipe names the method, its hyper-parameters, what it knew of the data, and the recipes of the methods that it was
built on (whose weights it holds). Nothing in the file is code, so one from elsewhere can do no harm.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from torch import Tensor, nn

from facscale.methods import DataFacts, Method, find
from facscale.nn.resnet import BLOCKS
from facscale.spec import Job, SpecError

FORMAT = "2"


@dataclass(frozen=True)
class Recipe:
    """All that rebuilds an untrained method, as plain values."""

    method: str  # its name in a spec
    config: dict[str, Any]
    facts: DataFacts
    inputs: dict[str, Recipe]

    def build(self) -> Method:
        """The method, freshly initialised, and so are its inputs."""
        config = find(self.method).Config.model_validate(self.config)
        inputs = {name: recipe.build() for name, recipe in self.inputs.items()}
        return build(self.method, config, self.facts, **inputs)


def build(name: str, config: Any, facts: DataFacts, **inputs: Method) -> Method:
    """The method that a spec calls `name`, on its inputs; from here on it can be saved."""
    method = find(name)(config, facts, **inputs)
    recipes = {key: made.recipe for key, made in inputs.items()}
    method.recipe = Recipe(name, config.model_dump(mode="json"), facts, recipes)
    return method


def of_job(job: Job, config: Any, facts: DataFacts, inputs: Mapping[str, Method]) -> Method:
    """The method of a job, which alone says how large its images are."""
    return build(job.method.name, config, replace(facts, image_size=job.data.image_size), **inputs)


def save(method: Method) -> bytes:
    """The export of a method that `build` or `load` made."""
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in method.state_dict().items()}
    return safetensors.torch.save(weights, {"facscale": FORMAT, "recipe": json.dumps(asdict(method.recipe))})


def load(data: bytes, *, source: str = "the export") -> Method:
    """The method that `save` wrote, in eval mode; or a ResNet with torchvision's names (`.pth`, safetensors), as `supervised`.

    Raises SpecError for bytes that are neither, or that no one should trust; `source` says where they come from.
    """
    if data[:2] == b"PK":  # torch.save's archive
        return _of_torchvision(_unpickled(data, source=source), source=source)
    try:
        weights = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")  # of the header: JSON, as the format has it
        about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except SafetensorError as error:
        raise SpecError(f"{source}: not an exported method (a safetensors file is expected): {error}") from None
    if about.get("facscale") != FORMAT:
        return _of_torchvision(weights, source=source)
    try:
        method = TypeAdapter(Recipe).validate_json(about.get("recipe", "")).build()
        method.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:  # pydantic's is a ValueError
        raise SpecError(f"{source}: its recipe does not fit this facscale: {str(error).splitlines()[0]}") from None
    return method.eval()


def _unpickled(data: bytes, *, source: str) -> Any:
    try:
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise SpecError(
            f"{source}: not a file of weights (tensors alone are read from torch files): {reason}"
        ) from None


def _of_torchvision(weights: Any, *, source: str) -> Method:
    """A ResNet-18, 34 or 50 of any width, from a state dictionary; its classifier is left out."""
    names = set(weights) if isinstance(weights, dict) else set()
    blocks = tuple(sum(f"layer{stage}.{n}.conv1.weight" in names for n in range(99)) for stage in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in names
    depths = [depth for depth, counts in BLOCKS.items() if counts == blocks and (depth == 50) == bottleneck]
    if not depths:
        raise SpecError(
            f"{source}: neither an export of this facscale nor a ResNet-18, 34 or 50 with torchvision's parameter names"
        )
    config = {"depth": depths[0], "width": len(weights["conv1.weight"])}
    method = build("supervised", find("supervised").Config.model_validate(config), DataFacts())
    kept = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    try:
        method.encoder.load_state_dict(kept)
    except RuntimeError as error:
        raise SpecError(f"{source}: does not fit a ResNet-{depths[0]}: {str(error).splitlines()[-1].strip()}") from None
    return method.eval()


class Exported(nn.Module):
    """The encoder of an exported method, rebuilt from plain values: what MLflow's model loader calls."""

    def __init__(self, **recipe: Any) -> None:
        """`recipe`: `Recipe` as a dictionary."""
        super().__init__()
        self.encoder = TypeAdapter(Recipe).validate_python(recipe).build().encoder

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] in [0, 1] -> features [N, D]."""
        features: Tensor = self.encoder(images)
        return features
