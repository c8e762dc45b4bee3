"""`facscale methods`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from facscale.data.views import View
from facscale.methods import Method, find, names
from facscale.shipped import locate_shipped

CITATION = re.compile(r'(?P<authors>[^"]+), "(?P<title>.+)", (?P<venue>.+ (?:19|20)\d\d)\.')


def show_methods() -> None:
    """All methods, one block each: paper, needs, defaults."""
    console = Console(highlight=False)
    for name in names():
        method = find(name)
        title = (inspect.getdoc(inspect.getmodule(method)) or "").split("\n")[0]
        console.print(Text.assemble((name, "bold"), "  ", title))
        block = Table.grid(padding=(0, 2))
        for what, said in summary(name).items():
            block.add_row(f"  {what}", Text(said))
        console.print(block)
        console.print()
    console.print("`facscale methods NAME` shows a method's paper, its equations, and its hyper-parameters.")


def show_method(name: str) -> None:
    """One method: what its docstring says, what it needs, which jobs run it, and its hyper-parameters."""
    method, console = find(name), Console(highlight=False)
    console.print(inspect.getdoc(method), markup=False, soft_wrap=True)
    console.print()
    for view, wanted in method.sample(method.Config()).items():
        console.print(f"view {view}: {wanted}", markup=False)
    for root in method.roots():
        console.print(f"trains {root.name} in {', '.join(root.phases)}", markup=False)
    for what in ("inputs", "jobs"):
        if said := summary(name).get(what):
            console.print(f"{what}: {said}", markup=False)
    console.print()
    table = Table("hyper-parameter", "type", "default", box=None, pad_edge=False, title="method:", title_justify="left")
    for key, field in method.Config.model_fields.items():
        table.add_row(key, inspect.formatannotation(field.annotation), repr(field.default))
    console.print(table)


def summary(name: str) -> dict[str, str]:
    """What the list says of a method, by heading; headings without anything to say are left out."""
    method = find(name)
    defaults = method.Config().model_dump(mode="json")
    said = {
        "paper": citation(method),
        "needs": needs(method.sample(method.Config())),
        "inputs": inputs(method),
        "defaults": " ".join(f"{key}={written(value)}" for key, value in defaults.items()),
        "jobs": ", ".join(f"jobs/{path.name}" for path in jobs(name)),
    }
    return {heading: text for heading, text in said.items() if text}


def written(value: Any) -> str:
    """As an override has it, in one word."""
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value)


def citation(method: type[Method]) -> str:
    """'Li and Shan, TIP 2023', of a docstring that begins with a citation in full; else how it begins."""
    first = " ".join((inspect.getdoc(method) or "").split("\n\n")[0].split())
    found = CITATION.fullmatch(first)
    return f"{found['authors']}, {found['venue']}" if found else first


def needs(views: Mapping[str, View]) -> str:
    """'unlabelled: clip (9 frames), faces (2 frames, 2 augmented copies of each)'."""
    sources = dict.fromkeys(view.source for view in views.values())
    wanted = {
        source: ", ".join(f"{name} ({frames(view)})" for name, view in views.items() if view.source == source)
        for source in sources
    }
    return "; ".join(f"{source}: {text}" for source, text in wanted.items())


def frames(view: View) -> str:
    """'2 frames, 2 augmented copies of each', and the columns that come with them."""
    count = "1 frame" if view.count == 1 else f"{view.count} frames"
    copies = [f"{view.views} augmented copies{' of each' if view.count > 1 else ''}"] if view.views > 1 else []
    columns = [f"with {' and '.join(view.columns)}"] if view.columns else []
    return ", ".join([count, *copies, *columns])


def inputs(method: type[Method]) -> str:
    """'pretrained (optional)': the trained methods that its constructor takes."""
    taken = [one for one in inspect.signature(method).parameters.values() if one.kind is one.KEYWORD_ONLY]
    return ", ".join(one.name if one.default is one.empty else f"{one.name} (optional)" for one in taken)


def jobs(name: str) -> list[Path]:
    """Our job files that train the method called `name`, as what is judged or as a stage."""
    return [path for path in sorted(locate_shipped("jobs").glob("*.yaml")) if name in named(path)]


def named(path: Path) -> list[str]:
    """The method of a job file and those of its stages, its own or of the file it extends; its variables may be unset."""
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    blocks = [spec, *spec.get("stages", {}).values()]
    own = [block["method"]["name"] for block in blocks if "name" in block.get("method", {})]
    extended = named(path.parent / spec["extends"]) if "extends" in spec else []
    return [*own, *(extended[1:] if "name" in spec.get("method", {}) else extended)]
