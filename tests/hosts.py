"""Hosts of one's own on one machine: network, mount, host name and process namespaces, cabled to a switch.

Each host has an address, a host name that all others resolve, an own folder at `Network.own` (the same path everywhere,
other files behind it), an own /dev/shm, and processes that only see each other; everything else on disk is shared. The
switch is a bridge in a namespace by itself, so that nothing reaches the machine's own network. Needs root and iproute2.

Names begin with the process id of the test run: what a killed run leaves is removed by the next one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil

PREFIX = "facscale"
SWITCH = "switch"
NOBODY = "02:00:00:00:00:01"
NAMESPACES = Path("/run/netns")
START_S = 30.0
INIT = """\
trap '' CHLD  # orphans are reaped by the kernel
hostname "$1" && mount --bind "$2" "$3" && mount --bind "$2/hosts" /etc/hosts && mount -t tmpfs tmpfs /dev/shm &&
touch "$2/up" && exec sleep infinity
"""


def missing() -> str:
    """Why there can be no hosts here, and what to do; "" where there can."""
    absent = [program for program in ("ip", "unshare", "nsenter", "setpriv") if not shutil.which(program)]
    if absent:
        return f"{', '.join(absent)} missing: apt-get install iproute2 util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root: run as root, or in a container with --privileged"
    probe = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "ip", "link", "add", "type", "bridge"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no namespaces with a bridge here: {done.stderr.strip()}" if done.returncode else ""


class Host:
    """One of them. `cut` pulls its cable, `silence` lets every packet vanish with the link still up, `restore` mends."""

    def __init__(self, network: Network, name: str, *, number: int) -> None:
        self.name, self.address = name, f"10.99.0.{number}"
        self.folder = network.folder / name  # what the host itself sees at `network.own`
        self._network, self._namespace, self._port = network, network.namespace(name), f"port{number}"
        self._init: subprocess.Popen[bytes] | None = None

    def boot(self, known: str) -> None:
        """Plug it in and start its first process; `known` is its /etc/hosts."""
        self.folder.mkdir()
        (self.folder / "hosts").write_text(known)
        switch = self._network.namespace(SWITCH)
        ip("netns", "add", self._namespace)
        ip("-n", switch, "link", "add", "name", self._port, "type", "veth", "peer", "eth0", "netns", self._namespace)
        self._ip("address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._ip("link", "set", "dev", device, "up")
        self.restore()
        command = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self._namespace]
        command += ["unshare", "--mount", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child", "sh", "-c", INIT]
        self._init = subprocess.Popen([*command, "init", self.name, self.folder, self._network.own])
        end = time.monotonic() + START_S
        while not (self.folder / "up").exists():
            if self._init.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"host {self.name} does not start")
            time.sleep(0.02)

    def start(self, *command: object, variables: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command there, with exactly these variables. It ends with the host at the latest."""
        assert self._init is not None, "the host is off"
        (first,) = psutil.Process(self._init.pid).children()
        enter = ["nsenter", "--target", first.pid, "--mount", "--uts", "--net", "--pid", "--wd=/", "--"]
        words = [*enter, "setpriv", "--pdeathsig", "KILL", *command]
        with log.open("ab") as out:
            return subprocess.Popen(
                [str(word) for word in words], env=dict(variables), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def run(self, *command: object, variables: Mapping[str, str], timeout: float) -> str:
        """Run a command there to its end and return what it said. Raises RuntimeError where it fails."""
        log = Path(tempfile.mkstemp(dir=self.folder, suffix=".log")[1])
        process = self.start(*command, variables=variables, log=log)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        said = log.read_text(errors="replace")
        if status:
            raise RuntimeError(f"{self.name}: {' '.join(map(str, command))} ended with {status}:\n{said[-5000:]}")
        return said

    def cut(self) -> None:
        """The cable is pulled: the host sees that its link is down, the others see nothing."""
        ip("-n", self._network.namespace(SWITCH), "link", "set", "dev", self._port, "down")

    def silence(self) -> None:
        """Every packet to and from it vanishes, and neither side is told: no reset, no link that goes down."""
        ip("-n", self._network.namespace(SWITCH), "link", "set", "dev", self._port, "nomaster")

    def restore(self) -> None:
        """The network is as it was."""
        switch = self._network.namespace(SWITCH)
        ip("-n", switch, "link", "set", "dev", self._port, "up")
        ip("-n", switch, "link", "set", "dev", self._port, "master", SWITCH)

    def miss(self, other: Host) -> None:
        """What this host sends to `other` vanishes, while everybody else reaches both: it goes to a card nobody has."""
        self._ip("neighbour", "replace", other.address, "lladdr", NOBODY, "nud", "permanent", "dev", "eth0")

    def find(self, other: Host) -> None:
        """The end of `miss`."""
        self._ip("neighbour", "delete", other.address, "dev", "eth0")

    def halt(self) -> None:
        """End all its processes at once, as without power."""
        if self._init is not None:
            self._init.kill()  # unshare takes the host's first process with it, and that one all others
            self._init.wait()
            self._init = None

    def _ip(self, *words: str) -> None:
        ip("-n", self._namespace, *words)


class Network:
    """`with Network("head", "worker") as network:`; then `network["head"]` is a running host."""

    def __init__(self, *names: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"hosts-{os.getpid()}-"))  # short: Ray's sockets want short paths
        self.own = self.folder / "own"
        self._hosts = {name: Host(self, name, number=number) for number, name in enumerate(names, 1)}

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __enter__(self) -> Self:
        remove_stale()
        self.own.mkdir()
        try:
            ip("netns", "add", self.namespace(SWITCH))
            ip("-n", self.namespace(SWITCH), "link", "add", "name", SWITCH, "type", "bridge")
            ip("-n", self.namespace(SWITCH), "link", "set", "dev", SWITCH, "up")
            known = "\n".join(
                ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in self._hosts.values()), ""]
            )
            for host in self._hosts.values():
                host.boot(known)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for host in self._hosts.values():
            host.halt()
        for name in [*self._hosts, SWITCH]:
            remove(self.namespace(name))
        shutil.rmtree(self.folder, ignore_errors=True)

    def namespace(self, name: str) -> str:
        """The network namespace of a host, or of the switch."""
        return f"{PREFIX}-{os.getpid()}-{name}"


def remove_stale() -> None:
    """Remove what test runs that are no more have left. Their processes ended with them."""
    for found in stale(NAMESPACES, PREFIX):
        remove(found.name)
    for found in stale(Path(tempfile.gettempdir()), "hosts"):
        shutil.rmtree(found, ignore_errors=True)


def stale(folder: Path, prefix: str) -> list[Path]:
    """Whatever is called PREFIX-PID-... in `folder`, of processes that are no more."""
    matches = [re.fullmatch(rf"{prefix}-(\d+)-.+", path.name) for path in folder.glob(f"{prefix}-*")]
    return [folder / match[0] for match in matches if match and not psutil.pid_exists(int(match[1]))]


def remove(namespace: str) -> None:
    """Remove a network namespace, where there is one, with all its links."""
    if (NAMESPACES / namespace).exists():
        ip("netns", "delete", namespace)


def ip(*words: str) -> None:
    """One command of iproute2. Raises RuntimeError with what it says."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
