"""Which cluster is joined; a job that can never start there is refused before anything is asked for."""

from __future__ import annotations

import socket

import pytest
import ray

from facscale.cluster import join, local, refuse_impossible, resources
from facscale.spec import Job, SpecError


def job(**cluster):
    return Job(method={"name": "clp"}, cluster={"cpus_per_worker": 2, **cluster})


@pytest.fixture
def cluster_of(monkeypatch):
    return lambda **there: monkeypatch.setattr(ray, "cluster_resources", lambda: there)


def test_a_worker_asks_for_what_the_spec_says():
    assert resources(job(gpus_per_worker=0)) == {"CPU": 2}
    assert resources(job(gpus_per_worker=0.5)) == {"CPU": 2, "GPU": 0.5}


def test_no_gpu(cluster_of):
    cluster_of(CPU=64)
    with pytest.raises(
        SpecError, match=r"4 workers with 1 GPU each, the cluster has 0 GPU: .*gpus_per_worker \(0 trains on the CPU\)"
    ):
        refuse_impossible(job(workers=4))


def test_too_few_cores(cluster_of):
    cluster_of(CPU=3, GPU=8)
    with pytest.raises(SpecError, match="2 workers with 2 CPU each, the cluster has 3 CPU: lower cluster.workers"):
        refuse_impossible(job(workers=2))


@pytest.mark.parametrize("cluster", [{"workers": (1, 8), "gpus_per_worker": 0}, {"workers": 8, "autoscaling": True}])
def test_what_fits_at_least_once_or_can_grow_is_let_in(cluster_of, cluster):
    cluster_of(CPU=2)
    refuse_impossible(job(**cluster))


@pytest.fixture
def joined(monkeypatch, tmp_path):
    """The address that Ray is asked for; as on a machine without any cluster."""
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *, address=None, **_: asked.append(address))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return asked


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silence():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_without_any_cluster_one_is_started(joined):
    join()
    assert joined == ["local"]


def test_what_is_started_here_is_told_where_its_dashboard_is(joined, monkeypatch):
    options = {}
    monkeypatch.setattr(ray, "init", lambda **given: options.update(given))
    join()
    variables = options["runtime_env"]["env_vars"]
    assert options["include_dashboard"]
    assert variables["RAY_API_SERVER_ADDRESS"] == f"http://127.0.0.1:{options['dashboard_port']}"


def test_the_cluster_of_this_machine_is_joined_only_while_it_answers(joined, listener, silence, tmp_path):
    for place in (listener, silence):
        (tmp_path / "ray" / "ray_current_cluster").write_text(place)
        join()
    assert joined == [None, "local"]


def test_a_named_cluster_is_joined_or_missed(joined, listener, silence, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", listener)
    join()
    assert joined == [None]
    monkeypatch.setenv("RAY_ADDRESS", silence)
    with pytest.raises(SpecError, match=f"no Ray cluster answers at {silence}: start one"):
        join()


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            RuntimeError("Failed to connect to GCS: ray.exceptions.AuthenticationError: InvalidAuthToken"),
            "without its token",
        ),
        (RuntimeError("Failed to connect to GCS: timed out"), "no Ray cluster answers"),
    ],
)
def test_a_cluster_that_does_not_know_our_token_is_not_called_silent(monkeypatch, cause, message):
    def init(**_):
        raise ConnectionError("Failed to connect to Ray cluster") from cause

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(local, "answers", lambda _: True)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(SpecError, match=message):
        join()
