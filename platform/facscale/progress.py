"""Progress bars that are readable in a log: redrawn in place on a terminal, a line every 5 s in `ray job logs`."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

WIDTH = 24
BAR_LINE = re.compile(rf"(?P<title>\S.*?) +[█·]{{{WIDTH}}} (?P<done>\d+)/(?P<total>\d+) (?P<rest>.*)")
TERMINAL_PAUSE_S, LOG_PAUSE_S = 0.2, 5.0  # between two drawings
CLEAR_LINE = "\r\033[K"


class Progress:
    """A bar on standard error: `with Progress("rendering", total=400, unit="videos") as bar: bar.advance()`.

    With a count of its own, the caller writes `bar.update(120, note="loss 0.31")` instead. Nothing is shown when
    `is_shown` is False.
    """

    def __init__(self, title: str, *, total: int, unit: str = "", is_shown: bool = True) -> None:
        self.title, self.total, self.unit = title, max(total, 1), unit
        self.done = 0
        self._is_shown, self._is_terminal = is_shown, sys.stderr.isatty()
        self._started = self._last_drawn = time.monotonic()
        self._first: int | None = None
        self._is_line_open = False  # the line on the terminal is not finished

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Add `count` to what is done."""
        if self._first is None:
            self._first = 0
        self.update(self.done + count, note=note)

    def update(self, done: int, *, note: str = "") -> None:
        """Show that `done` of `total` are done. The first call starts the clock, so that resumed work counts from there."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = done, now
        self.done = done
        is_finished = done >= self.total
        pause = TERMINAL_PAUSE_S if self._is_terminal else LOG_PAUSE_S
        if not self._is_shown or (not is_finished and now - self._last_drawn < pause):
            return
        self._last_drawn = now
        self._is_line_open = self._is_terminal and not is_finished
        line, end = self._format(now, note), "" if self._is_line_open else "\n"
        print(f"{CLEAR_LINE}{line}" if self._is_terminal else line, end=end, file=sys.stderr, flush=True)

    def _format(self, now: float, note: str) -> str:
        filled = min(WIDTH, WIDTH * self.done // self.total)
        bar = "█" * filled + "·" * (WIDTH - filled)
        elapsed = now - self._started
        rate = (self.done - (self._first or 0)) / max(elapsed, 1e-6)
        duration = f", {format_duration(elapsed)}"
        if self.done < self.total:
            duration = f", {format_duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        return f"{self.title:<22} {bar} {self.done}/{self.total} {self.unit}{duration}  {note}".rstrip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_line_open:  # interrupted: what follows starts on a new line
            print(file=sys.stderr, flush=True)
            self._is_line_open = False


def print_line(text: str) -> None:
    """Print a line between two drawings of a bar."""
    print(f"{CLEAR_LINE}{text}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


class BarLine(NamedTuple):
    """The contents of a bar in a log."""

    title: str
    done: int
    total: int
    rest: str  # unit, time and note


def parse_bar(line: str) -> BarLine | None:
    """Parse a line of a log as a bar; None for any other line."""
    match = BAR_LINE.match(line.strip())
    return BarLine(match["title"], int(match["done"]), int(match["total"]), match["rest"]) if match else None


class LogView:
    """The log of a remote job on standard output: on a terminal its bar stays in the last line, below all other lines."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._bar = ""

    def show(self, lines: Iterable[str]) -> None:
        """Show more lines of the log."""
        for line in lines:
            bar = parse_bar(line)
            if bar and bar.done < bar.total and self._is_terminal:
                self._bar = line.strip()
                continue
            if bar:
                self._bar = ""
            self._print(line.rstrip())
        self._redraw()

    def note(self, text: str) -> None:
        """Show a line that is not from the log."""
        self._print(text)
        self._redraw()

    def close(self) -> None:
        """End the bar's line, so that what follows starts on a new one."""
        if self._is_terminal and self._bar:
            print(flush=True)
        self._bar = ""

    def _print(self, text: str) -> None:
        print(f"{CLEAR_LINE}{text}" if self._is_terminal else text, flush=True)

    def _redraw(self) -> None:
        if self._is_terminal and self._bar:
            columns = shutil.get_terminal_size().columns
            print(f"{CLEAR_LINE}{self._bar[: columns - 1]}", end="", flush=True)  # a wrapped line could not be redrawn


def format_duration(seconds: float) -> str:
    """Format as 12 s, 3 min 20 s, 5 h 10 min or 2 d 3 h."""
    rounded = round(seconds)
    for size, name, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if rounded >= size:
            return f"{rounded // size} {name} {rounded % size // smaller_size} {smaller}"
    return f"{rounded} s"
