"""A trained method as one safetensors file that rebuilds itself: weights, and its recipe as text.

The recipe names the method, its hyper-parameters, what it knew of the data, and the recipes of the methods that it was
built on (whose weights it holds). Nothing in the file is code, so one from elsewhere can do no harm.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any
from zipfile import BadZipFile, ZipFile

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from torch import Tensor, nn

from facscale.methods import DataFacts, Method, find, names
from facscale.spec import Job, SpecError

FORMAT = "2"
SHOWN = 200  # characters of another's message
PICKLE = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1))
# How torch.save's files begin: archives since 2020, and before that the pickle of a number of its own.
TORCH = (b"PK", pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2))


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
    """The method that `save` wrote, in eval mode; or public weights (torch.save's, safetensors), as the method they are of.

    Raises SpecError for bytes that are neither, or that no one should trust; `source` says where they come from.
    """
    if data.startswith(TORCH):
        return _of_public(_unpickled(data, source=source), source=source)
    if data.startswith(PICKLE):
        raise SpecError(f"{source}: a pickle, which is never read (it could run code); a safetensors file is expected")
    try:
        weights = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")  # of the header: JSON, as the format has it
        about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    except SafetensorError as error:
        raise SpecError(f"{source}: not an exported method (a safetensors file is expected): {error}") from None
    if about.get("facscale") != FORMAT:
        return _of_public(weights, source=source)
    try:
        method = TypeAdapter(Recipe).validate_json(about.get("recipe", "")).build()
        method.load_state_dict(weights)
    except (ValueError, TypeError, RuntimeError) as error:  # pydantic's is a ValueError
        reason = " ".join(str(error).split())[:SHOWN]
        raise SpecError(f"{source}: its recipe does not fit this facscale: {reason}") from None
    return method.eval()


def _unpickled(data: bytes, *, source: str) -> Any:
    if _is_program(data):
        raise SpecError(
            f"{source}: a TorchScript archive, whose weights cannot be read without running its code; if you trust it, "
            'convert it once: torch.save(torch.jit.load("FILE").state_dict(), "WEIGHTS.pth")'
        )
    if _unpacked(data) > len(data):  # torch stores tensors as they are: what unpacks to more is a bomb
        raise SpecError(f"{source}: unpacks to more than it holds, which no file of weights does")
    try:
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - what a damaged or forged pickle raises is up to it
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])  # what it would have called
        raise SpecError(
            f"{source}: not a file of weights (tensors alone are read from torch files): {reason}"
        ) from None


def _unpacked(data: bytes) -> int:
    try:
        return sum(part.file_size for part in ZipFile(BytesIO(data)).infolist())
    except BadZipFile:  # the format before archives
        return 0


def _is_program(data: bytes) -> bool:
    try:
        return any(name.endswith("/constants.pkl") for name in ZipFile(BytesIO(data)).namelist())
    except BadZipFile:
        return False


def _of_public(weights: Any, *, source: str) -> Method:
    """The method, freshly built, whose encoder these weights are; they may lie in a checkpoint's `state_dict`."""
    held = weights.get("state_dict", weights) if isinstance(weights, dict) else {}
    known = isinstance(held, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in held.items())
    for name, kind in _kinds() if known else ():
        try:
            if (found := kind.adopted(held)) is None:
                continue
            config, state = found
            method = build(name, config, DataFacts())
            method.encoder.load_state_dict(state)
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise SpecError(f"{source}: has names of {name}'s encoder, but does not fit it: {reason}") from None
        return method.eval()
    raise SpecError(
        f"{source}: neither an export of this facscale nor a ResNet-18, 34 or 50 with torchvision's parameter names, nor a "
        "FAN with the face-alignment package's"
    )


def _kinds() -> Iterator[tuple[str, type[Method]]]:
    """All methods by name; what another package only claims to be one is nobody's business here."""
    for name in names():
        try:
            yield name, find(name)
        except SpecError:
            continue


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
