"""Process groups are stopped: asked first, then killed, and left alone if they have ended."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from facscale.processes import stop_process_group

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
OBEDIENT = "import time; print(flush=True); time.sleep(60)"


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
