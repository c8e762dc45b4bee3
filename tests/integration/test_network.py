"""The hosts that `tests/hosts.py` makes: cables can be pulled, and nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from conftest import ROOT
from hosts import NAMESPACES, Network, missing, remove_stale
from waiting import wait_for

pytestmark = [pytest.mark.slow("hosts of network namespaces"), pytest.mark.skipif(bool(missing()), reason=missing())]

PORT = 7000
CALL = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)"
LEFT = "from hosts import Network; Network('left').__enter__(); print('up', flush=True); input()"


@pytest.fixture(scope="module")
def network():
    with Network("a", "b", "c") as network:
        for name in "abc":
            log = network[name].folder / "server.log"
            network[name].start(sys.executable, "-m", "http.server", PORT, variables=os.environ, log=log)
        wait_for(lambda: all(reaches(network, "a", name) for name in "abc"))
        yield network


def reaches(network, first, second):
    try:
        network[first].run(sys.executable, "-c", CALL, second, PORT, variables=os.environ, timeout=20)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("how", ["cut", "silence"])
def test_a_host_that_is_cut_off_is_alone_until_it_is_restored(network, how):
    getattr(network["b"], how)()
    assert not reaches(network, "a", "b")
    assert not reaches(network, "b", "c")
    assert reaches(network, "a", "c")
    network["b"].restore()
    wait_for(lambda: reaches(network, "a", "b") and reaches(network, "b", "c"))


def test_two_hosts_can_lose_each_other_alone(network):
    network["a"].miss(network["b"])
    assert not reaches(network, "a", "b")
    assert reaches(network, "c", "b")
    network["a"].find(network["b"])
    wait_for(lambda: reaches(network, "a", "b"))


def test_what_a_killed_test_run_leaves_is_removed_by_the_next():
    command = [sys.executable, "-c", LEFT]
    run = subprocess.Popen(command, cwd=ROOT / "tests", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with run:
        assert run.stdout.readline() == b"up\n"
        first = [child for child in psutil.Process(run.pid).children(recursive=True) if child.name() == "sleep"]
        run.send_signal(signal.SIGKILL)
    assert len(list(NAMESPACES.glob(f"*-{run.pid}-*"))) == 2
    remove_stale()
    assert not list(NAMESPACES.glob(f"*-{run.pid}-*"))
    wait_for(lambda: not any(process.is_running() for process in first))
