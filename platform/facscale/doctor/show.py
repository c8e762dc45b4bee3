"""`facscale doctor`: findings as they come, on a terminal or as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict

from rich.console import Console

from facscale.doctor.examination import examine
from facscale.doctor.finding import Finding
from facscale.doctor.patient import Patient

MARKS = {"ok": "[green]ok     [/green]", "warning": "[yellow]warning[/yellow]", "problem": "[red]problem[/red]"}
WIDTH = 150  # in a log


def show(patient: Patient, *, as_json: bool) -> int:
    """Print every finding, with `as_json` as a line of JSON each; the exit status: 1 where there are problems."""
    console = Console(width=None if os.isatty(1) else WIDTH, highlight=False, soft_wrap=True)
    counts: Counter[str] = Counter()
    for found in examine(patient):
        counts[found.state] += 1
        if as_json:
            print(json.dumps(asdict(found)), flush=True)  # noqa: T201 - for programs
        else:
            console.print(line(found))
    if not as_json:
        console.print(summary(counts))
    return 1 if counts["problem"] else 0


def line(found: Finding) -> str:
    """One finding, in rich's markup; the mend on a line of its own."""
    escape = found.what.replace("[", "\\[")
    mend = f"\n                          -> {found.mend}".replace("[", "\\[") if found.mend else ""
    return f"{MARKS[found.state]} {found.check:<17} {escape}{mend}"


def summary(counts: Counter[str]) -> str:
    """How many of each kind."""
    if counts["problem"]:
        return f"[red]{counts['problem']} problems[/red], {counts['warning']} warnings: mend the problems first"
    if counts["warning"]:
        return f"{counts['warning']} warnings, no problem: jobs run here"
    return "everything is as it should be"
