"""Fixtures that several rooms share."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from facscale.track.server import LocalServer, ensure_server, stop_server
from guarded import GuardedMLflow
from postgres import Postgres, find_programs
from s3 import S3Server

# At Ray's 15 its workers would starve beside the tests of another process.
os.environ.setdefault("RAY_worker_niceness", "0")
# This environment's programs first: two versions of ninja, one by PATH and one not, build DeepSpeed's operator anew in turns.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# Our own modules are compiled once, not by each of the many processes that Ray starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# DeepSpeed's operator is compiled once for this environment, also by tests with a HOME of their own.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))
_numbers = itertools.count()
ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "tests" / "plugins"  # third-party packages as pip would install them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process is left with one at the end.

    A marker `slow` or `nightly` without a reason is an error.
    """
    minutes: dict[Path, float] = {}
    for item in items:
        for tier in filter(None, map(item.get_closest_marker, ("slow", "nightly"))):
            if not tier.args:
                raise pytest.UsageError(f"{item.nodeid}: say why it is {tier.name}")
            minutes[item.path] = max(minutes.get(item.path, 0), tier.kwargs.get("minutes", 0.5))
    items.sort(key=lambda item: -minutes.get(item.path, 0))  # stable: a file's own order stays


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server that all tests of a session share: do not stop it."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh bucket, with the environment set so that it can be read and written."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket(f"test-{next(_numbers)}")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A running MLflow server that all tests of a session share: use experiments of your own, and do not stop it."""
    folder = tmp_path_factory.mktemp("mlflow")
    yield ensure_server(folder, 0)
    stop_server(folder)


@pytest.fixture(scope="session")
def guarded_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server that asks for a login (`guarded.ADMIN`, `guarded.READER`); shared likewise."""
    pytest.importorskip("flask_wtf", reason="MLflow's accounts need it: pip install 'mlflow[auth]'")
    with GuardedMLflow(tmp_path_factory.mktemp("guarded")) as server:
        yield server.url


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running Postgres that all tests of a session share: `make_database` gives each its own."""
    if find_programs() is None:
        pytest.skip("Postgres is missing: apt-get install postgresql")
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of a local Ray with two CPUs, to which this process is connected; the tests of a session share it.

    Its workers know our source and the packages of `tests/plugins`.
    """
    import ray

    from facscale.cluster.ray import build_dashboard_options, build_dashboard_variables

    own = build_dashboard_options()  # without it Ray Train ends each training 12 s later
    paths = [str(PLUGINS), str(ROOT / "platform"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = build_dashboard_variables(own) | {
        "PYTHONPATH": os.pathsep.join(paths),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # else an end, or a death, is seen after 2 s
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more at each start; tests/e2e has it
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():  # Ray hands them on to the workers of all jobs, not only of this process
            patch.setenv(name, value)
        context = ray.init(
            **own,
            address="local",  # never the cluster that somebody runs on this machine
            num_cpus=2,
            log_to_driver=False,
        )
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(autouse=True)
def gives_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves CPUs of the shared Ray taken: the next one would wait for them for ever."""
    yield
    if "ray_cluster" not in request.fixturenames:
        return
    import ray
    from ray.util.placement_group import PlacementGroup

    end = time.monotonic() + 120
    while ray.is_initialized() and ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        if time.monotonic() > end:
            held = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
            for group in held:  # one test fails, not all that come after it
                identity = ray.PlacementGroupID(bytes.fromhex(group["placement_group_id"]))
                ray.util.remove_placement_group(PlacementGroup(identity))
            pytest.fail(f"the test is over, and of the Ray that all tests share this is still taken: {held}")
        time.sleep(0.2)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages of `tests/plugins` are installed in this process."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    return PLUGINS


@pytest.fixture
def harmless(capfd):
    """No test has read a pickle of `harmful.Harmful`."""
    yield
    assert "harm" not in capfd.readouterr().out
