"""Process groups are stopped: asked first, then killed, and left alone if they have ended."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from facscale.processes import stop_process_group

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
OBEDIENT = "import time; print(flush=True); time.sleep(60)"


POOL = """
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from facscale.processes import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=end_with_parent)
    pids = {pool.submit(os.getpid).result() for _ in range(2)}
    print(*(process.pid for process in pool._processes.values()), flush=True)
    pool.submit(input).result()
"""


def test_the_workers_of_a_pool_end_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        assert workers
        process.kill()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    for worker in alive:
        worker.kill()
    assert len(gone) == len(workers)


@pytest.mark.parametrize(("code", "signal"), [(OBEDIENT, -15), (STUBBORN, -9)])
def test_a_group_ends_at_the_first_signal_that_it_obeys(code, signal):
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"\n"  # it has set its handler
        stop_process_group(process.pid, is_running=lambda: process.poll() is None, wait_s=0.3 if signal == -9 else 30)
        assert process.wait() == signal


def test_nothing_is_sent_to_a_group_that_has_ended(monkeypatch):
    monkeypatch.setattr("os.killpg", lambda *_: pytest.fail("a signal was sent"))
    stop_process_group(1, is_running=lambda: False, wait_s=60)


def test_a_group_may_end_between_check_and_signal(monkeypatch):
    def vanish(*_):
        raise ProcessLookupError

    monkeypatch.setattr("os.killpg", vanish)
    begun = time.monotonic()
    stop_process_group(1, is_running=iter([True, False, False]).__next__, wait_s=60)
    assert time.monotonic() - begun < 30
