"""Bars: drawn here, and read again out of a log from elsewhere."""

from __future__ import annotations

import sys

import pytest

from facscale.progress import Progress, Tail, reached

HALF = "clp                    ████████████············ 50/100 steps, 2 min 0 s left  loss 0.31"
WHOLE = "clp                    ████████████████████████ 100/100 steps, 4 min 0 s  loss 0.30"


def test_a_bar_is_read_as_it_is_written(capsys):
    with Progress("clp seed 3", total=3000, unit="steps") as bar:
        bar.to(0)
        bar.to(3000, note="loss 0.3")
    line = capsys.readouterr().err.splitlines()[-1]
    assert reached(line)[:3] == ("clp seed 3", 3000, 3000)


@pytest.mark.parametrize("line", ["", "12:00 INFO 3/4 things", "clp 50/100 steps", HALF.replace("·", "-")])
def test_other_lines_are_none(line):
    assert reached(line) is None


def test_in_a_log_every_line_goes_by(capsys):
    tail = Tail()
    tail.show(["hello", HALF, "other", WHOLE])
    tail.note("  running")
    tail.close()
    assert capsys.readouterr().out.splitlines() == ["hello", HALF, "other", WHOLE, "  running"]


def test_on_a_terminal_a_bar_stays_below_what_goes_by(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    tail = Tail()
    tail.show(["hello", HALF])
    tail.note("note")
    assert screen(capsys.readouterr().out) == ["hello", "note", HALF]
    tail.show([WHOLE, "end"])
    tail.close()
    assert screen(capsys.readouterr().out) == [WHOLE, "end", ""]


def screen(written):
    """What stands on a terminal's lines after that."""
    return [line.rpartition("\r\033[K")[2] for line in written.split("\n")]
