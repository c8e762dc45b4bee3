"""An MLflow server that requires a login, with an administrator and a user who may only read."""

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

from facscale.track.server import SERVER_ENVIRONMENT
from ports import free_port

READY_S = 180
ADMIN, READER = ("admin", "hunter2-hunter2"), ("reader", "another-password-1")


class GuardedMLflow:
    """`with GuardedMLflow(folder) as server:`; it listens at `server.url`, and its files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        settings = {
            "default_permission": "READ",
            "database_uri": f"sqlite:///{self._folder}/users.db",
            "admin_username": ADMIN[0],
            "admin_password": ADMIN[1],
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        }
        lines = ["[mlflow]", *(f"{name} = {value}" for name, value in settings.items())]
        (self._folder / "auth.ini").write_text("\n".join(lines) + "\n")
        variables = {
            "MLFLOW_AUTH_CONFIG_PATH": str(self._folder / "auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-these-tests-alone",
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        }
        options = {
            "--app-name": "basic-auth",
            "--host": "127.0.0.1",
            "--port": str(self._port),
            "--workers": "1",
            "--backend-store-uri": f"sqlite:///{self._folder}/mlflow.db",
            "--artifacts-destination": str(self._folder / "files"),
        }
        words = [word for option in options.items() for word in option]
        command = [sys.executable, "-m", "mlflow", "server", *words]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **SERVER_ENVIRONMENT, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
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
