"""`facscale demo`, which `make demo` calls: every part of the platform, small, on one machine."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from facscale.cluster.ray import answers
from facscale.errors import UserError
from facscale.progress import duration
from facscale.quiet import OF_SUBMITTING
from facscale.shipped import locate_shipped

ROOT = locate_shipped("jobs").parent  # with jobs/ and pipelines/ in it, whether checkout or wheel
BIN = Path(sys.executable).parent
RAY_PORT, DASHBOARD_PORT, MLFLOW_PORT = 6389, 8275, 5005  # the two ports after the dashboard's are Ray's as well
PIPELINES = ("synthetic.yaml", "synthetic_bp4d.yaml")
DATA = "synthetic_bp4d"  # what runs are judged on


def run_demo(folder: Path) -> int:
    """Render, ingest, train, evaluate, compare; what stands already is used again. Returns the job's exit status."""
    from facscale.track.server import ensure_server
    from facscale.track.view import page_of

    began = time.monotonic()
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    say("1/4", "an MLflow server and a Ray cluster on this machine")
    server = ensure_server(folder / "mlflow", MLFLOW_PORT)
    places = {"FACSCALE_DATA": str(folder / "data"), "FACSCALE_RUNS": str(folder / "runs")}
    os.environ.update(authentication(folder) | places | {"MLFLOW_TRACKING_URI": server.url})
    start_ray(folder)
    for number, pipeline in enumerate(PIPELINES):
        say(f"{number + 2}/4", f"pipelines/{pipeline}: render talking faces, find and align them, write shards")
        facscale("run", ROOT / "pipelines" / pipeline, variables={"RAY_ADDRESS": f"127.0.0.1:{RAY_PORT}"})
    say("4/4", "ray job submit jobs/demo.yaml")
    status = submit()
    if status == 0:
        print(f"\nDone in {duration(time.monotonic() - began)}. The cluster: http://127.0.0.1:{DASHBOARD_PORT}")
        print(f"F1 of all runs, side by side: {page_of(server.url, DATA)}")
        print(f"Both servers keep running for the next time; `facscale demo --folder {folder} --stop` ends them.")
    return status


def authentication(folder: Path) -> dict[str, str]:
    """Variables with which Ray lets us in, and nobody else: a token of this folder's own."""
    noted = folder / "ray.token"
    if not noted.exists():
        noted.touch(mode=0o600)
        noted.write_text(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": noted.read_text()}


def stop_demo(folder: Path) -> None:
    """End the servers that `run_demo` left; the data and the runs stay. Raises UserError where no demo was run."""
    from facscale.track.server import find, stop

    noted, server = folder / "ray.pid", folder.absolute() / "mlflow"
    if not server.is_dir() and not noted.exists():
        raise UserError(f"--folder {folder}: no demo was run there; name the folder that `facscale demo` was given")
    if not alive(noted) and find(server) is None:
        print("nothing was running; what the demo made stands in", folder)
        return
    stop(server)
    if noted.exists():
        stop_ray(noted)
    print("stopped; a new demo starts from what stands in", folder)


def start_ray(
    folder: Path, *, port: int = RAY_PORT, dashboard: int = DASHBOARD_PORT, temp_dir: Path | None = None
) -> None:
    """A head node with a port of its own, beside whatever Ray runs here; nothing where it runs already.

    `temp_dir`: Ray's own folder of logs and sockets, instead of one for this `folder` alone.
    """
    noted = folder / "ray.pid"
    if noted.exists() and alive(noted):
        return
    log = (folder / "ray.log").open("w")
    command = [BIN / "ray", "start", "--head", "--block", "--port", port, "--dashboard-port", dashboard]
    command += ["--dashboard-agent-listen-port", dashboard + 1, "--ray-client-server-port", dashboard + 2]
    command += ["--dashboard-host", "127.0.0.1", "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
    command += ["--temp-dir", temp_dir or scratch(folder)]
    variables = environment(authentication(folder))
    words = [str(word) for word in command]
    process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=variables)
    noted.write_text(str(process.pid))
    address = f"http://127.0.0.1:{dashboard}"
    for _ in range(120):
        if process.poll() is not None:
            raise SystemExit(f"error: Ray did not start; {folder / 'ray.log'} says why")
        asked = [str(BIN / "ray"), "job", "list", "--address", address]
        listed = subprocess.run(asked, capture_output=True, check=False, env=variables).returncode == 0
        if listed and answers(f"127.0.0.1:{dashboard + 1}"):  # the agent, which starts jobs, comes up after the list
            return
        time.sleep(1)
    raise SystemExit(f"error: Ray does not answer at {address}; see {folder / 'ray.log'}")


def scratch(folder: Path) -> Path:
    """Where this Ray keeps logs and sockets; short, for a socket's path may have 107 characters.

    Ray sends a submitted job to the cluster that was last started with the same folder, whoever started it: so the demo
    has one of its own.
    """
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"facscale-demo-{os.getuid()}-{name}"


def stop_ray(noted: Path) -> None:
    """End the process group that `start_ray` made, and no other.

    `ray start --block` would wait for each of its processes, half a minute in all, for state that nobody reads again.
    """
    import signal

    for how in (signal.SIGTERM, signal.SIGKILL):
        if alive(noted):
            os.killpg(int(noted.read_text()), how)
        end = time.monotonic() + 5
        while alive(noted) and time.monotonic() < end:
            time.sleep(0.1)
    noted.unlink()


def alive(noted: Path) -> bool:
    """Whether the noted process is still that of `ray start`."""
    try:
        command = Path(f"/proc/{int(noted.read_text())}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
    return b"start" in command and b"--head" in command


def submit() -> int:
    """`ray job submit`, as a user types it; the job inherits the cluster's environment."""
    command = [
        str(BIN / "ray"),
        "job",
        "submit",
        "--address",
        f"http://127.0.0.1:{DASHBOARD_PORT}",
        "--log-style",
        "record",
    ]
    words = [*command, "--", "jobs/demo.yaml"]
    with subprocess.Popen(
        words, cwd=ROOT, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            if not OF_SUBMITTING.search(line):
                print(line, end="", flush=True)
    return process.returncode


def facscale(*words: object, variables: dict[str, str]) -> None:
    """One of our own commands; its failure is ours."""
    done = subprocess.run([str(BIN / "facscale"), *map(str, words)], cwd=ROOT, env=environment(variables), check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def environment(variables: dict[str, str]) -> dict[str, str]:
    """This process's, with our programs first in the path."""
    return {
        **os.environ,
        **variables,
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
    }


def say(number: str, what: str) -> None:
    """A heading."""
    print(f"\n\033[1m[{number}] {what}\033[0m" if sys.stdout.isatty() else f"\n[{number}] {what}", flush=True)
