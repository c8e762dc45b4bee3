"""A real Ray cluster, examined and rehearsed on."""

from __future__ import annotations

import json

import pytest
import ray
from click.testing import CliRunner

from faces import write_face_data_set
from facscale.cli import main
from facscale.data import Dataset
from facscale.doctor import DiagnosticContext, node, run_checks
from facscale.doctor.checks import cluster
from facscale.doctor.context import name_nodes
from facscale.doctor.remote import run_on_nodes
from facscale.job.datasets import JobData
from facscale.job.variants import expand_variants
from facscale.profile.trainings import list_trainings
from facscale.profile.worker import WorkerProfile, profile_training
from facscale.spec import Job, read_spec

pytestmark = pytest.mark.slow("a training of some seconds on Ray")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    write_face_data_set(str(folder / "u"), [12] * 40, row_group_mb=0.2)
    write_face_data_set(str(folder / "l"), [20] * 9, au=(1, 12), row_group_mb=0.2, name="labelled")
    (folder / "job.yaml").write_text(
        "method: {name: clp, depth: 18, width: 4, length: 3, queue_size: 32}\n"
        f"data: {{unlabelled: {folder}/u, labelled: {folder}/l, image_size: 32, threads: 1}}\n"
        "train: {batch_size: 8, epochs: 2, probe_every: 0}\nseeds: 2\n"
        f"cluster: {{workers: 2, gpus_per_worker: 0, cpus_per_worker: 1, storage: {folder}/runs}}\n"
        "evaluate: {baselines: {supervised: {method: {name: supervised, depth: 18, width: 4}, data: {epoch: {samples_per: frame}}}}}\n"
    )
    return folder


def facscale(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.usefixtures("ray_cluster")
class TestDoctor:
    def test_a_cluster_that_holds_the_job(self, folder, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        done = facscale("doctor", folder / "job.yaml", "--json", "--working-dir", folder)
        told = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
        assert [one for one in told if one["state"] == "problem"] == []
        assert done.exit_code == 0
        said = {}
        for one in told:
            said.setdefault(one["check"], []).append(one["what"])
        assert "one node, 2 CPU, 0 GPU" in said["Ray"][0]
        assert "room for 2 workers" in said["room"][0]
        assert "here and on all nodes" in said["versions"][0]
        assert len(said["data"]) == 4
        assert all("MB/s" in what for what in said["data"][1::2])
        assert "MB/s" in said["storage"][0]
        assert not any((folder / "runs").iterdir())

    def test_a_job_that_does_not_fit(self, folder, monkeypatch):
        monkeypatch.setattr("facscale.doctor.context.DiagnosticContext.run_on_nodes", lambda *_, **__: {})
        job = Job.model_validate({"method": {"name": "clp"}, "cluster": {"workers": 4, "gpus_per_worker": 1}})
        (one,) = (one for one in run_checks(DiagnosticContext(job=job, code_folder=folder)) if one.check == "room")
        assert one.severity == "problem"
        assert "the cluster has" in one.message
        assert "lower cluster.workers" in one.message + one.fix

    def test_a_node_where_facscale_is_broken_still_says_what_it_has(self, tmp_path):
        (tmp_path / "facscale").mkdir()
        (tmp_path / "facscale" / "__init__.py").write_text("raise ImportError('half an installation')\n")
        environment = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
        (told,) = run_on_nodes(
            node.collect_facts, nodes=name_nodes(ray.nodes()), timeout_s=600, runtime_env=environment
        ).values()
        assert told["facscale"] == {"error": "ImportError: half an installation"}
        assert told["versions"]["ray"] == ray.__version__

    def test_what_fails_on_a_node_and_what_takes_too_long_are_answers(self):
        def fails():
            raise ZeroDivisionError("nought")

        def sleeps():
            import time

            time.sleep(600)

        (failed,) = run_on_nodes(fails, nodes=name_nodes(ray.nodes()), timeout_s=600).values()
        (late,) = run_on_nodes(sleeps, nodes=name_nodes(ray.nodes()), timeout_s=3).values()
        assert isinstance(failed, ZeroDivisionError)
        assert isinstance(late, TimeoutError)


def test_a_wrong_token_is_told_from_a_right_one(ray_cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    assert cluster.try_to_join() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    refused = cluster.try_to_join()
    assert (refused.severity, refused.message) == ("problem", "the cluster asks for a token, and ours is wrong")
    assert refused.fix == cluster.TOKEN_FIX


@pytest.mark.usefixtures("ray_cluster")
class TestRehearsal:
    def test_each_worker_says_what_it_measured_and_nothing_is_left(self, folder):
        main = expand_variants(read_spec(folder / "job.yaml"), name="job")[0]
        (first,) = list_trainings([main], JobData.open_for_training(main))
        events = []
        profile_training(first.task, seconds=1, receive=events.append)
        one, other = sorted((event for event in events if isinstance(event, WorkerProfile)), key=lambda each: each.rank)
        assert (one.rank, other.rank, one.world, one.device, one.gpu) == (0, 1, 2, "", None)
        for each in (one, other):
            assert 0 <= each.data_wait < 1
            assert each.model_step_s > 0
            assert 0 < each.memory < each.memory_size
            assert (
                min(each.step_s, each.exchange_s, each.stream_rate, each.read_bytes, each.decode_frames, each.cores) > 0
            )
        frame = sum(shard.bytes for shard in Dataset(f"{folder}/u").manifest.shards) / (40 * 12)
        assert 5 * frame < one.bytes_per_sample < 1.5 * 5 * frame  # a clip of 3 frames, 2 others, and what lies between
        assert one.checkpoint_bytes > 100_000
        assert other.checkpoint_bytes == 0
        assert not any((folder / "runs").iterdir())

    def test_the_command_says_what_holds_it_up_and_what_the_rest_takes(self, folder, monkeypatch):
        monkeypatch.setattr("facscale.track.tracker.Tracker.__init__", lambda *_, **__: pytest.fail("MLflow was told"))
        done = facscale("rehearse", folder / "job.yaml", "--seconds", 1, "--node-price", 3)
        assert done.exit_code == 0, done.output
        for expected in (
            "job seed 0 on 2 workers (CPU), clp",
            "reading alone",
            "images/s",
            "bottleneck: ",
            "-> ",
            "estimated from its operations and frames",
            "to the end: ",
            "at 3 a node-hour",
        ):
            assert expected in done.output, expected
        assert not any((folder / "runs").iterdir())


def test_a_job_that_trains_nothing_is_not_rehearsed(folder, monkeypatch):
    monkeypatch.setattr("facscale.profile.run.join", lambda: pytest.fail("Ray was joined"))
    done = facscale("rehearse", folder / "job.yaml", "train.epochs=0", "evaluate.baselines.supervised=null")
    assert done.exit_code == 0
    assert "trains nothing" in done.output


def test_a_pipeline_is_told_how_it_is_tried(tmp_path):
    (tmp_path / "p.yaml").write_text("source: {layout: videos, root: /videos}\noutput: /tmp/faces\n")
    done = facscale("rehearse", tmp_path / "p.yaml")
    assert done.exit_code == 2
    assert "source.limit=20" in done.output
