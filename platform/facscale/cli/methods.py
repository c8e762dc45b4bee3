"""`facscale methods`."""

from __future__ import annotations

import inspect

from rich.console import Console
from rich.table import Table

from facscale.methods import find, names


def show_methods() -> None:
    """All methods in one table."""
    table = Table("method", "what it is", "learns from", box=None, pad_edge=False)
    for name in names():
        method = find(name)
        title = (inspect.getdoc(inspect.getmodule(method)) or "").split("\n")[0]
        table.add_row(name, title, "labels" if method.learns_from_labels(method.Config()) else "unlabelled video")
    console = Console(highlight=False)
    console.print(table)
    console.print("\n`facscale methods NAME` shows a method's paper, its equations, and its hyper-parameters.")


def show_method(name: str) -> None:
    """One method: what its docstring says, and its hyper-parameters."""
    method, console = find(name), Console(highlight=False)
    console.print(inspect.getdoc(method), markup=False)
    console.print()
    for view, wanted in method.sample(method.Config()).items():
        console.print(f"view {view}: {wanted}", markup=False)
    for root in method.roots():
        console.print(f"trains {root.name} in {', '.join(root.phases)}", markup=False)
    console.print()
    table = Table("hyper-parameter", "type", "default", box=None, pad_edge=False, title="method:", title_justify="left")
    for key, field in method.Config.model_fields.items():
        table.add_row(key, inspect.formatannotation(field.annotation), repr(field.default))
    console.print(table)
