"""`facscale check` of a sweep: what is searched, in how many trials."""

from __future__ import annotations

from rich.console import Console

from facscale.spec import Document
from facscale.spec.sweep import Domain
from facscale.sweep.outcome import format_value
from facscale.sweep.run import check_sweep_spec
from facscale.sweep.space import count_trials


def check_sweep(document: Document, *, name: str) -> None:
    """Print the search. Raises SpecError for one that cannot run."""
    sweep, console = check_sweep_spec(document, name=name), Console(highlight=False)
    console.print(
        f"\n[bold]sweep[/bold]: {count_trials(sweep)} trials by {sweep.search}, {sweep.goal} of {sweep.objective}"
    )
    for key, domain in sweep.active_space.items():
        console.print(f"  {key:<28} {describe_domain(domain)}", markup=False)
    at_most = "changes values" if sweep.search == "pbt" else "stops the worse trials"
    if sweep.search == "pbt" or sweep.early_stopping == "asha":
        console.print(
            f"  from {sweep.grace:.0%} of a training on, {sweep.search if sweep.search == 'pbt' else 'asha'} {at_most}"
        )


def describe_domain(domain: Domain) -> str:
    """A domain in words."""
    if isinstance(domain, tuple):
        return "one of " + ", ".join(map(format_value, domain))
    return f"{format_value(domain.low)} to {format_value(domain.high)}" + (
        ", evenly over orders of magnitude" if domain.log else ""
    )
