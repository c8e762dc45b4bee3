"""What means nothing is kept from the user's eyes, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from facscale import quiet

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
    f"{HEAD}'TrainController' and ID: {ID}{TAIL}",  # another actor's: nobody has said that its arguments are held
    f"{HEAD}'MapWorker(MapBatches(Other))' and ID: {ID}{TAIL}",
    f"{NOISE[0]} And one thing more.",
    NOISE[1].replace("will fail", "has failed"),
    "[2026-11-29 07:40:32,918 E 2183 2349] core_worker.cc:2465: Actor PreemptionWatcher died",
    "(raylet) node 10.0.0.7 is marked dead",
    "PreemptionWatcher",
    "",
]


def run(code, **options):
    """A process that writes to file descriptor 2 as Ray's core does; what came out at standard error."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=120, **options)
    return done.returncode, done.stderr.decode(errors="surrogateescape").splitlines()


def test_trouble_passes_and_noise_does_not():
    lines = [line for pair in zip(NOISE * 4, TROUBLE, strict=True) for line in pair]
    text = "\n".join(lines) + "\n\udcff no text\n"
    code = f"import os\nfrom facscale.quiet import filtered_stderr\nwith filtered_stderr():\n    os.write(2, {os.fsencode(text)!r})"
    assert run(code) == (0, [*TROUBLE, "\udcff no text"])


def test_what_python_writes_is_written_at_once_and_the_terminal_stays_one():
    code = (
        "import os, sys\n"
        "from facscale.quiet import filtered_stderr\n"
        "before = sys.stderr.isatty()\n"
        "with filtered_stderr():\n"
        f"    print({NOISE[0]!r}, file=sys.stderr)\n"  # ours alone to say: the filter is for Ray's core
        "    assert sys.stderr.isatty() == before and sys.stderr.fileno() != 2\n"
        "assert sys.stderr is sys.__stderr__\n"
        "os.write(2, b'after\\n')\n"
    )
    assert run(code) == (0, [NOISE[0], "after"])


@pytest.mark.parametrize("end", ["os.abort()", "os.kill(os.getpid(), 9)", "os.killpg(0, 15)"])
def test_the_last_words_of_a_process_that_is_killed_arrive(end):
    code = (
        "import os\nfrom facscale.quiet import filtered_stderr\n"
        f"with filtered_stderr():\n    os.write(2, b'check failed: last words\\n'); {end}"
    )
    status, lines = run(code, start_new_session=True)
    assert status in {-signal.SIGABRT, -signal.SIGKILL, -signal.SIGTERM}
    assert lines == ["check failed: last words"]


def test_an_error_passes_the_filter_and_the_descriptor_is_as_before():
    place = os.fstat(2)
    with suppress(ValueError), quiet.filtered_stderr():
        assert os.fstat(2) != place
        raise ValueError
    assert os.fstat(2) == place


def test_lines_of_workers_are_dropped_before_ray_prints_them():
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as printed

    lines = []
    quiet.quieten()
    quiet.quieten()  # every command joins, some twice
    printed.add_handler("ray_print_logs", lambda batch: lines.extend(batch["lines"]))
    try:
        printed.emit({"lines": [*NOISE, *TROUBLE], "pid": 1, "is_err": True})
    finally:
        printed.remove_handler("ray_print_logs")
        printed.remove_handler(quiet.NAME)
    assert lines == TROUBLE


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-29 07:36:41,322\tINFO job_manager.py:581 -- Runtime env is setting up.",
        "2026-11-29 07:06:21,122\tINFO sdk.py:520 -- WebSocket closed for job raysubmit_8dAX7 with close code 1000",
    ],
)
def test_what_submitting_says_of_itself_is_known_by_its_text(line):
    assert quiet.OF_SUBMITTING.search(line + "\n")
    for trouble in (line.replace("INFO", "WARNING"), f"{line} It failed.", line.replace("1000", "1006")):
        if trouble != line:
            assert not quiet.OF_SUBMITTING.search(trouble)


def test_a_notice_that_is_taken_as_given_is_not_given_again():
    from ray.util.debug import log_once

    quiet.quieten()
    assert not any(map(log_once, quiet.SAID_ONCE))
