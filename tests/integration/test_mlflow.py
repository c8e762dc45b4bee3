"""The tracker and a real MLflow server: every record arrives exactly once, whatever fails on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import mlflow
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from safetensors.torch import save_file

from facscale.nn.resnet import ResNet
from facscale.track import Tracker, flush, sender
from facscale.track import server as server_module
from facscale.track.client import RecordClient
from facscale.track.encoder import log_encoder
from facscale.track.identity import CLAIM_PARAM
from facscale.track.journal import Journal
from facscale.track.server import ServerError, ensure_server, find_server, stop_server
from ports import free_port
from waiting import wait_for

pytestmark = pytest.mark.slow("MLflow servers start and end")
PATIENCE_S = 600


@pytest.fixture
def server(mlflow_server):
    return mlflow_server


@pytest.fixture
def experiment(request):
    return request.node.name


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(sender, "COLLECT_S", 0.05)
    monkeypatch.setattr(sender, "MAX_PAUSE_S", 0.5)


def runs(client, experiment, **options):
    found = client.get_experiment_by_name(experiment)
    return client.search_runs([found.experiment_id], **options) if found else []


def get_params(run):
    """Return the run's parameters without the one that claims its key."""
    return {name: value for name, value in run.data.params.items() if name != CLAIM_PARAM}


def get_run(url, experiment):
    (run,) = runs(MlflowClient(url), experiment)
    return run


def history(url, run, name="loss"):
    return [(metric.step, metric.value) for metric in MlflowClient(url).get_metric_history(run.info.run_id, name)]


def test_down_at_the_start_up_down_and_up_again(tmp_path, experiment):
    port = free_port()
    url, folder = f"http://127.0.0.1:{port}", tmp_path / "server"
    tracker = Tracker(url, experiment, key="job", name="clp", spool=tmp_path / "spool")
    tracker.log_params({"lr": 0.1})
    for step in range(50):
        tracker.log_metrics({"loss": step / 2, "std": 1.0}, step)
    try:
        ensure_server(folder, port)
        client = MlflowClient(url)
        wait_for(
            lambda: runs(client, experiment) and len(history(url, get_run(url, experiment))) == 50, limit=PATIENCE_S
        )
        stop_server(folder)
        for step in range(50, 100):
            tracker.log_metrics({"loss": step / 2, "std": 1.0}, step)
        tracker.log_text("kept\n", "notes/kept.txt")
        nested = tracker.start_child("job/random", "random")
        nested.log_metrics({"f1/AU12": 0.5})
        nested.close()
        ensure_server(folder, port)
        assert tracker.close()
        outer, inner = sorted(runs(client, experiment), key=lambda run: run.info.start_time)
        assert outer.info.status == inner.info.status == "FINISHED"
        assert get_params(outer) == {"lr": "0.1"}
        assert inner.data.tags["mlflow.parentRunId"] == outer.info.run_id
        assert inner.data.metrics == {"f1/AU12": 0.5}
        assert sorted(history(url, outer)) == [(step, step / 2) for step in range(100)]
        assert sorted(step for step, _ in history(url, outer, "std")) == list(range(100))
        assert [item.path for item in client.list_artifacts(outer.info.run_id, "notes")] == ["notes/kept.txt"]
        assert list((tmp_path / "spool" / "files").iterdir()) == []
    finally:
        stop_server(folder)


CHILD = """
import sys, itertools
from pathlib import Path
from facscale.track import Tracker, sender
sender.COLLECT_S, sender.CHUNK_SIZE = 0.01, 7
tracker = Tracker(sys.argv[1], sys.argv[2], key="job", name="clp", spool=Path(sys.argv[3]))
for step in itertools.count():
    tracker.log_metrics({"loss": float(step)}, step)
    if step == 200:
        print("written", flush=True)
        sys.stdin.read()
"""


def count_delivered_bytes(spool):
    """Return the bytes of the journal that its only tracker has acknowledged."""
    return sum(sent.offsets.get("records", 0) for sent in Journal(spool).load_deliveries().values())


def test_killed_in_the_middle_of_sending(tmp_path, server, experiment):
    spool = tmp_path / "spool"
    for _ in range(3):
        arguments = [sys.executable, "-c", CHILD, server.url, experiment, str(spool)]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "written\n"
            start = count_delivered_bytes(spool)
            wait_for(lambda: count_delivered_bytes(spool) > start, limit=PATIENCE_S)  # noqa: B023
            os.kill(process.pid, signal.SIGKILL)
    assert flush(spool)
    assert sorted(history(server.url, get_run(server.url, experiment))) == [(step, float(step)) for step in range(201)]


def test_an_answer_that_is_lost_is_not_sent_twice(tmp_path, server, experiment, monkeypatch):
    """The tracker accepts the batch, but its answer is lost."""
    send, lost_kinds = RecordClient.send, []

    def send_without_answer(client, records, *, files):
        send(client, records, files=files)
        kinds = {record["do"] for record in records}
        if not kinds & set(lost_kinds):
            lost_kinds.extend(kinds)
            raise ConnectionError("no answer")

    monkeypatch.setattr(RecordClient, "send", send_without_answer)
    tracker = Tracker(server.url, experiment, key="job", name="clp", spool=tmp_path)
    for step in range(20):
        tracker.log_metrics({"loss": float(step)}, step)
    tracker.log_dataset("bp4d", url="s3://faces/bp4d", fingerprint="f" * 64)
    tracker.log_text("a", "a.txt")
    wait_for(lambda: set(lost_kinds) == {"run", "metrics", "dataset", "artifact"}, limit=PATIENCE_S)
    assert tracker.close()  # the answer to "close" is lost too, at first
    assert "close" in lost_kinds
    run = get_run(server.url, experiment)
    assert sorted(history(server.url, run)) == [(step, float(step)) for step in range(20)]
    assert len(run.inputs.dataset_inputs) == 1
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("spool_survives", [True, False])
def test_a_resumed_job_is_the_same_run_and_its_first_values_stay(tmp_path, server, spool_survives):
    experiment = f"resumed {spool_survives}"
    first = Tracker(server.url, experiment, key="it's a job", name="clp", spool=tmp_path / "a")
    for step in range(10):
        first.log_metrics({"loss": float(step)}, step)
    assert first.close("FAILED")
    spool = tmp_path / ("a" if spool_survives else "b")  # a new node may not have the old one's disk
    second = Tracker(server.url, experiment, key="it's a job", name="clp", spool=spool)
    for step in range(5, 15):
        second.log_metrics({"loss": 100.0 + step}, step)
    assert second.close()
    run = get_run(server.url, experiment)
    assert run.info.status == "FINISHED"
    assert [value for _, value in sorted(history(server.url, run))] == [*range(10), *range(110, 115)]


def test_a_refused_record_does_not_block_the_others(tmp_path, server, experiment):
    tracker = Tracker(server.url, experiment, key="job", name="clp", spool=tmp_path)
    tracker.log_params({"lr": 0.1})
    assert tracker.close()
    tracker = Tracker(server.url, experiment, key="job", name="clp", spool=tmp_path)
    tracker.log_params({"lr": 0.2})  # MLflow's parameters never change
    tracker.log_metrics({"loss": 1.0}, 0)
    assert tracker.close()
    run = get_run(server.url, experiment)
    assert get_params(run) == {"lr": "0.1"}
    assert run.data.metrics == {"loss": 1.0}
    (refused,) = (tmp_path / "refused.jsonl").read_text().splitlines()
    assert json.loads(refused)["values"] == {"lr": "0.2"}


def test_a_deleted_run_is_sent_again(tmp_path, server, experiment):
    tracker = Tracker(server.url, experiment, key="job", name="clp", spool=tmp_path)
    tracker.log_metrics({"loss": 1.0}, 0)
    assert tracker.close()
    MlflowClient(server.url).delete_run(get_run(server.url, experiment).info.run_id)
    tracker = Tracker(server.url, experiment, key="job", name="clp", spool=tmp_path)
    tracker.log_metrics({"loss": 2.0}, 1)
    assert tracker.close()
    assert sorted(history(server.url, get_run(server.url, experiment))) == [(0, 1.0), (1, 2.0)]


def test_everything_that_a_job_logs(tmp_path, server, experiment):
    tags = {"method": "clp", "cluster": "here", "data": "f" * 64}
    tracker = Tracker(server.url, experiment, key="job", name="clp", tags=tags, spool=tmp_path)
    tracker.log_params(
        {f"block.{number}": "x" * 9000 for number in range(150)}
    )  # more, and longer, than one request takes
    tracker.log_metrics({f"odd name [{number}]%": float(number) for number in range(1500)}, 3)
    tracker.log_metrics({"nan": float("nan")}, 0)
    for _ in range(2):
        tracker.log_dataset("bp4d", url="s3://faces/bp4d", fingerprint="f" * 64)
    tracker.log_figure(Figure(), "f1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.txt").write_text("x")
    tracker.log_artifact(tmp_path / "folder", "reports/all")
    assert tracker.close()
    run = get_run(server.url, experiment)
    assert tags.items() <= run.data.tags.items()
    assert len(get_params(run)) == 150
    assert len(run.data.metrics) == 1501
    assert run.data.metrics["odd name _7__"] == 7
    assert np.isnan(run.data.metrics["nan"])
    (dataset,) = [item.dataset for item in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("bp4d", "f" * 36)
    assert "s3://faces/bp4d" in dataset.source
    client = MlflowClient(server.url)
    listed = [
        item.path for folder in ("figures", "reports/all") for item in client.list_artifacts(run.info.run_id, folder)
    ]
    assert listed == ["figures/f1.png", "reports/all/x.txt"]
    assert tracker.url.endswith(run.info.run_id)


def test_an_encoder_comes_back_from_its_run(tmp_path, server, experiment, monkeypatch):
    encoder = ResNet(depth=18, width=8).eval()
    save_file(encoder.state_dict(), tmp_path / "w.safetensors")
    images = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    config = {"encoder": "facscale.nn.resnet:ResNet", "options": {"depth": 18, "width": 8}}
    tracker = Tracker(server.url, experiment, key="job", name="clp", spool=tmp_path / "spool")
    for _ in range(2):  # a resumed job logs it again
        log_encoder(tracker, weights=tmp_path / "w.safetensors", config=config, example=images)
    assert tracker.close()
    run = get_run(server.url, experiment)
    assert len(MlflowClient(server.url).search_logged_models([run.info.experiment_id])) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/encoder")
    with torch.no_grad():
        assert model.predict(images) == pytest.approx(encoder(torch.from_numpy(images)).numpy(), abs=1e-6)


def test_without_a_server_a_sqlite_file_will_do(tmp_path, experiment, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(url, experiment, key="job", name="clp", spool=tmp_path / "spool")
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_text("a", "a.txt")
    assert tracker.close()
    run = get_run(url, experiment)
    assert run.data.metrics == {"loss": 1.0}
    assert run.info.artifact_uri.startswith((tmp_path / "artifacts").as_uri())
    assert not (tmp_path / "mlruns").exists()


def test_many_threads_lose_nothing(tmp_path, server, experiment):
    tracker = Tracker(server.url, experiment, key="job", name="clp", spool=tmp_path)

    def log_steps(number):
        for step in range(50):
            tracker.log_metrics({f"loss{number}": float(step), "shared": 1.0}, step)

    threads = [threading.Thread(target=log_steps, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tracker.close()
    run = get_run(server.url, experiment)
    for name in (*(f"loss{number}" for number in range(4)), "shared"):
        assert Counter(step for step, _ in history(server.url, run, name)) == Counter(range(50))


def test_a_server_is_reused_while_it_runs(server):
    folder = server.folder
    assert ensure_server(folder, 0) == server
    assert ensure_server(folder, int(server.url.rsplit(":", 1)[1])) == server
    assert find_server(folder) == server


def test_a_taken_port_is_named(tmp_path, server):
    with pytest.raises(ServerError, match="taken by another program"):
        ensure_server(tmp_path / "other", int(server.url.rsplit(":", 1)[1]))


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("exit('no disk')", "ended at once"),
        ("print('no disk', flush=True); threading.Event().wait()", "did not answer"),
    ],
)
def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path, monkeypatch, code, how):
    ports = []

    def command(folder, *, port, store):
        ports.append(port)
        return [sys.executable, "-c", f"import threading; {code}", str(folder)]

    monkeypatch.setattr(server_module, "_build_command", command)
    with pytest.raises(ServerError, match=rf"(?s)port \d+ {how}.*no disk"):
        ensure_server(tmp_path, 0, wait=2.0)
    assert ports[0] > 0
    assert find_server(tmp_path) is None
    assert not (tmp_path / "server.json").exists()
