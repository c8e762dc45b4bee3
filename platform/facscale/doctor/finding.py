"""What an examination finds, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One fact about a cluster; what is not ok says what to do."""

    state: State
    what: str
    mend: str = ""
    check: str = ""  # the check that found it


def ok(what: str) -> Finding:
    """As it should be."""
    return Finding("ok", what)


def warning(what: str, mend: str) -> Finding:
    """Jobs run, but worse than they could, or it cannot be known from here."""
    return Finding("warning", what, mend)


def problem(what: str, mend: str) -> Finding:
    """Jobs will fail."""
    return Finding("problem", what, mend)


def told(error: Exception, *, mend: str = "") -> Finding:
    """An error as a problem. Ours end with what to do, after a semicolon; `mend` is for those that do not."""
    text = str(error).strip() or type(error).__name__
    what, _, rest = text.partition("; ")
    return problem(what, rest or mend or "see the message")


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
