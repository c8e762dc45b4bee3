"""Progress bars that survive a log: redrawn in place on a terminal, a line now and then in `ray job logs`."""

from __future__ import annotations

import sys
import time

WIDTH = 24


class Progress:
    """One bar: `Progress("pre-training", total=400, unit="steps")`, then `.to(120, note="loss 0.31")`."""

    def __init__(self, title: str, *, total: int, unit: str = "") -> None:
        self.title, self.total, self.unit = title, max(total, 1), unit
        self._started = self._drawn = time.monotonic()
        self._first: int | None = None
        self._live = sys.stderr.isatty()

    def to(self, done: int, *, note: str = "") -> None:
        """Show that `done` of `total` are done; draws at most twice a second, in a log every five seconds."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = done, now
        finished = done >= self.total
        if not finished and now - self._drawn < (0.5 if self._live else 5.0):
            return
        self._drawn = now
        filled = min(WIDTH, WIDTH * done // self.total)
        bar = "█" * filled + "·" * (WIDTH - filled)
        rate = (done - self._first) / max(now - self._started, 1e-6)
        left = f", {duration((self.total - done) / rate)} left" if rate > 0 and not finished else ""
        took = f", {duration(now - self._started)}" if finished else ""
        line = f"{self.title:<22} {bar} {done}/{self.total} {self.unit}{left}{took}  {note}".rstrip()
        print(
            f"\r\033[K{line}" if self._live else line,
            end="" if self._live and not finished else "\n",
            file=sys.stderr,
            flush=True,
        )


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 10 min, 2 d 3 h."""
    whole = round(seconds)
    for size, name, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // below} {small}"
    return f"{whole} s"
