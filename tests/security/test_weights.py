"""Untrusted weights, checkpoints and cards: only tensors and plain values are read."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from facscale.inference import export
from facscale.job.card import Card, CardError
from facscale.methods import DataFacts, find_method
from facscale.spec import SpecError
from facscale.track import encoder
from facscale.train import checkpoint
from harmful import Harmful

pytestmark = pytest.mark.usefixtures("harmless")

RECIPE = {"method": "clp", "config": {}, "facts": {}, "inputs": {}}


def torch_file(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def bomb():
    """An archive of torch's whose tensor packs a thousandfold."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file({"a": torch.zeros(4)}))) as source, zipfile.ZipFile(packed, "w") as out:
        for name in source.namelist():
            content = bytes(50_000_000) if name.endswith("data/0") else source.read(name)
            out.writestr(name, content, compress_type=zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def header(entries, body=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


def export_with_recipe(recipe):
    """A safetensors file with a recipe."""
    text = recipe if isinstance(recipe, str) else json.dumps(recipe)
    return save({"a": torch.zeros(1)}, {"facscale": export.FORMAT, "recipe": text})


LIE = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
TWICE = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}
FILES = {
    "pickle": (pickle.dumps(Harmful()), "a pickle, which is never read"),
    "old pickle": (pickle.dumps(Harmful(), 2), "a pickle, which is never read"),
    "torch archive": (torch_file({"state_dict": Harmful()}), "only tensors are read from torch files"),
    "old torch": (torch_file(Harmful(), _use_new_zipfile_serialization=False), "only tensors are read"),
    "a list": (torch_file([1, 2]), "neither an export of this version of facscale nor"),
    "bomb": (bomb(), "would unpack to more than its own size"),
    "cut off": (torch_file({"a": torch.zeros(9)})[:300], "only tensors are read"),
    "zip": (b"PK" + bytes(100), "only tensors are read"),
    "empty": (b"", "not an exported method"),
    "endless header": (struct.pack("<Q", 1 << 62) + b"{}", "header too large"),
    "lying header": (header(LIE), "not an exported method"),
    "overlapping": (header(TWICE, bytes(4)), "not an exported method"),
    "no header": (struct.pack("<Q", 4) + b"\xff" * 4, "not an exported method"),
    "other code": (export_with_recipe({**RECIPE, "method": "os.system"}), 'there is no method "os.system"'),
    "other file": (export_with_recipe({**RECIPE, "method": "../export"}), 'there is no method "../export"'),
    "other option": (
        export_with_recipe({**RECIPE, "config": {"__class__": 1}}),
        "its recipe does not fit this version of facscale",
    ),
    "other input": (
        export_with_recipe({**RECIPE, "inputs": {"self": RECIPE}}),
        "its recipe does not fit this version of facscale",
    ),
    "nested recipe": (
        export_with_recipe('{"inputs": {"x": ' * 500 + "1" + "}}" * 500),
        "its recipe does not fit this version of facscale",
    ),
    "no weights": (export_with_recipe(RECIPE), "its recipe does not fit this version of facscale"),
}


@pytest.mark.parametrize("name", FILES)
def test_other_files_are_refused_in_one_line(name):
    content, message = FILES[name]
    with pytest.raises(SpecError) as error:
        export.load_export(content, source="there")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_export_whose_length_looks_like_a_pickle_is_read():
    """The header's length comes first: 896 bytes are 80 03, as a pickle of protocol 3 begins."""
    config = find_method("clp").Config(depth=18, width=4, hidden=8, embedding=8, queue_size=8)
    method = export.build_method("clp", config, DataFacts())
    plain = export.save_export(method)
    weights = {name: value.clone() for name, value in method.state_dict().items()}
    metadata = json.loads(plain[8 : 8 + int.from_bytes(plain[:8], "little")])["__metadata__"]
    size = int.from_bytes(plain[:8], "little")
    padding = "x" * ((0x380 - size) % 0x10000)
    for shorter in range(64):
        data = save(weights, {**metadata, "x": padding[shorter:]})
        if data.startswith(b"\x80\x03"):
            break
    assert data.startswith(b"\x80\x03")
    assert export.load_export(data).recipe == method.recipe


def test_a_checkpoint_is_tensors_and_plain_values(tmp_path):
    torch.save({"step": 3, "method": {"a": torch.ones(2)}, "optimizers": {}}, tmp_path / checkpoint.STATE)
    assert checkpoint.read(tmp_path)["step"] == 3
    torch.save({"step": Harmful()}, tmp_path / checkpoint.STATE)
    with pytest.raises(checkpoint.CheckpointError, match=r"state\.pt holds more than tensors and plain values"):
        checkpoint.read(tmp_path)


def test_a_width_that_its_file_cannot_hold_is_not_allocated():
    for config in ({"width": 10**6}, {"queue_size": 10**12}, {"embedding": 10**9}):
        recipe = RECIPE | {"config": config}
        data = save({"a": torch.zeros(1)}, {"facscale": export.FORMAT, "recipe": json.dumps(recipe)})
        with pytest.raises(SpecError, match=r"a tensor of shape \[.* brings the network to .* GB"):
            export.load_export(data, source="there")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder": "os:system"}, "names os:system as its encoder; only facscale's own can be built"),
        ({"encoder": "antigravity:fly"}, "only facscale's own can be built"),
        ({"encoder": "torch.nn:Linear"}, "only facscale's own can be built"),
        ({"encoder": "facscale.cli.demo:run_demo"}, "only facscale's own can be built"),
        ({"encoder": "facscale.nn.resnet:torch.hub.load"}, "only facscale's own can be built"),
        ({"encoder": "facscale.nn.resnet:torch"}, r"is not a torch\.nn\.Module"),
        ({"encoder": "facscale.nn..resnet:ResNet"}, "only facscale's own can be built"),
        ({"encoder": ["os", "system"]}, "only facscale's own can be built"),
        ({}, "only facscale's own can be built"),
        (
            {"encoder": "facscale.inference.export:Exported", "options": {**RECIPE, "method": "os.system"}},
            'there is no method "os.system"',
        ),
        ({"encoder": "facscale.nn.resnet:ResNet", "options": {"command": "id"}}, "does not accept these options"),
    ],
)
def test_an_encoders_config_names_no_other_code(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "weights.safetensors").write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises((encoder.EncoderError, SpecError), match=message):
        encoder.load_encoder(tmp_path)


def test_a_pickle_by_the_name_of_an_encoders_weights(tmp_path):
    (tmp_path / "config.json").write_text('{"encoder": "facscale.nn.resnet:ResNet", "options": {"width": 4}}')
    (tmp_path / "weights.safetensors").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(encoder.EncoderError, match="does not fit"):
        encoder.load_encoder(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "null", "{}", '{"schema": 1}', '{"schema": 1, "spec": 5}', b"\x80\x04N.", b"\xff\xfe"]
)
def test_other_files_are_no_card(text):
    with pytest.raises(CardError, match=r"(is not a reproduction card|has schema)"):
        Card.from_json(text, source="card.json")


def test_numbers_in_an_old_label_file_are_no_pickle(tmp_path):
    file = io.BytesIO()
    np.save(file, np.array([Harmful()], dtype=object), allow_pickle=True)
    from facscale.ingest.layouts.affectnet import AffectNet

    image, label = "train_set/images/1.jpg", "train_set/annotations/1_exp.npy"
    with pytest.raises(ValueError, match="no number can be read"):
        list(AffectNet().list_images({image: 1, label: 1}, lambda _: file.getvalue()))
