"""Exports: a trained method as one safetensors file, with its weights and a recipe as text from which it is rebuilt.

The recipe has the method's name, its hyper-parameters, facts about its training data, and the recipes of its inputs,
whose weights the file contains. Nothing in the file is code, so that a file from an untrusted source can do no harm.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import safetensors.torch
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from torch import Tensor, nn

from facscale.compat.torch import without_compiler
from facscale.methods import DataFacts, Method, find_method, list_methods
from facscale.nn.allocation import AllocationLimit
from facscale.spec import Job, SpecError

FORMAT = "2"
METADATA_KEY = "facscale"
BUILD_FACTOR, BUILD_BYTES = 4, 2**28  # a method is built with at most so many times its file's size, and so much more
MAX_REASON = 200  # characters of another library's message in ours
PICKLE_MAGIC = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1))
# torch.save writes zip archives since 2020; before, its files began with the pickle of a magic number.
TORCH_MAGIC = (b"PK", pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2))


@dataclass(frozen=True)
class Recipe:
    """Plain values from which a method is built, without its weights."""

    method: str  # its name in specs
    config: dict[str, Any]
    facts: DataFacts
    inputs: dict[str, Recipe]

    def build(self) -> Method:
        """Build the method and its inputs, freshly initialised."""
        config = find_method(self.method).Config.model_validate(self.config)
        inputs = {name: recipe.build() for name, recipe in self.inputs.items()}
        return build_method(self.method, config, self.facts, **inputs)


def build_method(name: str, config: Any, facts: DataFacts, **inputs: Method) -> Method:
    """Build the method that specs call `name`, on its inputs, and give it the recipe that `save_export` needs."""
    method = find_method(name)(config, facts, **inputs)
    recipes = {key: input_method.recipe for key, input_method in inputs.items()}
    method.recipe = Recipe(name, config.model_dump(mode="json"), facts, recipes)
    return method


def build_method_for_job(job: Job, config: Any, facts: DataFacts, inputs: Mapping[str, Method]) -> Method:
    """Build the method of a job; the image size is the job's, whatever `facts` holds."""
    return build_method(job.method.name, config, replace(facts, image_size=job.data.image_size), **inputs)


def save_export(method: Method) -> bytes:
    """Serialise a method that `build_method` or `load_export` returned; equal methods give equal bytes.

    All metadata stands under one key, because safetensors writes several in random order.
    """
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in method.state_dict().items()}
    text = json.dumps({"format": FORMAT, "recipe": asdict(method.recipe)}, sort_keys=True)
    return safetensors.torch.save(weights, {METADATA_KEY: text})


def read_safetensors(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file. Raises SafetensorError."""
    weights = safetensors.torch.load(data)
    size = int.from_bytes(data[:8], "little")  # of the header, which the format defines as JSON
    return weights, json.loads(data[8 : 8 + size]).get("__metadata__", {})


def load_export(data: bytes, *, source: str = "the export") -> Method:
    """Load an export as a method in eval mode.

    Weights of a public release (written by torch.save or as safetensors) are loaded too, as the method that they belong
    to. Raises SpecError, which names `source`, for files that are neither, or that are not safe to read.
    """
    if data.startswith(TORCH_MAGIC):
        return _load_public_weights(_read_torch_file(data, source=source), data=data, source=source)
    # A safetensors file begins with the length of its header, whose first bytes can be those of a pickle.
    if data.startswith(PICKLE_MAGIC) and data[8:9] != b"{":
        raise SpecError(
            f"{source}: a pickle, which is never read because it could run code; a safetensors file is expected"
        )
    try:
        weights, metadata = read_safetensors(data)
    except SafetensorError as error:
        raise SpecError(f"{source}: not an exported method (a safetensors file is expected): {error}") from None
    recipe = _find_recipe(metadata)
    if recipe is None:
        return _load_public_weights(weights, data=data, source=source)
    try:
        with limit_size(data):
            method = TypeAdapter(Recipe).validate_json(recipe).build()
        method.load_state_dict(weights)
    except Exception as error:  # noqa: BLE001 - values that no spec allowed can fail anywhere in a method
        reason = " ".join(str(error).split())[:MAX_REASON]
        raise SpecError(f"{source}: its recipe does not fit this version of facscale: {reason}") from None
    return method.eval()


def _find_recipe(metadata: Mapping[str, str]) -> str | None:
    """Return the JSON of the recipe in the metadata of an export; None for a file of another kind or version."""
    text = metadata.get(METADATA_KEY)
    if text == FORMAT:  # as earlier builds wrote it, with the recipe under a key of its own
        return metadata.get("recipe", "")
    try:
        content = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    return json.dumps(content.get("recipe"))


@contextmanager
def limit_size(data: bytes) -> Iterator[None]:
    """Within the block, limit what is built to the size of the file whose weights it is for: a recipe may name any width."""
    with without_compiler(), AllocationLimit(BUILD_FACTOR * len(data) + BUILD_BYTES):
        yield


def _read_torch_file(data: bytes, *, source: str) -> Any:
    if _is_torchscript(data):
        raise SpecError(
            f"{source}: a TorchScript archive, whose weights cannot be read without running its code; if you trust it, "
            'convert it once: torch.save(torch.jit.load("FILE").state_dict(), "WEIGHTS.pth")'
        )
    if _compute_unpacked_size(data) > len(data):  # torch stores tensors uncompressed: a larger size is a zip bomb
        raise SpecError(f"{source}: would unpack to more than its own size, which no file of weights does")
    try:
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged or forged pickle can raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])  # what it tried to call
        raise SpecError(f"{source}: not a file of weights (only tensors are read from torch files): {reason}") from None


def _list_members(data: bytes) -> list[ZipInfo]:
    """List the members of a zip archive; none for other files, among them torch's format before archives."""
    try:
        return ZipFile(BytesIO(data)).infolist()
    except (BadZipFile, ValueError, NotImplementedError, OSError):  # the directory of a damaged one can be anything
        return []


def _compute_unpacked_size(data: bytes) -> int:
    return sum(member.file_size for member in _list_members(data))


def _is_torchscript(data: bytes) -> bool:
    return any(member.filename.endswith("/constants.pkl") for member in _list_members(data))


def _load_public_weights(weights: Any, *, data: bytes, source: str) -> Method:
    """Build the method whose encoder has these weights, which may lie under the `state_dict` of a checkpoint."""
    state = weights.get("state_dict", weights) if isinstance(weights, dict) else {}
    is_state = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    for name, method_class in _list_method_classes() if is_state else ():
        try:
            if (converted := method_class.convert_public_weights(state)) is None:
                continue
            config, encoder_state = converted
            with limit_size(data):
                method = build_method(name, config, DataFacts())
            method.encoder.load_state_dict(encoder_state)
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise SpecError(
                f"{source}: has the parameter names of {name}'s encoder, but does not fit it: {reason}"
            ) from None
        return method.eval()
    raise SpecError(
        f"{source}: neither an export of this version of facscale nor a ResNet-18, 34 or 50 with torchvision's "
        "parameter names, nor a FAN with the face-alignment package's"
    )


def _list_method_classes() -> Iterator[tuple[str, type[Method]]]:
    """Yield all methods by name, except entry points of other packages that are no methods."""
    for name in list_methods():
        try:
            yield name, find_method(name)
        except SpecError:
            continue


class Exported(nn.Module):
    """The encoder of an export, built from plain values. Logged MLflow models refer to this class by its name."""

    def __init__(self, **recipe: Any) -> None:
        """`recipe`: the fields of a `Recipe`."""
        super().__init__()
        self.encoder = TypeAdapter(Recipe).validate_python(recipe).build().encoder

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, S, S] in [0, 1] -> features [N, D]."""
        features: Tensor = self.encoder(images)
        return features
