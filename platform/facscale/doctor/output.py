"""Output of `facscale doctor`: findings as they come, as text or as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter

from rich.console import Console

from facscale.doctor.context import DiagnosticContext
from facscale.doctor.finding import Finding
from facscale.doctor.runner import run_checks

MARKS = {"ok": "[green]ok     [/green]", "warning": "[yellow]warning[/yellow]", "problem": "[red]problem[/red]"}
LOG_WIDTH = 150  # characters, where the output is no terminal


def print_findings(context: DiagnosticContext, *, as_json: bool) -> int:
    """Run all checks and print each finding, as a line of JSON if `as_json`; return 1 if there are problems, else 0."""
    console = Console(width=None if os.isatty(1) else LOG_WIDTH, highlight=False, soft_wrap=True)
    counts: Counter[str] = Counter()
    for finding in run_checks(context):
        counts[finding.severity] += 1
        if as_json:
            print(format_json(finding), flush=True)  # noqa: T201 - for programs
        else:
            console.print(format_finding(finding))
    if not as_json:
        console.print(format_summary(counts))
    return 1 if counts["problem"] else 0


def format_json(finding: Finding) -> str:
    """Format a finding as a line of JSON. The keys are an interface to programs, and older than the fields' names."""
    keys = {"state": finding.severity, "what": finding.message, "mend": finding.fix, "check": finding.check}
    return json.dumps(keys)


def format_finding(finding: Finding) -> str:
    """Format a finding in rich's markup, with the fix on a line of its own."""
    message = finding.message.replace("[", "\\[")
    fix = f"\n                          -> {finding.fix}".replace("[", "\\[") if finding.fix else ""
    return f"{MARKS[finding.severity]} {finding.check:<17} {message}{fix}"


def format_summary(counts: Counter[str]) -> str:
    """Format the numbers of problems and warnings in rich's markup."""
    if counts["problem"]:
        return f"[red]{counts['problem']} problems[/red], {counts['warning']} warnings: fix the problems first"
    if counts["warning"]:
        return f"{counts['warning']} warnings, no problem: jobs run here"
    return "all checks passed"
