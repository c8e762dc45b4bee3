"""`facscale demo`, which `make demo` calls: every part of the platform at a small size on one machine."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from facscale.cluster.kubernetes import RayTarget
from facscale.cluster.kubernetes.errors import JobNotFoundError
from facscale.cluster.kubernetes.ray_client import RayError, RayJobsClient
from facscale.cluster.ray import build_socket_variables, is_reachable, make_temp_dir
from facscale.compat.ray import get_loopback_variables
from facscale.errors import UserError
from facscale.log_filter import SUBMIT_NOISE
from facscale.ownership import PRIVATE_UMASK, make_private_folder
from facscale.processes import stop_process_group
from facscale.progress import format_duration
from facscale.shipped import locate_shipped

ROOT = locate_shipped("jobs").parent  # holds jobs/ and pipelines/, in a checkout and in an installed wheel
BIN = Path(sys.executable).parent
RAY_PORT, DASHBOARD_PORT, MLFLOW_PORT = 6389, 8275, 5005  # Ray also takes the two ports after the dashboard's
PIPELINES = ("synthetic.yaml", "synthetic_bp4d.yaml")
DATA = "synthetic_bp4d"  # the data set of the evaluation, and so the MLflow experiment
START_S, START_POLL_S = 120.0, 0.2
STOP_WAIT_S = 5.0


def run_demo(folder: Path) -> int:
    """Render faces, ingest them, train, evaluate, compare and predict; results of an earlier demo are reused.

    Returns the exit status of the job.
    """
    from facscale.cli.demo_talk import show_unseen_talk
    from facscale.track.server import ensure_server
    from facscale.track.view import find_view_url

    started = time.monotonic()
    folder = make_private_folder(folder)
    os.umask(PRIVATE_UMASK)  # whatever the demo writes, its databases included, is its user's own
    print_heading("1/5", "an MLflow server and a Ray cluster on this machine")
    server = ensure_server(folder / "mlflow", MLFLOW_PORT)
    locations = {"FACSCALE_DATA": str(folder / "data"), "FACSCALE_RUNS": str(folder / "runs")}
    os.environ.update(get_ray_credentials(folder) | locations | {"MLFLOW_TRACKING_URI": server.url})
    start_ray(folder)
    for number, pipeline in enumerate(PIPELINES, start=2):
        print_heading(f"{number}/5", f"pipelines/{pipeline}: render talking faces, detect and align them, write shards")
        run_facscale("run", ROOT / "pipelines" / pipeline, variables={"RAY_ADDRESS": f"127.0.0.1:{RAY_PORT}"})
    print_heading("4/5", "ray job submit jobs/demo.yaml")
    status = submit_demo_job()
    if status == 0:
        print_heading("5/5", "the best detector reads a talk of somebody whom it has not seen")
        show_unseen_talk(folder, tracker=server.url)
        print(
            f"\nDone in {format_duration(time.monotonic() - started)}. Ray dashboard: http://127.0.0.1:{DASHBOARD_PORT}"
        )
        print(f"F1 of all runs, side by side: {find_view_url(server.url, DATA)}")
        print(f"Both servers keep running for the next demo; stop them with: facscale demo --folder {folder} --stop")
    return status


def stop_demo(folder: Path) -> None:
    """Stop the servers that `run_demo` started; data and runs stay. Raises UserError if no demo was run in `folder`."""
    from facscale.track.server import find_server, stop_server

    pid_file, server = folder / "ray.pid", folder.absolute() / "mlflow"
    if not server.is_dir() and not pid_file.exists():
        raise UserError(f"--folder {folder}: no demo was run there; name the folder that `facscale demo` was given")
    if not is_ray_running(pid_file) and find_server(server) is None:
        print("nothing was running; the demo's files are in", folder)
        return
    stop_server(server)
    if pid_file.exists():
        stop_ray(pid_file)
    print("stopped; a new demo reuses what is in", folder)


def get_ray_credentials(folder: Path) -> dict[str, str]:
    """Environment variables that give access to the demo's Ray cluster: a token that only this folder holds."""
    token_file = make_private_folder(folder) / "ray.token"
    if not token_file.exists():
        token_file.touch(mode=0o600)
        token_file.write_text(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_file.read_text()}


def start_ray(
    folder: Path, *, port: int = RAY_PORT, dashboard: int = DASHBOARD_PORT, temp_dir: Path | None = None
) -> None:
    """Start a Ray head on a port of its own, separate from any other Ray on this machine; no-op if it runs already.

    All of its servers listen on 127.0.0.1 alone. `temp_dir` is Ray's folder for logs and sockets, which no other user
    may be able to enter; by default each `folder` has one of its own. Raises SystemExit if Ray ends early or does not
    answer within two minutes, and OwnershipError where another user has access to `folder`.
    """
    pid_file = folder / "ray.pid"
    if is_ray_running(pid_file):
        return
    log_file = folder / "ray.log"
    options = {
        "--port": port,
        "--dashboard-port": dashboard,
        "--dashboard-agent-listen-port": dashboard + 1,
        "--ray-client-server-port": dashboard + 2,
        "--dashboard-host": "127.0.0.1",
        "--node-ip-address": "127.0.0.1",
        "--temp-dir": temp_dir or choose_temp_dir(folder),
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += [str(word) for option in options.items() for word in option]
    variables = build_environment(get_ray_credentials(folder) | get_loopback_variables() | build_socket_variables())
    with log_file.open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=variables, umask=PRIVATE_UMASK
        )
    pid_file.write_text(str(process.pid))
    address = f"http://127.0.0.1:{dashboard}"
    jobs = RayJobsClient(RayTarget("demo", address, token_file=str(folder / "ray.token")))
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"error: Ray did not start; the reason is in {log_file}")
        with suppress(RayError, JobNotFoundError):  # it does not answer yet, or without its pages
            jobs.list_jobs()
            if is_reachable(f"127.0.0.1:{dashboard + 1}"):  # the agent, which starts jobs, is up after the list
                return
        time.sleep(START_POLL_S)
    raise SystemExit(f"error: Ray does not answer at {address}; see {log_file}")


def stop_ray(pid_file: Path) -> None:
    """Stop the process group that `start_ray` started, and no other.

    `ray start --block` would wait for each of its processes, half a minute in all, for state that nobody reads again.
    """
    if is_ray_running(pid_file):
        pid = int(pid_file.read_text())
        stop_process_group(pid, is_running=lambda: is_ray_running(pid_file), wait_s=STOP_WAIT_S)
    pid_file.unlink()


def is_ray_running(pid_file: Path) -> bool:
    """Whether the process with the pid in this file is still that of `ray start --head`."""
    try:
        command = Path(f"/proc/{int(pid_file.read_text())}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
    return b"start" in command and b"--head" in command


def choose_temp_dir(folder: Path) -> Path:
    """Make the folder for the logs and sockets of this demo's Ray.

    Ray sends a submitted job to the cluster that was last started with the same temporary folder, whoever started it,
    so each demo has one of its own.
    """
    digest = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return make_temp_dir(f"demo-{digest}")


def submit_demo_job() -> int:
    """Run `ray job submit -- jobs/demo.yaml` without Ray's own log lines; returns its exit status.

    The job inherits the cluster's environment.
    """
    address = f"http://127.0.0.1:{DASHBOARD_PORT}"
    command = [str(BIN / "ray"), "job", "submit", "--address", address, "--log-style", "record", "--", "jobs/demo.yaml"]
    with subprocess.Popen(
        command, cwd=ROOT, env=build_environment({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            if not SUBMIT_NOISE.search(line):
                print(line, end="", flush=True)
    return process.returncode


def run_facscale(*words: object, variables: dict[str, str]) -> None:
    """Run a facscale command in a new process. Raises SystemExit with its exit status if it fails."""
    command = [str(BIN / "facscale"), *map(str, words)]
    status = subprocess.run(command, cwd=ROOT, env=build_environment(variables), check=False).returncode
    if status:
        raise SystemExit(status)


def build_environment(variables: dict[str, str]) -> dict[str, str]:
    """The environment of this process and `variables`, with this Python's programs first in PATH."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, **variables, "PATH": path, "PYTHONUNBUFFERED": "1"}


def print_heading(number: str, text: str) -> None:
    """Print the heading of a step, in bold on a terminal."""
    print(f"\n\033[1m[{number}] {text}\033[0m" if sys.stdout.isatty() else f"\n[{number}] {text}", flush=True)
