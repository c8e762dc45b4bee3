"""Logging without a tracker; integration/test_mlflow.py has a server."""

import logging
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from facscale.nn.resnet import ResNet
from facscale.track import SpoolError, Tracker, flush
from facscale.track.encoder import EncoderError, load_encoder, save_encoder
from facscale.track.journal import Journal
from facscale.track.tracker import flatten


@pytest.fixture
def dead_address():
    """The address of a port on which no server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_without_a_tracker_nothing_fails_and_every_record_is_kept(tmp_path, dead_address, caplog):
    with caplog.at_level(logging.WARNING, "facscale.track"):
        tracker = Tracker(dead_address, "exp", key="job", name="clp", tags={"method": "clp"}, spool=tmp_path)
        tracker.log_params({"train": {"lr": 0.1}})
        for step in range(100):
            tracker.log_metrics({"loss": 1 / (step + 1)}, step)
        tracker.start_child("job/random", "random").log_metrics({"f1/mean": 0.3})
        tracker.log_text("a\n", "notes/a.txt")
        assert tracker.close(wait=30) is False
        assert flush(tmp_path) is False
    warnings = [record.getMessage() for record in caplog.records if "cannot be reached" in record.getMessage()]
    assert len(warnings) == 2  # one by the tracker, one by flush
    assert dead_address in warnings[0]
    assert str(tmp_path) in warnings[0]
    records = [entry.record for entry in Journal(tmp_path).read_entries(0)]
    assert sum(record["do"] == "metrics" for record in records) == 101
    assert records[0]["tags"] == {"method": "clp", "facscale.key": "job"}
    assert [record["parent"] for record in records if record["do"] == "run"] == [None, "job"]
    assert tracker.url == dead_address


def test_flush_refuses_an_empty_folder(tmp_path):
    with pytest.raises(SpoolError, match=r"no journal\.jsonl"):
        flush(tmp_path)
    assert list(tmp_path.iterdir()) == []  # and leaves nothing there
    (tmp_path / "journal.jsonl").touch()
    with pytest.raises(SpoolError, match="no records"):
        flush(tmp_path)


def test_a_key_that_mlflow_cannot_search_for_is_refused(tmp_path, dead_address):
    with pytest.raises(ValueError, match="double quotes"):
        Tracker(dead_address, "exp", key='"', name="clp", spool=tmp_path)


def test_flatten():
    nested = {"train": {"lr": 0.1, "optimizer": {"name": "sgd"}}, "seed": 0, "deepspeed": {}, "list": [1, {"a": 2}]}
    assert flatten(nested) == {
        "train.lr": 0.1,
        "train.optimizer.name": "sgd",
        "seed": 0,
        "deepspeed": {},
        "list": [1, {"a": 2}],
    }


CONFIG = {"encoder": "facscale.nn.resnet:ResNet", "options": {"depth": 18, "width": 4}}


@pytest.fixture
def tiny_encoder(tmp_path):
    """A module, its weights on disk, and some images."""
    module = ResNet(18, width=4).eval()
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    return module, tmp_path / "w.safetensors", np.random.default_rng(0).random((2, 3, 8, 8), np.float32)


def test_an_encoder_is_an_mlflow_model_without_code(tmp_path, tiny_encoder):
    import mlflow.pyfunc

    module, weights, images = tiny_encoder
    folder = save_encoder(tmp_path / "model", weights=weights, config=CONFIG | {"image_size": 8}, example=images)
    names = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert names <= {"", ".yaml", ".txt", ".json", ".safetensors"}  # nothing pickled, no source
    model = mlflow.pyfunc.load_model(str(folder))
    assert model.predict(images) == pytest.approx(module(torch.from_numpy(images)).detach().numpy())
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 3, 8, 8)
    assert model.metadata.signature.outputs.inputs[0].shape == (-1, module.dim)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder": "facscale.nn.nowhere:ResNet"}, "cannot find the encoder"),
        ({"encoder": "facscale.nn.resnet:torch"}, r"not a torch\.nn\.Module"),
        ({"encoder": "facscale.nn.resnet:ResNet", "options": {"deep": 1}}, "does not accept these options"),
        ({"encoder": "facscale.nn.resnet:ResNet", "options": {"depth": 18, "width": 8}}, "does not fit"),
    ],
)
def test_an_encoder_that_cannot_be_rebuilt_is_refused_before_it_is_logged(tmp_path, tiny_encoder, config, message):
    _, weights, images = tiny_encoder
    with pytest.raises(EncoderError, match=message):
        save_encoder(tmp_path / "model", weights=weights, config=config, example=images)


def test_loading_gives_the_module_in_evaluation_mode(tmp_path, tiny_encoder):
    module, weights, images = tiny_encoder
    folder = save_encoder(tmp_path / "model", weights=weights, config=CONFIG, example=images)
    again = load_encoder(folder / "data" / "encoder")
    assert not again.training
    assert torch.equal(again.state_dict()["conv1.weight"], module.state_dict()["conv1.weight"])
