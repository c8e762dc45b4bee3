"""Private parts of Ray, tried with Ray 2.60.0. `tests/unit/compat/test_ray.py` checks that they still exist."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray

from facscale.compat import IncompatibleVersionError, load_private

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

TRIED = "2.60.0"
IMPORTED_AT_START = (
    "ray._common.usage.usage_lib",
    "ray._private.runtime_env.uv_runtime_env_hook",
    "ray.autoscaler.v2.utils",
    "ray.dashboard.optional_deps",
)


def load(module: str, name: str) -> Any:
    """Import a private name of Ray. Raises IncompatibleVersionError where it is absent."""
    return load_private(module, name, distribution="ray", tried=TRIED)


def import_for_start() -> None:
    """Import what `ray.init` imports to start a cluster, so that another thread may import other packages meanwhile.

    Python raises an error where two threads import parts of one package in opposite orders.
    """
    for module in IMPORTED_AT_START:
        with suppress(ImportError):  # of another version
            importlib.import_module(module)


def is_own_node_draining() -> bool:
    """Whether it is announced that the node of this process will be taken away, as Ray Train's watcher reads it."""
    draining = load("ray._private.state", "state").get_draining_nodes()
    return ray.get_runtime_context().get_node_id() in draining


def find_running_clusters() -> frozenset[str]:
    """Return the addresses (host:port) of all Ray clusters that have a raylet on this machine.

    Ray reads them from the command lines of its processes, and caches what it finds for the life of this process.
    """
    find = load("ray._private.services", "find_gcs_addresses")
    return frozenset(find())


def find_parent_cluster() -> str:
    """Return the address of the cluster whose raylet started this process or one of its parents; "" if none did.

    The raylet's command line carries the address as --gcs-address=HOST:PORT.
    """
    for parent in psutil.Process().parents():
        with suppress(psutil.Error):
            command = parent.cmdline()
            if command and Path(command[0]).name == "raylet":
                flags = [word.removeprefix("--gcs-address=") for word in command if word.startswith("--gcs-address=")]
                return flags[0] if flags else ""
    return ""


def read_latest_address() -> str:
    """Return the address of the cluster that was started last on this machine, running or not; "" if there is none.

    `ray start` and `ray.init` write it to a file in their temporary folder. `ray.init("auto")` reads the same file, but
    waits for minutes where that cluster has stopped, and the address is needed before joining, for the workers'
    environment.
    """
    read = load("ray._private.utils", "read_ray_address")
    return str(read() or "").strip()


def find_latest_address_file() -> Path:
    """Return the path of the file that `read_latest_address` reads."""
    locate = load("ray._private.utils", "get_ray_address_file")
    return Path(locate(None))


def read_start_times() -> list[float]:
    """Return when the living nodes of the joined cluster started, in seconds since 1970 by their own clocks.

    `ray.nodes()` does not have it, and `ray.util.state.list_nodes()` needs a dashboard.
    """
    worker = load("ray._private.worker", "global_worker")
    if not hasattr(worker.gcs_client, "get_all_node_info"):
        raise IncompatibleVersionError(
            "ray._private.worker.global_worker.gcs_client.get_all_node_info", distribution="ray", tried=TRIED
        )
    nodes = worker.gcs_client.get_all_node_info().values()
    return [node.start_time_ms / 1000 for node in nodes if not node.end_time_ms]


def is_own_cluster() -> bool:
    """Whether this process started the cluster that it has joined, which ends with it."""
    node = load("ray._private", "worker")._global_node  # noqa: SLF001
    return node is not None and bool(node.is_head())


def listen_on_loopback() -> dict[str, str]:
    """Have Ray use 127.0.0.1 as this machine's address in this process; returns the environment for those that it starts.

    A Ray that is started then listens there alone: GCS, raylet, workers and exporters. Ray otherwise replaces 127.0.0.1
    by the machine's address in the network, unless clusters are turned off, as they are on macOS and Windows.
    """
    load("ray._private.ray_constants", "ENABLE_RAY_CLUSTER")
    load("ray._private", "ray_constants").ENABLE_RAY_CLUSTER = False
    return get_loopback_variables()


def get_loopback_variables() -> dict[str, str]:
    """Return the environment in which a process of Ray uses 127.0.0.1 as this machine's address."""
    return {load("ray._private.ray_constants", "ENABLE_RAY_CLUSTERS_ENV_VAR"): "0"}


def enable_token_authentication() -> None:
    """Authenticate by token if RAY_AUTH_MODE is unset and a token is there, as `ray.init()` does without an address.

    With an address, as facscale calls it, `ray.init` uses a token only where RAY_AUTH_MODE=token.
    """
    module = "ray._private.authentication.authentication_token_setup"
    enable = load(module, "maybe_enable_token_auth_if_token_available")
    enable(warn_if_disabled=False)


def create_job_client(address: str, *, headers: Mapping[str, str]) -> JobSubmissionClient:
    """Connect a JobSubmissionClient to the dashboard at `address`, a URL.

    The client's own constructor obeys RAY_API_SERVER_ADDRESS and RAY_ADDRESS before its argument. It is therefore
    skipped for that of its base class, which takes the address as it is. Raises what that constructor raises, and
    IncompatibleVersionError.
    """
    from ray.job_submission import JobSubmissionClient

    module = "ray.dashboard.modules.dashboard_sdk"
    base = load(module, "SubmissionClient")
    if not issubclass(JobSubmissionClient, base) or not hasattr(base, "_check_connection_and_version"):
        name = f"{module}.SubmissionClient._check_connection_and_version in JobSubmissionClient"
        raise IncompatibleVersionError(name, distribution="ray", tried=TRIED)
    client = JobSubmissionClient.__new__(JobSubmissionClient)
    client._client_ray_version = ray.__version__  # noqa: SLF001 - as the skipped constructor does
    base.__init__(client, address=address, headers=dict(headers))
    client._check_connection_and_version(min_version="2.0")  # noqa: SLF001 - as the skipped constructor does
    return client


def add_worker_output_handler(name: str, handler: Callable[[dict[str, Any]], None]) -> None:
    """Let `handler` see, and change in place, each batch of output that workers send, unless `name` is added already.

    Handlers are called in the order in which they were added. `ray.init` adds the one that prints a batch's "lines", so
    that a handler added before it can remove lines. Tried with Ray 2.60.0. Raises IncompatibleVersionError.
    """
    module, dispatcher = "ray._private.ray_logging", "global_worker_stdstream_dispatcher"
    output = load(module, dispatcher)
    if not hasattr(output, "handlers") or not hasattr(output, "add_handler"):
        raise IncompatibleVersionError(f"{module}.{dispatcher}.handlers", distribution="ray", tried=TRIED)
    if name not in dict(output.handlers):
        output.add_handler(name, handler)
