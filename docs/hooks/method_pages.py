"""A page for each method: its docstring with equations drawn, its picture, hyper-parameters, jobs and published F1."""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from equations import render_equations
from result_pages import find_measurements
from spec_pages import escape, format_default, format_type, read_comments

from facscale.cli.methods import CITATION, describe_method, find_jobs
from facscale.methods import Method, find_method, list_methods
from facscale.report.published.results import find_results, resolve_alias

PICTURES = {  # what a method's picture is called in docs/images; methods of one family share one
    "moco": "contrast",
    "cvc": "contrast",
    "simclr": "contrast",
    "simsiam": "contrast",
    "fabnet": "displacement",
    "tcae": "displacement",
}
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


def list_own_methods() -> list[str]:
    """The methods of facscale itself, without those that another package adds."""
    return [name for name in list_methods() if find_method(name).__module__.startswith("facscale.")]


def build_index() -> str:
    """The page that lists all methods."""
    lines = [
        "# Methods",
        "",
        "Every method is one Python file and one YAML file; `facscale methods` prints this list.",
        "",
    ]
    lines += ["| method | paper | learns from |", "|---|---|---|"]
    for name in list_own_methods():
        about = describe_method(name)
        lines.append(f"| [{name}]({name}.md) | {escape(about['paper'])} | {escape(about['needs'])} |")
    return "\n".join(lines)


def build_page(name: str, images: Path) -> str:
    """The page of one method."""
    method, about = find_method(name), describe_method(name)
    module = inspect.getdoc(inspect.getmodule(method)) or ""
    lines = [f"# {name}", "", module.splitlines()[0], "", *format_docstring(inspect.getdoc(method) or "")]
    picture = images / f"{PICTURES.get(name, name)}.svg"
    if picture.exists():
        lines += ["", "## Picture", "", f"![The parts of {name} and the way of a sample](../images/{picture.name})"]
    lines += ["", "## Hyper-parameters", "", "Under `method:` in a job.", ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    comments = read_comments(method.Config)
    for key, field in method.Config.model_fields.items():
        kind = format_type(field.annotation, field.metadata)
        lines.append(f"| `{key}` | {kind} | {format_default(field)} | {escape(comments.get(key, ''))} |")
    lines += ["", "## Samples and what is trained", "", f"A sample: {escape(about['needs'])}.", ""]
    lines += [
        f"- `{root.name}` in the phase {', '.join(f'`{phase}`' for phase in root.phases)}" for root in method.roots()
    ]
    if inputs := about.get("inputs"):
        lines += ["", f"Inputs, which are trained methods (`inputs:`): {inputs}."]
    lines += ["", "## Jobs", "", "`facscale check` prints memory, operations and an estimate of the time of each.", ""]
    for path in find_jobs(name):
        lines += [f"### {path.name}", "", *format_comment(path.read_text()), ""]
        lines += [
            f'??? example "jobs/{path.name}"',
            "",
            "    ```yaml",
            textwrap.indent(path.read_text().rstrip(), "    "),
            "    ```",
            "",
        ]
    return "\n".join([*lines, *describe_f1(name, images.parent / "results" / "data"), *describe_code(method)])


def format_docstring(text: str) -> Iterator[str]:
    """Yield a docstring as Markdown: the citation, paragraphs, equations where it has indented blocks, and its lists."""
    first, *blocks = re.split(r"\n\s*\n", text)
    citation = CITATION.fullmatch(" ".join(first.split()))
    if citation:
        yield f"> {citation['authors']}, *{citation['title']}*, {citation['venue']}."
    else:
        yield f"> {escape(' '.join(first.split()))}"
    yield ""
    for block in blocks:
        if block.startswith("    "):
            yield render_equations(textwrap.dedent(block))
        else:
            yield from format_paragraph(block)
        yield ""


def format_paragraph(block: str) -> Iterator[str]:
    """Yield a paragraph or a list; the paragraph that announces the departures becomes a heading."""
    block = re.sub(r"::$", ":", ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", block))
    for start, heading in (
        ("Departures from the paper", "Departures from the paper"),
        ("Left open by", "What the paper leaves open"),
    ):
        if block.startswith(start):
            yield from [f"## {heading}", ""]
            block = "" if block == f"{start}:" else block
    block = re.sub(r"\bdocs/(results/index\.md)", r"[the results](../\1)", block)
    block = re.sub(r"(?<!`)\bjobs/(\w+\.yaml)\b(?!`)", r"`jobs/\1`", block)
    yield re.sub(r"(?<![`\w])(\w+)_(\w+)(?![`\w])", r"\1\\_\2", block)


def format_comment(text: str) -> Iterator[str]:
    """Yield the comment at the top of a job file: what it is, what it costs, what is expected of it, what it needs."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()[1:])
    for paragraph in re.split(r"\n(?=Cost:|Expected:|Needs:|\n)", "\n".join(line.lstrip("# ") for line in lines)):
        yield from [escape(" ".join(paragraph.split())), ""]


def describe_f1(name: str, folder: Path) -> Iterator[str]:
    """Yield the F1 that papers print for the method and those of our result files, each with its source."""
    published = [row for row in find_results(method=name) if row.metric == "F1" and row.printed is not None]
    names = {resolve_alias(name), *(resolve_alias(path.stem) for path in find_jobs(name))}
    measured = list(find_measurements(names, folder, normalize=resolve_alias))
    if not (published or measured):
        return
    yield from ["", "## Published and measured F1", ""]
    yield "Averages over the AUs of the data set, times 100. Published ones are as printed; `facscale published` has each AU."
    if measured:
        yield (
            "Measured are [results](../results/index.md) on rendered faces with a training of minutes: compare them with each "
            "other, not with a paper."
        )
    yield from ["", "| data set | F1 | from | where |", "|---|---:|---|---|"]
    for row in published:
        yield f"| {row.data} | {row.printed} | {row.paper} | {escape(row.table)} |"
    for measurement in measured:
        commands = ", ".join(f"`{command}`" for command in measurement.commands)
        yield f"| rendered faces | {measurement.f1} | measured: {escape(measurement.title)} | {commands} |"


def describe_code(method: type[Method]) -> Iterator[str]:
    """Yield the documentation of the class."""
    yield from ["", "## Code", "", f"`platform/{method.__module__.replace('.', '/')}.py`"]
