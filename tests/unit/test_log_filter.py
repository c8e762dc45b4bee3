"""Ray's meaningless log lines are removed, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from conftest import ROOT
from facscale import log_filter

HEAD = "[2026-11-29 07:40:32,918 E 2183 2349] core_worker.cc:2465: Actor with class name: "
TAIL = (
    " has constructor arguments in the object store and max_restarts > 0. If the arguments in the object store go out of "
    "scope or are lost, the actor restart will fail. See https://github.com/ray-project/ray/issues/53727 for more details."
)
ID = "'adca17efcb6bf137ef6bb97204000000'"
NOISE = [
    f"{HEAD}'PreemptionWatcher' and ID: {ID}{TAIL}",
    f"{HEAD}'MapWorker(MapBatches(_Embedder))' and ID: {ID}{TAIL}",
]
TROUBLE = [
    f"{HEAD}'TrainController' and ID: {ID}{TAIL}",  # another actor, whose arguments may be lost
    f"{HEAD}'MapWorker(MapBatches(Other))' and ID: {ID}{TAIL}",
    f"{NOISE[0]} And one thing more.",
    NOISE[1].replace("will fail", "has failed"),
    "[2026-11-29 07:40:32,918 E 2183 2349] core_worker.cc:2465: Actor PreemptionWatcher died",
    "(raylet) node 10.0.0.7 is marked dead",
    "PreemptionWatcher",
    "",
]


def run(code, **options):
    """Run code that writes to file descriptor 2 as Ray's core does; return its exit status and its standard error."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=120, **options)
    return done.returncode, done.stderr.decode(errors="surrogateescape").splitlines()


def test_only_noise_is_removed():
    lines = [line for pair in zip(NOISE * 4, TROUBLE, strict=True) for line in pair]
    text = "\n".join(lines) + "\n\udcff no text\n"
    code = f"import os\nfrom facscale.log_filter import filter_stderr\nwith filter_stderr():\n    os.write(2, {os.fsencode(text)!r})"
    assert run(code) == (0, [*TROUBLE, "\udcff no text"])


def test_python_output_is_not_filtered_and_a_terminal_stays_a_terminal():
    code = (
        "import os, sys\n"
        "from facscale.log_filter import filter_stderr\n"
        "before = sys.stderr.isatty()\n"
        "with filter_stderr():\n"
        f"    print({NOISE[0]!r}, file=sys.stderr)\n"  # kept: the filter is for Ray's core
        "    assert sys.stderr.isatty() == before and sys.stderr.fileno() != 2\n"
        "assert sys.stderr is sys.__stderr__\n"
        "os.write(2, b'after\\n')\n"
    )
    assert run(code) == (0, [NOISE[0], "after"])


@pytest.mark.parametrize("end", ["os.abort()", "os.kill(os.getpid(), 9)", "os.killpg(0, 15)"])
def test_the_last_lines_of_a_killed_process_arrive(end):
    code = (
        "import os\nfrom facscale.log_filter import filter_stderr\n"
        f"with filter_stderr():\n    os.write(2, b'check failed: last words\\n'); {end}"
    )
    status, lines = run(code, start_new_session=True)
    assert status in {-signal.SIGABRT, -signal.SIGKILL, -signal.SIGTERM}
    assert lines == ["check failed: last words"]


def test_the_descriptor_is_restored_after_an_error():
    place = os.fstat(2)
    with suppress(ValueError), log_filter.filter_stderr():
        assert os.fstat(2) != place
        raise ValueError
    assert os.fstat(2) == place


def test_lines_of_workers_are_dropped_before_ray_prints_them():
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

    lines = []
    log_filter.suppress_ray_notices()
    log_filter.suppress_ray_notices()  # every command joins, some twice
    dispatcher.add_handler("ray_print_logs", lambda batch: lines.extend(batch["lines"]))
    try:
        dispatcher.emit({"lines": [*NOISE, *TROUBLE], "pid": 1, "is_err": True})
    finally:
        dispatcher.remove_handler("ray_print_logs")
        dispatcher.remove_handler(log_filter.HANDLER)
    assert lines == TROUBLE


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-29 07:36:41,322\tINFO job_manager.py:581 -- Runtime env is setting up.",
        "2026-11-29 07:06:21,122\tINFO sdk.py:520 -- WebSocket closed for job raysubmit_8dAX7 with close code 1000",
    ],
)
def test_lines_of_ray_job_submit_are_matched_exactly(line):
    assert log_filter.SUBMIT_NOISE.search(line + "\n")
    for trouble in (line.replace("INFO", "WARNING"), f"{line} It failed.", line.replace("1000", "1006")):
        if trouble != line:
            assert not log_filter.SUBMIT_NOISE.search(trouble)


def test_suppressed_notices_are_not_logged():
    from ray.util.debug import log_once

    log_filter.suppress_ray_notices()
    assert not any(map(log_once, log_filter.LOG_ONCE_KEYS))


def test_the_filtered_actor_exists():
    """The pattern contains the name of a class in inference/embed.py."""
    source = (ROOT / "platform/facscale/inference/embed.py").read_text()
    assert "class _Embedder" in source
