"""An MLflow server that asks for a login, with an administrator and a reader who may write nowhere."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from facscale.track.server import QUIET
from ports import free_port

READY_S = 180
ADMIN, READER = ("admin", "hunter2-hunter2"), ("reader", "another-password-1")


class GuardedMLflow:
    """`with GuardedMLflow(folder) as server:`; it listens at `server.url`, and its files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        (self._folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{self._folder}/users.db\nadmin_username = {ADMIN[0]}\n"
            f"admin_password = {ADMIN[1]}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        variables = {
            "MLFLOW_AUTH_CONFIG_PATH": str(self._folder / "auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-these-tests-alone",
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        }
        command = [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1",
            "--port", str(self._port), "--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db",
            "--artifacts-destination", str(self._folder / "files"),
        ]  # fmt: skip
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, **QUIET, **variables}, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait()
            self._add_reader()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._process.pid, 15)
        self._process.wait()

    def _wait(self) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return
        raise RuntimeError((self._folder / "log").read_text()[-2000:])

    def _add_reader(self) -> None:
        basic = base64.b64encode(":".join(ADMIN).encode()).decode()
        body = json.dumps({"username": READER[0], "password": READER[1]}).encode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/2.0/mlflow/users/create", body, headers)
        urllib.request.urlopen(request, timeout=20).close()
