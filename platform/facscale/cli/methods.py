"""`facscale methods`: the list of methods, and the description of one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from facscale.data.views import View
from facscale.methods import Method, find_method, list_hidden_methods, list_methods
from facscale.shipped import locate_shipped
from facscale.spec import read_spec
from facscale.spec.document import keep_variables

CITATION = re.compile(r'(?P<authors>[^"]+), "(?P<title>.+)", (?P<venue>.+ (?:19|20)\d\d)\.')


def show_methods() -> None:
    """Print a block for each method: its paper, the data it needs, its defaults and its jobs.

    A method of another package that fails has its error in the block; the others are shown.
    """
    console = Console(highlight=False)
    for name in list_methods():
        try:
            method = find_method(name)
            title = (inspect.getdoc(inspect.getmodule(method)) or "").split("\n")[0]
            lines = describe_method(name)
        except Exception as error:  # noqa: BLE001 - code of other packages
            title, lines = "cannot be used", {"error": " ".join(str(error).split()) or type(error).__name__}
        console.print(Text.assemble((name, "bold"), "  ", title))
        block = Table.grid(padding=(0, 2))
        for heading, text in lines.items():
            block.add_row(f"  {heading}", Text(text))
        console.print(block)
        console.print()
    for sentence in list_hidden_methods():
        console.print(Text(f"not usable: {sentence}"))
    console.print("`facscale methods NAME` shows a method's paper, its equations, and its hyper-parameters.")


def show_method(name: str) -> None:
    """Print one method: its docstring, views, inputs, jobs and hyper-parameters."""
    method, console = find_method(name), Console(highlight=False)
    console.print(inspect.getdoc(method), markup=False, soft_wrap=True)
    console.print()
    for view_name, view in method.train_views(method.Config()).items():
        console.print(f"view {view_name}: {view}", markup=False)
    for root in method.roots():
        console.print(f"trains {root.name} in {', '.join(root.phases)}", markup=False)
    description = describe_method(name)
    for heading in ("inputs", "jobs"):
        if heading in description:
            console.print(f"{heading}: {description[heading]}", markup=False)
    console.print()
    table = Table("hyper-parameter", "type", "default", box=None, pad_edge=False, title="method:", title_justify="left")
    for key, field in method.Config.model_fields.items():
        table.add_row(key, inspect.formatannotation(field.annotation), repr(field.default))
    console.print(table)


def describe_method(name: str) -> dict[str, str]:
    """The block of a method in the list, by heading, without empty headings."""
    method = find_method(name)
    defaults = method.Config().model_dump(mode="json")
    lines = {
        "paper": get_citation(method),
        "needs": format_views(method.train_views(method.Config())),
        "inputs": format_inputs(method),
        "defaults": " ".join(f"{key}={format_default(value)}" for key, value in defaults.items()),
        "jobs": ", ".join(f"jobs/{path.name}" for path in find_jobs(name)),
    }
    return {heading: text for heading, text in lines.items() if text}


def format_default(value: Any) -> str:
    """The value as one word, as an override on the command line takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(format_default, value))}]"
    return "null" if value is None else str(value)


def get_citation(method: type[Method]) -> str:
    """Authors, venue and year ('Li and Shan, TIP 2023') of the citation in the docstring; else its first paragraph."""
    first = " ".join((inspect.getdoc(method) or "").split("\n\n")[0].split())
    citation = CITATION.fullmatch(first)
    return f"{citation['authors']}, {citation['venue']}" if citation else first


def format_views(views: Mapping[str, View]) -> str:
    """The views by source: 'unlabelled: clip (9 frames), faces (2 frames, 2 augmented copies of each)'."""
    sources = dict.fromkeys(view.source for view in views.values())
    lines = {
        source: ", ".join(f"{name} ({format_view(view)})" for name, view in views.items() if view.source == source)
        for source in sources
    }
    return "; ".join(f"{source}: {text}" for source, text in lines.items())


def format_view(view: View) -> str:
    """The frames, copies and columns of a view: '2 frames, 2 augmented copies of each, with au'."""
    count = "1 frame" if view.count == 1 else f"{view.count} frames"
    copies = [f"{view.views} augmented copies{' of each' if view.count > 1 else ''}"] if view.views > 1 else []
    columns = [f"with {' and '.join(view.columns)}"] if view.columns else []
    return ", ".join([count, *copies, *columns])


def format_inputs(method: type[Method]) -> str:
    """The trained methods that its constructor takes: 'pretrained (optional)'."""
    inputs = [
        parameter
        for parameter in inspect.signature(method).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    return ", ".join(
        parameter.name if parameter.default is parameter.empty else f"{parameter.name} (optional)"
        for parameter in inputs
    )


def find_jobs(name: str) -> list[Path]:
    """The job files of facscale that train the method `name`, as their main method or as a stage."""
    return [path for path in sorted(locate_shipped("jobs").glob("*.yaml")) if name in list_method_names(path)]


def list_method_names(path: Path) -> list[str]:
    """The methods of a job file and of its stages, also inherited ones; its environment variables need not be set."""
    spec = read_spec(path, resolve=keep_variables).data
    blocks = [spec, *spec.get("stages", {}).values()]
    return [block["method"]["name"] for block in blocks if "name" in block.get("method", {})]
