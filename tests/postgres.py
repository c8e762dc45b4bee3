"""A Postgres server of a test's own, from Debian's programs, without any system service."""

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
        self._bin = programs()
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
                stdout=log, stderr=log, cwd=self.folder, **user(),
            )  # fmt: skip
        end = time.monotonic() + READY_S
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode:
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.1)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # SIGTERM would wait until everybody has gone
            self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def make_database(self, name: str) -> str:
        """The URL of a new, empty database."""
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER]
        self._run("createdb", *address, name)
        return f"{self.url.rpartition('/')[0]}/{name}"

    def _run(self, program: str, *words: str) -> None:
        command = [self._bin / program, *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, **user())
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)


def programs() -> Path | None:
    """Where the newest Postgres here has its programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    beside = shutil.which("initdb")
    return found[-1].parent if found else Path(beside).resolve().parent if beside else None


def user() -> dict[str, Any]:
    """Options of a process that must not be root's."""
    return {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
