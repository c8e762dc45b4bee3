"""An MLflow server of one's own: a detached process with SQLite and a folder of artifacts, for the demo and for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from facscale.errors import UserError

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a second service, for features that we do not use
}


class ServerError(UserError):
    """The server does not run."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    pid: int
    folder: str


def ensure_server(folder: Path, port: int = 5000, *, store: str = "", wait: float = 180.0) -> Server:
    """The server of `folder`: the one that runs already on that port, or a new one. It outlives this process.

    mlflow.db, artifacts/, server.json (pid) and server.log lie in `folder`; `store` names another database, such as
    postgresql://…; port 0 takes a free one, or the running server's. Raises ServerError, with the end of the log, if there is no answer within `wait` seconds.
    """
    folder = Path(folder).absolute()
    running = find(folder)
    if running is not None and (port == 0 or running.url.endswith(f":{port}")):
        return running
    if running is not None:
        stop(folder)
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    port = _free_port(port)
    log = folder / "server.log"
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603  # our own command
            _command(folder, port=port, store=store), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, **QUIET}, cwd=folder,
        )  # fmt: skip
    server = Server(f"http://127.0.0.1:{port}", process.pid, str(folder))
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    end = time.monotonic() + wait
    while not _healthy(server.url):
        ended = process.poll() is not None
        if ended or time.monotonic() > end:
            stop(folder)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            how = "ended at once" if ended else f"did not answer within {wait:.0f} s"
            raise ServerError(f"the MLflow server on port {port} {how}; the end of {log}:\n{tail}")
        time.sleep(0.1)
    process.returncode = 0  # it stays on purpose: subprocess need not warn of it
    return server


def find(folder: Path) -> Server | None:
    """The server of `folder` if it runs and answers."""
    server = _noted(Path(folder).absolute())
    return server if server is not None and _is_ours(server) and _healthy(server.url) else None


def stop(folder: Path, *, wait: float = 10.0) -> None:
    """End the server of `folder`, if there is one; its data stays."""
    folder = Path(folder).absolute()
    server = _noted(folder)
    if server is not None and _is_ours(server):
        os.killpg(server.pid, signal.SIGTERM)
        end = time.monotonic() + wait
        while _is_ours(server) and time.monotonic() < end:
            time.sleep(0.05)
        if _is_ours(server):
            os.killpg(server.pid, signal.SIGKILL)
    (folder / "server.json").unlink(missing_ok=True)


def _command(folder: Path, *, port: int, store: str) -> list[str]:
    return [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", store or f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", (folder / "artifacts").as_uri(),
        "--allowed-hosts", "localhost,localhost:*,127.0.0.1,127.0.0.1:*",
    ]  # fmt: skip


def _noted(folder: Path) -> Server | None:
    try:
        return Server(**json.loads((folder / "server.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _is_ours(server: Server) -> bool:
    """Whether the pid is still that server's, and not another process's that got its number later."""
    try:
        if os.waitpid(server.pid, os.WNOHANG)[0]:  # ended, and a child of ours: no zombie is to be left
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(server.pid, 0)
        state = Path(f"/proc/{server.pid}/cmdline")
        return not state.parent.parent.joinpath("self").exists() or server.folder.encode() in state.read_bytes()
    except OSError:
        return False


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310  # our own http address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port(port: int) -> int:
    """The port itself if it is free, or any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} is taken by another program; choose another, or 0 for any ({error})"
            ) from None
        return int(probe.getsockname()[1])
