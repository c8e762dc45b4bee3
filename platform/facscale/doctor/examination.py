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

from facscale.doctor.finding import Finding, first_line, problem, told
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
    limit_s: float | None  # None: it runs in the thread of who asks
    look: Look


_CHECKS: list[Check] = []


def check(name: str, *, rank: int, place: Place = "ray", limit_s: float | None = LIMIT_S) -> Callable[[Look], Look]:
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
    """Of one check. It runs beside us where it has a limit, so that one that hangs is left behind."""
    if one.limit_s is None:
        yield from looked(one, patient)
        return
    told_so_far: queue.Queue[Finding | None] = queue.Queue()

    def run() -> None:
        for found in looked(one, patient):
            told_so_far.put(found)
        told_so_far.put(None)

    threading.Thread(target=run, name=f"doctor {one.name}", daemon=True).start()
    end = time.monotonic() + one.limit_s
    while True:
        try:
            found = told_so_far.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            mend = "look there by hand: something hangs, or is far too slow"
            yield replace(problem(f"no answer within {one.limit_s:g} s", mend), check=one.name)
            return
        if found is None:
            return
        yield found


def looked(one: Check, patient: Patient) -> Iterator[Finding]:
    """Its findings, and what went wrong with it as the last one."""
    try:
        for found in one.look(patient):
            yield replace(found, check=one.name)
    except NotNowError:
        return
    except UserError as error:
        yield replace(told(error), check=one.name)
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding
        text = f"the check itself failed: {type(error).__name__}: {first_line(error)}"
        yield replace(problem(text, one.look.__doc__ or ""), check=one.name)
