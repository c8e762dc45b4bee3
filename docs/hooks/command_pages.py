"""The reference of the command line: every command with its arguments and options, from the commands themselves."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from facscale.cli import SECTIONS


def build_page() -> str:
    """The page of all commands."""
    lines = [
        "# Commands",
        "",
        (
            "Every command explains itself with `--help`. Exit status 0 means success, 1 that the work has failed or a check has "
            "found something, and 2 that the input has to change."
        ),
    ]
    for section, commands in SECTIONS.items():
        lines += ["", f"## {section}"]
        for command in commands:
            lines += describe_command(command, f"facscale {command.name}", level=3)
    return "\n".join(lines)


def describe_command(command: click.Command, path: str, *, level: int) -> Iterator[str]:
    """Yield the lines of a command, then those of the commands below it."""
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ["", f"{'#' * level} {path}", "", "```text", f"{path} {usage}", "```", ""]
    yield from format_help(command)
    options = [
        parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    if options:
        yield from ["", "| option | meaning |", "|---|---|"]
    for option in options:
        names, text = option.get_help_record(context) or ("", "")
        yield f"| `{names.replace('|', '/')}` | {escape(' '.join(text.split()))} |"
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from describe_command(inner, f"{path} {inner.name}", level=level + 1)


def format_help(command: click.Command) -> Iterator[str]:
    """Yield a command's help as Markdown: paragraphs that click keeps as they are become code."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield from ["```text", textwrap.dedent(paragraph.removeprefix("\b").strip("\n")), "```", ""]
        else:
            yield from [escape(" ".join(paragraph.split())), ""]


def escape(text: str) -> str:
    """Text in which only code is Markdown."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part.replace("|", "\\|")
        if part.startswith("`")
        else re.sub(r"([*_\[\]])", r"\\\1", part.replace("<", "&lt;")).replace("|", "\\|")
        for part in parts
    )
