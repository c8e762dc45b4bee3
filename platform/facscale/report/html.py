"""Pages that open without a network: a title, paragraphs, tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = (
    "body{font:15px/1.5 system-ui;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:2px 10px;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}pre{background:#f6f6f6;padding:1em;overflow:auto}"
    ".good{color:#06743b}.bad{color:#b3261e}"
)


def page(title: str, *parts: str) -> str:
    """A whole file; the parts are HTML."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"{head}<h1>{escape(title)}</h1>{''.join(parts)}</html>\n"


def table(lines: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """Text cells; the first line is the heading."""
    head, *rows = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line)
                   for line, tag in zip(lines, ["th", *["td"] * (len(lines) - 1)], strict=True)]  # fmt: skip
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def section(heading: str, *parts: str) -> str:
    """A heading and HTML below it."""
    return f"<h2>{escape(heading)}</h2>{''.join(parts)}"


def text(words: str) -> str:
    """A paragraph."""
    return f"<p>{escape(words)}</p>"


def code(words: str) -> str:
    """As it is."""
    return f"<pre>{escape(words)}</pre>"
