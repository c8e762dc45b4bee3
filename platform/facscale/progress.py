"""Progress bars that survive a log: redrawn in place on a terminal, a line now and then in `ray job logs`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

WIDTH = 24
LINE = re.compile(rf"(?P<title>\S.*?) +[█·]{{{WIDTH}}} (?P<done>\d+)/(?P<total>\d+) (?P<rest>.*)")
PAUSES_S = {True: 0.2, False: 5.0}  # between two drawings, on a terminal and in a log


class Progress:
    """One bar on standard error: `with Progress("rendering", total=400, unit="videos") as bar: bar.advance()`.

    Whoever counts alone says `bar.to(120, note="loss 0.31")`. Nothing is shown when `shown` is False.
    """

    def __init__(self, title: str, *, total: int, unit: str = "", shown: bool = True) -> None:
        self.title, self.total, self.unit = title, max(total, 1), unit
        self.done = 0
        self._shown, self._live = shown, sys.stderr.isatty()
        self._started = self._drawn = time.monotonic()
        self._first: int | None = None
        self._open = False  # an unfinished line stands on the terminal

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """`count` more are done."""
        if self._first is None:
            self._first = 0
        self.to(self.done + count, note=note)

    def to(self, done: int, *, note: str = "") -> None:
        """Show that `done` of `total` are done; the first call only starts the clock where work goes on from there."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = done, now
        self.done = done
        finished = done >= self.total
        if not self._shown or (not finished and now - self._drawn < PAUSES_S[self._live]):
            return
        self._drawn = now
        print(f"\r\033[K{self._line(now, note)}" if self._live else self._line(now, note),
              end="" if self._live and not finished else "\n", file=sys.stderr, flush=True)  # fmt: skip
        self._open = self._live and not finished

    def _line(self, now: float, note: str) -> str:
        filled = min(WIDTH, WIDTH * self.done // self.total)
        bar = "█" * filled + "·" * (WIDTH - filled)
        passed = now - self._started
        rate = (self.done - (self._first or 0)) / max(passed, 1e-6)
        when = f", {duration(passed)}"
        if self.done < self.total:
            when = f", {duration((self.total - self.done) / rate)} left" if rate > 0 else ""
        return f"{self.title:<22} {bar} {self.done}/{self.total} {self.unit}{when}  {note}".rstrip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:  # broken off: what follows starts on a line of its own
            print(file=sys.stderr, flush=True)
            self._open = False


class Reached(NamedTuple):
    """What a line of a bar says, wherever it was printed."""

    title: str
    done: int
    total: int
    rest: str  # unit, time and note


def reached(line: str) -> Reached | None:
    """The bar in a line of a log; None for any other line."""
    found = LINE.match(line.strip())
    return Reached(found["title"], int(found["done"]), int(found["total"]), found["rest"]) if found else None


class Tail:
    """The log of a job elsewhere, as it comes: its bars are one live line on a terminal, everything else goes by above."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._bar = ""

    def show(self, lines: Iterable[str]) -> None:
        """Some more lines of the log."""
        for line in lines:
            bar = reached(line)
            unfinished = bar and bar.done < bar.total
            if unfinished and self._live:
                self._bar = line.strip()
                continue
            if bar:
                self._bar = ""
            self._print(line.rstrip())
        self._redraw()

    def note(self, text: str) -> None:
        """A line of our own."""
        self._print(text)
        self._redraw()

    def close(self) -> None:
        """What follows starts on a line of its own."""
        if self._live and self._bar:
            print(flush=True)
        self._bar = ""

    def _print(self, text: str) -> None:
        print(f"\r\033[K{text}" if self._live else text, flush=True)

    def _redraw(self) -> None:
        if self._live and self._bar:
            print(f"\r\033[K{self._bar}", end="", flush=True)


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 10 min, 2 d 3 h."""
    whole = round(seconds)
    for size, name, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // below} {small}"
    return f"{whole} s"
