"""A progress bar on a terminal; a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PAUSE_S = 10.0  # between two lines of a log


class Bar:
    """Counts up to `total`. Shows nothing when `shown` is False; writes to standard error."""

    def __init__(self, title: str, *, total: int, shown: bool) -> None:
        self.title, self.total, self.done, self.text = title, total, 0, ""
        self._lines = shown and not sys.stderr.isatty()
        self._next = time.monotonic() + PAUSE_S
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (shown and sys.stderr.isatty()),
        )
        self._task = self._bar.add_task(title, total=total, text="")

    def advance(self, text: str = "") -> None:
        """One more is done; `text` stands beside the bar."""
        self.done, self.text = self.done + 1, text
        self._bar.update(self._task, advance=1, text=text)
        if self._lines and (time.monotonic() >= self._next or self.done == self.total):
            self._next = time.monotonic() + PAUSE_S
            print(f"{self.title}: {self.done}/{self.total} {text}".rstrip(), file=sys.stderr, flush=True)  # noqa: T201

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
