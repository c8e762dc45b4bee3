"""`facscale check` of a sweep: what is searched, and for how long."""

from __future__ import annotations

import math

from rich.console import Console

from facscale.spec import Document
from facscale.spec.sweep import Domain, Sweep
from facscale.sweep.outcome import shown
from facscale.sweep.run import checked


def check_sweep(document: Document, *, name: str) -> None:
    """Print the search. Raises SpecError for one that cannot run."""
    sweep, console = checked(document, name=name), Console(highlight=False)
    console.print(f"\n[bold]sweep[/bold]: {trials(sweep)} trials by {sweep.search}, {sweep.goal} of {sweep.objective}")
    for key, values in sweep.searched.items():
        console.print(f"  {key:<28} {domain(values)}", markup=False)
    at_most = "changes values" if sweep.search == "pbt" else "stops the worse trials"
    if sweep.search == "pbt" or sweep.early_stopping == "asha":
        console.print(
            f"  from {sweep.grace:.0%} of a training on, {sweep.search if sweep.search == 'pbt' else 'asha'} {at_most}"
        )


def trials(sweep: Sweep) -> int:
    """How many there will be."""
    return (
        math.prod(len(v) for v in sweep.searched.values() if isinstance(v, tuple))
        if sweep.search == "grid"
        else sweep.trials
    )


def domain(values: Domain) -> str:
    """In words."""
    if isinstance(values, tuple):
        return "one of " + ", ".join(map(shown, values))
    return f"{shown(values.low)} to {shown(values.high)}" + (", evenly over orders of magnitude" if values.log else "")
