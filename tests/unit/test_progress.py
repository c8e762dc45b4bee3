"""Progress bars: printed, and parsed again from a log."""

from __future__ import annotations

import sys

import pytest

from facscale.progress import LogView, Progress, parse_bar

HALF = "clp                    ████████████············ 50/100 steps, 2 min 0 s left  loss 0.31"
WHOLE = "clp                    ████████████████████████ 100/100 steps, 4 min 0 s  loss 0.30"


def test_a_bar_is_parsed_as_it_is_printed(capsys):
    with Progress("clp seed 3", total=3000, unit="steps") as bar:
        bar.update(0)
        bar.update(3000, note="loss 0.3")
    line = capsys.readouterr().err.splitlines()[-1]
    assert parse_bar(line)[:3] == ("clp seed 3", 3000, 3000)


@pytest.mark.parametrize("line", ["", "12:00 INFO 3/4 things", "clp 50/100 steps", HALF.replace("·", "-")])
def test_other_lines_are_not_bars(line):
    assert parse_bar(line) is None


def test_in_a_log_every_line_is_printed(capsys):
    view = LogView()
    view.show(["hello", HALF, "other", WHOLE])
    view.note("  running")
    view.close()
    assert capsys.readouterr().out.splitlines() == ["hello", HALF, "other", WHOLE, "  running"]


def test_on_a_terminal_the_bar_stays_below_the_other_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    view = LogView()
    view.show(["hello", HALF])
    view.note("note")
    assert screen(capsys.readouterr().out) == ["hello", "note", HALF[:79]]
    view.show([WHOLE, "end"])
    view.close()
    assert screen(capsys.readouterr().out) == [WHOLE, "end", ""]


def screen(written):
    """The lines of a terminal after `written`."""
    return [line.rpartition("\r\033[K")[2] for line in written.split("\n")]
