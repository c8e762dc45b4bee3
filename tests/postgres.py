"""A Postgres server for a test, from Debian's programs, without any system service."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from ports import free_port

READY_S = 300.0
USER = "postgres"  # Postgres refuses to run as root


class Postgres:
    """`with Postgres() as server:`; `server.url` is its first database. Its folder goes with it."""

    def __init__(self) -> None:
        """Raises RuntimeError where Postgres is not installed."""
        self._bin = find_programs()
        if self._bin is None:
            raise RuntimeError("Postgres is not installed: apt-get install postgresql")
        self.port = free_port()
        # SQLAlchemy 2.1 takes a bare postgresql:// for psycopg 3; MLflow's extra is psycopg2
        self.url = f"postgresql+psycopg2://{USER}@127.0.0.1:{self.port}/{USER}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="postgres"))  # pytest's own folders let no other user in
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER)
        self._run("initdb", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--no-sync", "-D", "data")
        options = f"-c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder} -p {self.port}"
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", "data", *options.split()],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **user_options(),
            )
        end = time.monotonic() + READY_S
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.1)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # SIGTERM would wait until all clients have disconnected
            self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER]
        self._run("createdb", *address, name)
        return f"{self.url.rpartition('/')[0]}/{name}"

    def _run(self, program: str, *words: str) -> None:
        command = [self._bin / program, *words]
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, **user_options())
        if result.returncode:
            raise RuntimeError(result.stdout + result.stderr)


def find_programs() -> Path | None:
    """Return the folder with the programs of the newest Postgres that is installed; None without one."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    beside = shutil.which("initdb")
    return candidates[-1].parent if candidates else Path(beside).resolve().parent if beside else None


def user_options() -> dict[str, Any]:
    """Return options for subprocess that start a process as Postgres' user if this one is root."""
    return {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
