"""Findings: the results of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """A fact about a cluster, and how to fix it unless it is ok."""

    severity: Severity
    message: str
    fix: str = ""
    check: str = ""  # name of the check


def ok(message: str) -> Finding:
    """Build a finding that needs no action."""
    return Finding("ok", message)


def warning(message: str, fix: str) -> Finding:
    """Build a finding with which jobs run, but worse than they could, or one that cannot be verified from here."""
    return Finding("warning", message, fix)


def problem(message: str, fix: str) -> Finding:
    """Build a finding with which jobs will fail."""
    return Finding("problem", message, fix)


def from_error(error: Exception, *, fix: str = "") -> Finding:
    """Convert an error to a problem. Our own messages end with the fix after a semicolon; `fix` is for all others."""
    text = str(error).strip() or type(error).__name__
    message, _, rest = text.partition("; ")
    return problem(message, rest or fix or "see the message")


def get_first_line(error: Exception) -> str:
    """Return the first line of an error's message, at most 300 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
