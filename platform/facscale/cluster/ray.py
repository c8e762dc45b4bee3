"""The Ray cluster of a job: choose it, connect to it, and check that it can hold the job."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import AuthenticationError

from facscale.compat import set_variables
from facscale.compat.ray import (
    enable_token_authentication,
    find_latest_address_file,
    find_parent_cluster,
    find_running_clusters,
    is_own_cluster,
    listen_on_loopback,
    read_latest_address,
    read_start_times,
)
from facscale.compat.ray_jobs import has_working_dir, is_submitted
from facscale.log_filter import suppress_ray_notices
from facscale.ownership import PRIVATE_FOLDER, get_user_name, make_private_folder, restrict_new_files
from facscale.spec import Job, SpecError

Result = TypeVar("Result")
HOST_AND_PORT = re.compile(r"[\w.\-\[\]:]+:\d+")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
CLUSTER, DASHBOARD = "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"  # read by Ray's own clients; the second has precedence
MAX_SOCKET = 107  # bytes of a socket's path
MAX_RAY_DIR = MAX_SOCKET - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
MAX_TMPDIR = MAX_SOCKET - len("/pymp-01234567/listener-01234567")  # of multiprocessing, which Ray's dashboard uses
RETURN_S = 300.0  # in which lost nodes may come back
JOINING_S = 120.0  # after a node has joined, in which the next one may
REPORT_S = 30.0
CAPACITY_POLL_S = 2.0
HEAD_POLL_S = 10.0
MEMORY_OF_TRAINING = 1.0e9  # Ray Train's controller and its helpers, and ours (tests/benchmarks/start.py)
log = logging.getLogger(__name__)


def join() -> None:
    """Connect to the job's cluster: RAY_ADDRESS's, or this machine's. Without either, start one on this machine.

    Every process of the job gets the address of its cluster. Ray Train, Ray Data and Ray's clients would otherwise
    contact the cluster that was started last on this machine, which may belong to another user, and Ray Train aborts a
    training that it does not find there.

    Raises SpecError if the cluster that RAY_ADDRESS names does not answer, or rejects our token.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a CPU task must not hide the GPUs of its process
    if has_working_dir():
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths in a spec are those of that folder
    suppress_ray_notices()
    if ray.is_initialized():
        return
    address = choose_cluster()
    unreachable = SpecError(
        f"no Ray cluster answers at {address}: start one with `ray start --head`, or unset RAY_ADDRESS"
    )
    if HOST_AND_PORT.fullmatch(address) and not is_reachable(address):
        raise unreachable
    try:
        connect(address)
    except (ConnectionError, AuthenticationError) as error:
        if "AuthenticationError" in f"{error!r} {error.__cause__!r}":  # Ray keeps the cause as text
            raise SpecError(
                f"the Ray cluster at {address} lets nobody in without its token: set RAY_AUTH_MODE=token, "
                "and RAY_AUTH_TOKEN, or the file ~/.ray/auth_token, to what its administrator gave you"
            ) from None
        raise unreachable from None
    log_choice(address)


@contextmanager
def watch_head(address: str, *, every_s: float = HEAD_POLL_S) -> Iterator[None]:
    """Within the block, warn once where the head of the cluster at host:port stops answering, and when it answers again.

    Ray waits for it for a minute without a word, then ends this process.
    """
    has_ended = threading.Event()

    def watch() -> None:
        is_lost = False
        while not has_ended.wait(every_s):
            if is_lost != (not is_reachable(address)):
                is_lost = not is_lost
                log.warning(
                    "the head of the Ray cluster at %s %s",
                    address,
                    "does not answer: Ray waits for it for a minute, then this process ends; the job continues from its "
                    "checkpoints when it is submitted again" if is_lost else "answers again",
                )  # fmt: skip

    thread = threading.Thread(target=watch, name="head", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()


def connect(address: str) -> None:
    """Connect to the cluster at `address`, in the form of RAY_ADDRESS; "local" starts one on this machine."""
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    if address == "local":
        # The servers of the new Ray hand their environment on to all workers. A runtime environment would do so too, but Ray
        # starts two processes for each worker then, and has none ready.
        dashboard = build_dashboard_options()
        variables = listen_on_loopback() | build_dashboard_variables(dashboard)
        if short := build_socket_variables():  # workers write where the user wants them to
            options["runtime_env"] = {"env_vars": {"TMPDIR": tempfile.gettempdir()}}
        with (
            set_variables(variables | short),
            restrict_new_files(),  # Ray's session, what its workers write, and the token that Ray makes at home
        ):
            context = ray.init(address=address, _temp_dir=str(make_temp_dir("ray")), **dashboard, **options)
    else:
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")  # `ray job submit` may have set these variables too
        if not is_cluster_named():
            enable_token_authentication()  # as Ray does where no cluster is named
        if is_on_loopback_alone(address):
            listen_on_loopback()  # Ray would replace 127.0.0.1 by the machine's own address, where nobody answers
        context = ray.init(address=address, runtime_env={"env_vars": build_address_variables(address)}, **options)
        if is_submitted():
            os.environ[CLUSTER] = address  # for the programs that the driver starts
    if context.dashboard_url:
        os.environ[DASHBOARD] = f"http://{context.dashboard_url}"  # Ray Data contacts it from this process
    else:
        os.environ.pop(DASHBOARD, None)


def choose_cluster() -> str:
    """Return the address of the job's cluster: host:port, or "local" to start one.

    `ray job submit` sets RAY_ADDRESS too, but to the cluster that was started last on the machine of its driver. The
    job's own cluster is that of the raylet from which the driver descends. Raises SpecError if RAY_ADDRESS=auto and
    several clusters run on this machine, or none, and for an address of another kind.
    """
    if is_submitted() and (parent := find_parent_cluster()):
        return parent
    named = os.environ.get(CLUSTER, "")
    if is_cluster_named():
        if named != "local" and not HOST_AND_PORT.fullmatch(named):
            raise SpecError(
                f"RAY_ADDRESS={named} is not HOST:PORT (Ray's own port is 6379): http:// is the dashboard's address, for `ray "
                "job submit --address` and `facscale submit --ray`, and ray:// is Ray Client's, through which nothing can be "
                "trained. Correct it, or unset it"
            )
        return named
    if latest := find_latest_cluster():
        return latest
    running = find_running_clusters()
    if named and len(running) != 1:
        raise SpecError(f"RAY_ADDRESS=auto is ambiguous: {len(running)} Ray clusters run here; write HOST:PORT")
    return next(iter(running)) if named else "local"


def is_cluster_named() -> bool:
    """Return whether RAY_ADDRESS names a cluster, or asks for a new one ("local")."""
    return os.environ.get(CLUSTER, "") not in {"", "auto"}


def build_address_variables(address: str) -> dict[str, str]:
    """Environment of a process whose Ray clients shall find the cluster at `address`; empty unless that is host:port.

    The dashboard's variable is emptied: it has precedence, and workers inherit the value with which their node was
    started. A loopback address is replaced by the machine's, since other nodes have a loopback of their own.
    """
    if not HOST_AND_PORT.fullmatch(address):
        return {}
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host in LOOPBACK:
        host = ray.util.get_node_ip_address()
    return {CLUSTER: f"[{host}]:{port}" if ":" in host else f"{host}:{port}", DASHBOARD: ""}


def build_dashboard_options() -> dict[str, Any]:
    """Options of `ray.init` for a new cluster with a dashboard, on a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"include_dashboard": True, "dashboard_port": probe.getsockname()[1]}


def build_dashboard_variables(options: Mapping[str, Any]) -> dict[str, str]:
    """Environment in which all processes of a new cluster with these options find its dashboard.

    Its address as a cluster is known only after the start, so that one cannot be passed on.
    """
    return {DASHBOARD: f"http://127.0.0.1:{options['dashboard_port']}"}


def run_on_worker(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module in a worker of the cluster that is joined, on whichever node is free."""
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    result: Result = ray.get(remote.remote(*arguments))
    return result


def find_latest_cluster() -> str:
    """Return the address of the cluster that was started last on this machine if it still answers, else "".

    Its file lies where every user can write. A cluster of another user, unless that is root, is only joined if
    RAY_ADDRESS names it: its owner can read and change all that the job does.
    """
    address = read_latest_address()
    if not is_reachable(address):
        return ""
    file = find_latest_address_file()
    owner = file.stat().st_uid
    if owner not in {0, os.geteuid()}:
        logging.getLogger(__name__).warning(
            "the Ray cluster at %s, the last one started on this machine, is not joined, because %s started it (%s); "
            "RAY_ADDRESS=%s would join it",
            address, get_user_name(owner), file, address,
        )  # fmt: skip
        return ""
    return address


def is_on_loopback_alone(address: str) -> bool:
    """Whether a cluster answers on this machine's loopback address and not on its address in the network."""
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in LOOPBACK:
        return False
    machine = ray.util.get_node_ip_address()
    return machine in LOOPBACK or not is_reachable(f"{machine}:{port}")


def make_temp_dir(name: str) -> Path:
    """Make a folder for the logs, sockets and code of a Ray that we start, within one that no other user can enter.

    Ray makes its own folders writable for everybody, and runs the code that lies in them. The place is RAY_TMPDIR or
    the system's temporary folder, unless the path would be too long for Ray's sockets; then it is /tmp. Raises SpecError
    where both are too long, and OwnershipError where another user has access.
    """
    for parent in (os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), "/tmp"):  # noqa: S108 - checked below
        folder = Path(parent).expanduser().absolute() / f"facscale-{os.geteuid()}" / name
        if len(os.fsencode(folder)) <= MAX_RAY_DIR:
            break
    else:
        raise SpecError(f"{folder} is too long for Ray's sockets, at most {MAX_RAY_DIR} characters: set RAY_TMPDIR")
    make_private_folder(folder.parent).chmod(PRIVATE_FOLDER)
    folder.mkdir(exist_ok=True)
    return folder


def build_socket_variables() -> dict[str, str]:
    """Environment of the servers of a Ray that we start: a short TMPDIR where this process's is too long for their sockets.

    Raises as `make_temp_dir`.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= MAX_TMPDIR:
        return {}
    return {"TMPDIR": str(make_temp_dir("tmp"))}


def log_choice(address: str) -> None:
    """Warn which cluster was taken if RAY_ADDRESS names none and several run on this machine."""
    others = sorted(find_running_clusters() - {ray.get_runtime_context().gcs_address})
    if others and not is_cluster_named():
        choice = "started a Ray of its own" if address == "local" else f"uses the last one started here, {address}"
        log.warning(
            "Ray clusters run on this machine at %s too; this run %s. RAY_ADDRESS=HOST:PORT chooses",
            ", ".join(others),
            choice,
        )


def is_reachable(address: str) -> bool:
    """Return whether something accepts TCP connections at host:port within 5 seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def get_worker_resources(job: Job) -> dict[str, float]:
    """Return what one worker reserves, under Ray's resource names; no "GPU" for a job on CPUs."""
    gpus = {"GPU": job.cluster.gpus_per_worker} if job.cluster.gpus_per_worker else {}
    return {"CPU": job.cluster.cpus_per_worker, **gpus}


def check_capacity(job: Job) -> None:
    """Raise SpecError if the cluster is too small for the job's fewest workers, also after it has grown."""
    if reason := explain_capacity(job):
        raise SpecError(reason)


def wait_for_capacity(job: Job, *, is_resumed: bool) -> None:
    """As `check_capacity`, but wait where nodes may be about to join or to come back, with a line every REPORT_S.

    RETURN_S where the cluster has lost nodes, or the job ran before (`is_resumed`); on a cluster that is still forming
    until no node has joined for JOINING_S, and RETURN_S at most. Waiting is in vain on a cluster that this process
    started, and on one that says what it grows to.
    """
    began, reported = time.monotonic(), -math.inf
    while reason := explain_capacity(job):
        waited = time.monotonic() - began
        remaining = RETURN_S - waited
        if not (is_resumed or has_lost_nodes()):
            remaining = min(remaining, JOINING_S - (time.time() - max(read_start_times(), default=0)))
        if remaining <= 0 or is_own_cluster() or read_cluster_limits():
            raise SpecError(reason)
        if waited - reported >= REPORT_S:
            reported = waited
            log.warning("%s. Waiting for up to %.0f s, because nodes may be joining", reason, remaining)
        time.sleep(min(CAPACITY_POLL_S, remaining))


def explain_capacity(job: Job) -> str:
    """Explain why the cluster cannot hold the job's fewest workers, also after it has grown; "" if it can."""
    workers, available, limits = job.cluster.min_workers, ray.cluster_resources(), read_cluster_limits()
    for name, amount in get_worker_resources(job).items():
        limit = max(available.get(name, 0), limits.get(name, 0))
        if not job.cluster.autoscaling and workers * amount > limit:
            return (
                f"the job asks for {workers} workers with {amount:g} {name} each, the cluster "
                f"{'grows to' if limits else 'has'} {limit:g} {name}: lower cluster.workers or "
                f"cluster.{name.lower()}s_per_worker"
                + (" (0 trains on the CPU)" if name == "GPU" else "")
                + ", join more nodes, or set cluster.autoscaling=true if it grows on demand"
            )
    return ""


def describe_cluster() -> str:
    """As in "on the Ray cluster at 10.0.0.4:6379 with 64 CPUs and 8 GPUs"."""
    resources = ray.cluster_resources()
    address = ray.get_runtime_context().gcs_address
    return f"on the Ray cluster at {address} with {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def has_lost_nodes() -> bool:
    """Whether a node of the cluster has died."""
    return any(not node["Alive"] for node in ray.nodes())


def read_cluster_limits() -> dict[str, float]:
    """Read from FACSCALE_CLUSTER_LIMITS what an autoscaling cluster grows to: {"CPU": 16.0, "GPU": 8.0}.

    The chart sets it in the head of its permanent cluster, where jobs start. Empty on other clusters.
    """
    pairs = [pair.partition("=") for pair in os.environ.get("FACSCALE_CLUSTER_LIMITS", "").split(",") if pair]
    return {name: float(amount) for name, _, amount in pairs}


def count_parallel_trainings(job: Job) -> int:
    """Return how many trainings of this job the cluster holds at a time with its present nodes: at least 1.

    With several workers, each takes MEMORY_OF_TRAINING on the node of this process as well. A warning says where that
    decides.
    """
    available, workers = ray.cluster_resources(), job.cluster.max_workers
    trainings = [available.get(name, 0) / (workers * amount) for name, amount in get_worker_resources(job).items()]
    held = max(1, int(min(trainings)))
    if job.cluster.has_one_worker:
        return held
    memory = read_own_memory()
    fitting = int(memory // MEMORY_OF_TRAINING)
    if fitting < held:
        log.warning(
            "trainings at a time: %d; the cluster has room for the workers of %d, but each needs %.1f GB on the node where "
            "the job runs (the head) as well, which has %.1f GB",
            max(1, fitting), held, MEMORY_OF_TRAINING / 1e9, memory / 1e9,
        )  # fmt: skip
    return max(1, min(held, fitting))


def read_own_memory() -> float:
    """Bytes of memory that Ray counts on the node of this process, without its object store."""
    own = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == own)
    return float(node["Resources"].get("memory", 0.0))
