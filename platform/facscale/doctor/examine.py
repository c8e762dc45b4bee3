"""Runs checks one after the other, each within its time; whatever goes wrong in one is a finding too."""

from __future__ import annotations

import importlib
import pkgutil
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from facscale.doctor.finding import Finding, problem, told
from facscale.doctor.patient import NotNowError, Patient
from facscale.errors import UserError

LIMIT_S = 120.0  # of a check that names none
Place = Literal["ray", "kube", "both"]
Look = Callable[[Patient], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """One question, and how to look."""

    name: str
    rank: int  # the lower, the earlier
    place: Place  # what it looks at
    limit_s: float
    look: Look


_CHECKS: list[Check] = []


def check(name: str, *, rank: int, place: Place = "ray", limit_s: float = LIMIT_S) -> Callable[[Look], Look]:
    """Makes a function of a module in `doctor/checks` a check: it yields findings, and may raise whatever it likes."""

    def keep(look: Look) -> Look:
        _CHECKS.append(Check(name, rank, place, limit_s, look))
        return look

    return keep


def checks(place: Place) -> list[Check]:
    """All that look at a place, in order: whatever lies in `doctor/checks`, no list names them."""
    from facscale.doctor import checks as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
    return sorted((one for one in _CHECKS if one.place in {place, "both"}), key=lambda one: (one.rank, one.name))


def examine(patient: Patient) -> Iterator[Finding]:
    """All findings, as they come."""
    for one in checks(patient.place):
        yield from findings(one, patient)


def findings(one: Check, patient: Patient) -> Iterator[Finding]:
    """Of one check. It runs beside us, so that one that hangs is left behind."""
    told_so_far: queue.Queue[Finding | None] = queue.Queue()

    def run() -> None:
        try:
            for found in one.look(patient):
                told_so_far.put(found)
        except NotNowError:
            pass
        except UserError as error:
            told_so_far.put(told(error))
        except Exception as error:  # noqa: BLE001 - a check that fails is a finding
            text = (str(error).strip() or "without a message").splitlines()[0][:300]
            told_so_far.put(problem(f"the check itself failed: {type(error).__name__}: {text}", one.look.__doc__ or ""))
        told_so_far.put(None)

    threading.Thread(target=run, name=f"doctor {one.name}", daemon=True).start()
    end = time.monotonic() + one.limit_s
    while True:
        try:
            found = told_so_far.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            found = problem(
                f"no answer within {one.limit_s:g} s", "look there by hand: something hangs or is far too slow"
            )
            yield replace(found, check=one.name)
            return
        if found is None:
            return
        yield replace(found, check=one.name)
