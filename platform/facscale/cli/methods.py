"""`facscale methods`."""

from __future__ import annotations

import inspect

from rich.console import Console
from rich.table import Table

from facscale.methods import find, names


def show_methods() -> None:
    """All methods in one table."""
    table = Table("method", "paper", "learns from", "trains", box=None, pad_edge=False)
    for name in names():
        method = find(name)
        config = method.Config()
        views = ", ".join(f"{view}: {kind}" for view, kind in method.sample(config).items())
        source = "labels, per fold" if method.learns_from_labels(config) else "unlabelled video"
        paper = (inspect.getdoc(method) or "").split("\n")[0]
        table.add_row(name, paper, source, " | ".join(root.name for root in method.roots()))
        table.add_row("", f"[dim]{views}[/dim]")
    Console().print(table)


def show_method(name: str) -> None:
    """One method: what its docstring says, and its hyper-parameters."""
    method, console = find(name), Console()
    console.print(inspect.getdoc(method), markup=False, highlight=False)
    table = Table("hyper-parameter", "type", "default", box=None, pad_edge=False, title="method:", title_justify="left")
    for key, field in method.Config.model_fields.items():
        table.add_row(key, inspect.formatannotation(field.annotation), repr(field.default))
    console.print(table)
