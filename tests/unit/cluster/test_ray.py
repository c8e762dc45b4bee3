"""Which cluster is joined; a job that can never start there is refused before anything is asked for."""

from __future__ import annotations

import os
import socket
import stat
from types import SimpleNamespace

import psutil
import pytest
import ray
from ray._private import ray_constants

from facscale.cluster import ray as local
from facscale.cluster.ray import check_capacity, get_worker_resources, join, wait_for_capacity
from facscale.ownership import OwnershipError
from facscale.spec import Job, SpecError

LOOPBACK_ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def job(**cluster):
    return Job(method={"name": "clp"}, cluster={"cpus_per_worker": 2, **cluster})


@pytest.fixture
def cluster_of(monkeypatch):
    def set_resources(*, alive=True, **there):
        monkeypatch.setattr(ray, "cluster_resources", lambda: there)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}, {"Alive": alive}])

    monkeypatch.setattr(local, "read_start_times", lambda: [0.0])
    monkeypatch.setattr(local, "is_own_cluster", lambda: False)
    return set_resources


def test_a_worker_asks_for_what_the_spec_says():
    assert get_worker_resources(job(gpus_per_worker=0)) == {"CPU": 2}
    assert get_worker_resources(job(gpus_per_worker=0.5)) == {"CPU": 2, "GPU": 0.5}


def test_no_gpu(cluster_of):
    cluster_of(CPU=64)
    with pytest.raises(
        SpecError, match=r"4 workers with 1 GPU each, the cluster has 0 GPU: .*gpus_per_worker \(0 trains on the CPU\)"
    ):
        check_capacity(job(workers=4))


def test_too_few_cores(cluster_of):
    cluster_of(CPU=3, GPU=8)
    with pytest.raises(SpecError, match="2 workers with 2 CPU each, the cluster has 3 CPU: lower cluster.workers"):
        check_capacity(job(workers=2))


def test_a_cluster_that_says_what_it_grows_to(cluster_of, monkeypatch):
    cluster_of(CPU=0)
    monkeypatch.setenv("FACSCALE_CLUSTER_LIMITS", "CPU=16,GPU=0")
    check_capacity(job(workers=8, gpus_per_worker=0))
    with pytest.raises(SpecError, match="9 workers with 2 CPU each, the cluster grows to 16 CPU"):
        check_capacity(job(workers=9, gpus_per_worker=0))


@pytest.mark.parametrize("cluster", [{"workers": (1, 8), "gpus_per_worker": 0}, {"workers": 8, "autoscaling": True}])
def test_what_fits_at_least_once_or_can_grow_is_let_in(cluster_of, cluster):
    cluster_of(CPU=2)
    check_capacity(job(**cluster))


class Clock:
    """A clock that `wait_for_capacity` reads and sleeps by; `events` happen at their times, in seconds from its start."""

    def __init__(self, monkeypatch, events):
        self.now, self.events = 1000.0, dict(events)
        for name in ("monotonic", "time"):
            monkeypatch.setattr(local.time, name, lambda: self.now)
        monkeypatch.setattr(local.time, "sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds
        for moment in [moment for moment in self.events if moment <= self.now - 1000]:
            self.events.pop(moment)()


TWO_WORKERS = job(workers=2, gpus_per_worker=0)  # four CPUs


@pytest.mark.parametrize(("is_resumed", "alive"), [(True, True), (False, False)])
def test_nodes_that_come_back_are_waited_for(cluster_of, monkeypatch, caplog, is_resumed, alive):
    cluster_of(CPU=3, alive=alive)
    clock = Clock(monkeypatch, {200: lambda: cluster_of(CPU=4, alive=alive)})
    wait_for_capacity(TWO_WORKERS, is_resumed=is_resumed)
    assert clock.now - 1000 == 200
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 7  # at once, and every thirty seconds
    assert "the cluster has 3 CPU" in lines[0]
    assert "for up to 300 s" in lines[0]
    assert "for up to 120 s" in lines[-1]


def test_nodes_that_do_not_come_back_are_not_waited_for_longer(cluster_of, monkeypatch):
    cluster_of(CPU=3)
    clock = Clock(monkeypatch, {})
    with pytest.raises(SpecError, match="the cluster has 3 CPU"):
        wait_for_capacity(TWO_WORKERS, is_resumed=True)
    assert clock.now - 1000 == local.RETURN_S


def join_node(cluster_of, monkeypatch, starts, *, cpus):
    """A node starts now."""
    starts.append(local.time.time())
    cluster_of(CPU=cpus)
    monkeypatch.setattr(local, "read_start_times", lambda: starts)


def test_a_first_job_waits_while_the_cluster_forms(cluster_of, monkeypatch, caplog):
    cluster_of(CPU=1)
    starts = [995.0]  # the head, five seconds ago
    monkeypatch.setattr(local, "read_start_times", lambda: starts)
    moments = {100: 2, 210: 4}  # the second node comes 215 s after the head, and less than two minutes after the first
    events = {
        at: lambda cpus=cpus: join_node(cluster_of, monkeypatch, starts, cpus=cpus) for at, cpus in moments.items()
    }
    clock = Clock(monkeypatch, events)
    wait_for_capacity(TWO_WORKERS, is_resumed=False)
    assert clock.now - 1000 == 210
    assert "Waiting for up to 115 s, because nodes may be joining" in caplog.text


def test_a_cluster_that_no_node_joins_any_more_refuses_the_job(cluster_of, monkeypatch):
    cluster_of(CPU=1)
    monkeypatch.setattr(local, "read_start_times", lambda: [995.0])
    clock = Clock(monkeypatch, {})
    with pytest.raises(SpecError, match="the cluster has 1 CPU"):
        wait_for_capacity(TWO_WORKERS, is_resumed=False)
    assert clock.now == 995 + local.JOINING_S
    with pytest.raises(SpecError, match="the cluster has 1 CPU"):  # at once
        wait_for_capacity(TWO_WORKERS, is_resumed=False)
    assert clock.now == 995 + local.JOINING_S


@pytest.mark.parametrize("limits", ["", "CPU=2"])
def test_a_cluster_that_cannot_get_further_nodes_refuses_at_once(cluster_of, monkeypatch, limits):
    cluster_of(CPU=1)
    monkeypatch.setattr(local, "is_own_cluster", lambda: not limits)
    monkeypatch.setenv("FACSCALE_CLUSTER_LIMITS", limits)
    clock = Clock(monkeypatch, {})
    with pytest.raises(SpecError, match="the cluster (has 1|grows to 2) CPU"):
        wait_for_capacity(TWO_WORKERS, is_resumed=True)
    assert clock.now == 1000


@pytest.fixture
def joined(monkeypatch, tmp_path):
    """What Ray is asked for, address and variables; as on a machine without any cluster."""
    asked = []

    def init(*, address, runtime_env=None, **_):
        assert (address == "local") == ("_temp_dir" in _)
        asked.append((address, (runtime_env or {}).get("env_vars", {})))
        return SimpleNamespace(dashboard_url="127.0.0.1:8265")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=asked[-1][0]))
    monkeypatch.setattr(local, "find_running_clusters", frozenset)
    variables = ("RAY_API_SERVER_ADDRESS", "RAY_OVERRIDE_JOB_RUNTIME_ENV", "RAY_AUTH_MODE", LOOPBACK_ALONE)
    for name in variables:
        monkeypatch.setenv(name, os.environ.get(name, ""))  # given back afterwards
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    (tmp_path / "ray").mkdir()
    return asked


def places(asked):
    return [address for address, _ in asked]


@pytest.fixture
def listener():
    """A server on all addresses of this machine, as those of a cluster are."""
    with socket.create_server(("", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def silence():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_without_any_cluster_one_is_started(joined):
    join()
    assert places(joined) == ["local"]


def test_what_is_started_here_is_told_where_its_dashboard_is(joined, monkeypatch):
    given, init = {}, ray.init

    def start(**options):
        given.update(options, variable=os.environ["RAY_API_SERVER_ADDRESS"])
        return init(**options)

    monkeypatch.setattr(ray, "init", start)
    join()
    assert given["include_dashboard"]
    assert given["variable"] == f"http://127.0.0.1:{given['dashboard_port']}"
    assert "runtime_env" not in given  # its workers inherit the variable


def test_the_cluster_of_this_machine_is_joined_only_while_it_answers(joined, listener, silence, tmp_path):
    for place in (listener, silence):
        (tmp_path / "ray" / "ray_current_cluster").write_text(place)
        join()
    assert places(joined) == [listener, "local"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user, which only root may")
def test_a_cluster_that_another_user_started_is_only_joined_by_name(joined, listener, tmp_path, monkeypatch, caplog):
    """Every user can write the file that names the last one: whoever does would get the job's code and its token."""
    file = tmp_path / "ray" / "ray_current_cluster"
    file.write_text(listener)
    os.chown(file, 4242, 4242)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not local.find_latest_cluster()
    assert f"is not joined, because user 4242 started it ({file})" in caplog.text
    os.chown(file, 1000, 1000)
    assert local.find_latest_cluster() == listener


def test_a_cluster_of_loopback_alone_stays_there(joined, monkeypatch):
    """The machine's own address would reach nobody, or a server of somebody else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        join()
    ((_, variables),) = joined
    assert variables["RAY_ADDRESS"] == address
    assert not ray_constants.ENABLE_RAY_CLUSTER, "Ray would ask at the machine's own address"
    assert not os.environ[LOOPBACK_ALONE], "a program that this one starts may join another cluster"


def test_the_folder_of_a_ray_that_we_start_is_closed_and_short_enough(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    folder = local.make_temp_dir("test")
    assert folder.parent.name == f"facscale-{os.geteuid()}"
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    monkeypatch.delenv("RAY_TMPDIR")
    long = tmp_path / ("long" * 30)  # as Slurm and CI make them
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(local.tempfile, "tempdir", None)
    assert local.make_temp_dir("test") == folder
    assert local.build_socket_variables() == {"TMPDIR": str(folder.parent / "tmp")}
    monkeypatch.setattr(local.tempfile, "tempdir", "/scratch/anna")
    assert local.build_socket_variables() == {}
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path)[:1] + "x")
    with pytest.raises(SpecError, match=r"too long for Ray's sockets, at most \d+ characters: set RAY_TMPDIR"):
        local.make_temp_dir("n" * 60)


def test_a_temporary_folder_that_others_prepared_is_refused(monkeypatch, tmp_path_factory):
    base = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("RAY_TMPDIR", f"/tmp/{base.parent.name[-3:]}-{os.getpid()}")
    prepared = local.Path(os.environ["RAY_TMPDIR"]) / f"facscale-{os.geteuid()}"
    prepared.mkdir(parents=True)
    prepared.chmod(0o777)
    try:
        with pytest.raises(OwnershipError, match=f"every user may write to {prepared}"):
            local.make_temp_dir("ray")
    finally:
        prepared.rmdir()
        prepared.parent.rmdir()


def test_a_named_cluster_is_joined_or_missed(joined, listener, silence, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", listener)
    join()
    assert places(joined) == [listener]
    monkeypatch.setenv("RAY_ADDRESS", silence)
    with pytest.raises(SpecError, match=f"no Ray cluster answers at {silence}: start one"):
        join()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "nonsense", "127.0.0.1"])
def test_an_address_of_another_kind_is_refused_before_ray_waits_for_it(joined, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SpecError, match=f"RAY_ADDRESS={address} is not HOST:PORT .*ray job submit"):
        join()
    assert not joined


def test_the_processes_of_a_job_know_its_cluster_alone(joined, listener, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", listener)
    join()
    ((_, variables),) = joined
    host, _, port = variables["RAY_ADDRESS"].rpartition(":")
    assert port == listener.rpartition(":")[2]
    assert host != "127.0.0.1", "other nodes have a loopback too"
    assert variables["RAY_API_SERVER_ADDRESS"] == "", "a node may have been started with that of another cluster"
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:8265"


def test_a_submitted_job_runs_on_the_cluster_that_started_it(joined, listener, monkeypatch):
    """Ray's job supervisor names the cluster that was last started on its machine, be it another."""
    parents = [
        SimpleNamespace(cmdline=lambda: ["ray::JobSupervisor"]),
        SimpleNamespace(cmdline=lambda: ["/ray/raylet", "--raylet_socket_name=x", f"--gcs-address={listener}"]),
    ]
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parents=lambda: parents))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    join()
    assert places(joined) == [listener]
    assert os.environ["RAY_ADDRESS"] == listener


@pytest.mark.parametrize(
    ("config", "expected"), [("{}", None), ('{"runtime_env": {"working_dir": "gcs://a.zip"}}', "0")]
)
def test_the_workers_of_a_job_with_a_working_directory_stay_in_it(joined, monkeypatch, config, expected):
    """Ray Train would move them to a folder of its own, from which a relative path in the spec leads nowhere."""
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "")  # given back afterwards
    monkeypatch.delenv("RAY_CHDIR_TO_TRIAL_DIR")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    join()
    assert os.environ.get("RAY_CHDIR_TO_TRIAL_DIR") == expected


def test_auto_takes_the_only_cluster_and_refuses_a_choice(joined, listener, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(local, "find_running_clusters", lambda: frozenset([listener]))
    join()
    assert places(joined) == [listener]
    for running in ([], [listener, "10.0.0.1:6379"]):
        monkeypatch.setattr(local, "find_running_clusters", lambda running=running: frozenset(running))
        with pytest.raises(SpecError, match=f"{len(running)} Ray clusters run here; write HOST:PORT"):
            join()


def test_where_several_run_the_choice_is_logged(joined, listener, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(local, "find_running_clusters", lambda: frozenset([listener, "10.0.0.1:6379"]))
    (tmp_path / "ray" / "ray_current_cluster").write_text(listener)
    join()
    (text,) = caplog.messages
    assert "at 10.0.0.1:6379 too" in text
    assert f"the last one started here, {listener}" in text
    monkeypatch.setenv("RAY_ADDRESS", listener)
    join()
    assert caplog.messages == [text]


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
    monkeypatch.setattr(local, "is_reachable", lambda _: True)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(SpecError, match=message):
        join()
