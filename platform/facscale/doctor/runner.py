"""Run checks one after the other, each within its time limit; whatever fails inside a check becomes a finding."""

from __future__ import annotations

import importlib
import pkgutil
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from facscale.doctor.context import DiagnosticContext, PrerequisiteError, TargetKind
from facscale.doctor.finding import Finding, from_error, get_first_line, problem
from facscale.errors import UserError

TIMEOUT_S = 120.0  # of a check that sets none
CheckFunction = Callable[[DiagnosticContext], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """A check and its place in the order."""

    name: str
    rank: int  # checks run in the order of their ranks
    kind: TargetKind | None  # what it checks; None: both
    timeout_s: float | None  # None: it runs in the caller's thread
    function: CheckFunction  # its docstring tells the user where to look if it crashes


_CHECKS: list[Check] = []


def register_check(
    name: str, *, rank: int, kind: TargetKind | None = "ray", timeout_s: float | None = TIMEOUT_S
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a generator of findings in a module of `doctor/checks` as a check; it may raise any exception."""

    def register(function: CheckFunction) -> CheckFunction:
        _CHECKS.append(Check(name, rank, kind, timeout_s, function))
        return function

    return register


def load_checks(kind: TargetKind) -> list[Check]:
    """Import all modules of `doctor/checks` and return their checks for this kind of target, in order."""
    from facscale.doctor import checks

    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f"{checks.__name__}.{module.name}")
    return sorted(
        (check for check in _CHECKS if check.kind in {kind, None}), key=lambda check: (check.rank, check.name)
    )


def run_checks(context: DiagnosticContext) -> Iterator[Finding]:
    """Run all checks for the context's target and yield their findings as they come."""
    for check in load_checks(context.kind):
        yield from run_check(check, context)


def run_check(check: Check, context: DiagnosticContext) -> Iterator[Finding]:
    """Run a check and yield its findings. With a time limit it runs in a thread, which is abandoned if it hangs."""
    if check.timeout_s is None:
        yield from collect_findings(check, context)
        return
    findings: queue.Queue[Finding | None] = queue.Queue()

    def run() -> None:
        for finding in collect_findings(check, context):
            findings.put(finding)
        findings.put(None)

    threading.Thread(target=run, name=f"doctor {check.name}", daemon=True).start()
    end = time.monotonic() + check.timeout_s
    while True:
        try:
            finding = findings.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            fix = "check it by hand: something hangs, or is far too slow"
            yield replace(problem(f"no answer within {check.timeout_s:g} s", fix), check=check.name)
            return
        if finding is None:
            return
        yield finding


def collect_findings(check: Check, context: DiagnosticContext) -> Iterator[Finding]:
    """Yield the findings of a check; an exception becomes the last of them."""
    try:
        for finding in check.function(context):
            yield replace(finding, check=check.name)
    except PrerequisiteError:
        return
    except UserError as error:
        yield replace(from_error(error), check=check.name)
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding
        message = f"the check itself failed: {type(error).__name__}: {get_first_line(error)}"
        yield replace(problem(message, check.function.__doc__ or ""), check=check.name)
