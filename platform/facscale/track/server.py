"""A local MLflow server for the demo and for tests: a detached process with SQLite and a folder of artifacts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from facscale.errors import UserError
from facscale.ownership import PRIVATE_UMASK
from facscale.processes import stop_process_group

SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a second service, for features that we do not use
}


class ServerError(UserError):
    """The server does not start."""


@dataclass(frozen=True)
class LocalServer:
    """A running server."""

    url: str
    pid: int
    folder: str


def ensure_server(folder: Path, port: int = 5000, *, store: str = "", wait: float = 180.0) -> LocalServer:
    """Return the server of `folder`: the one that already runs on that port, or a new one. It outlives this process.

    mlflow.db, artifacts/, server.json (pid) and server.log lie in `folder`; `store` names another database, such as
    postgresql://…; port 0 takes a free one, or the running server's. Raises ServerError, with the end of the log, if
    the server does not answer within `wait` seconds.
    """
    folder = Path(folder).absolute()
    running = find_server(folder)
    if running is not None and (port == 0 or running.url.endswith(f":{port}")):
        return running
    if running is not None:
        stop_server(folder)
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    port = _check_port(port)
    log = folder / "server.log"
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603  # our own command
            _build_command(folder, port=port, store=store),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **SERVER_ENVIRONMENT},
            cwd=folder,
            umask=PRIVATE_UMASK,  # the database and the artifacts are this user's own
        )
    server = LocalServer(f"http://127.0.0.1:{port}", process.pid, str(folder))
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    deadline = time.monotonic() + wait
    while not _is_healthy(server.url):
        has_exited = process.poll() is not None
        if has_exited or time.monotonic() > deadline:
            stop_server(folder)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            problem = "ended at once" if has_exited else f"did not answer within {wait:.0f} s"
            raise ServerError(f"the MLflow server on port {port} {problem}; the end of {log}:\n{tail}")
        time.sleep(0.1)
    process.returncode = 0  # so that subprocess does not warn about a process that keeps running
    return server


def find_server(folder: Path) -> LocalServer | None:
    """Return the server of `folder` if it runs and answers."""
    server = _load_server(Path(folder).absolute())
    return server if server is not None and _is_running(server) and _is_healthy(server.url) else None


def stop_server(folder: Path, *, wait: float = 10.0) -> None:
    """Stop the server of `folder`, if there is one; its data stays. It is killed after `wait` seconds."""
    folder = Path(folder).absolute()
    server = _load_server(folder)
    if server is not None:
        stop_process_group(server.pid, is_running=lambda: _is_running(server), wait_s=wait)
    (folder / "server.json").unlink(missing_ok=True)


def _build_command(folder: Path, *, port: int, store: str) -> list[str]:
    options = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        "--backend-store-uri": store or f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination": (folder / "artifacts").as_uri(),
        "--allowed-hosts": "localhost,localhost:*,127.0.0.1,127.0.0.1:*",
    }
    return [sys.executable, "-m", "mlflow", "server", *(word for option in options.items() for word in option)]


def _load_server(folder: Path) -> LocalServer | None:
    try:
        return LocalServer(**json.loads((folder / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _is_running(server: LocalServer) -> bool:
    """Whether the pid still belongs to that server, and not to another process that got the same number later."""
    try:
        if os.waitpid(server.pid, os.WNOHANG)[0]:  # it has ended; as a child of this process it would stay a zombie
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(server.pid, 0)
        command = Path(f"/proc/{server.pid}/cmdline")
        has_procfs = command.parent.parent.joinpath("self").exists()
        return not has_procfs or server.folder.encode() in command.read_bytes()
    except OSError:
        return False


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:  # noqa: S310  # our own http address
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _check_port(port: int) -> int:
    """Return the port if it is free, or any free port for 0. Raises ServerError for a port that is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} is taken by another program; choose another, or 0 for any ({error})"
            ) from None
        return int(probe.getsockname()[1])
