"""The equations of a method's docstring, as MathML: every browser draws it, without a script.

Docstrings write equations as plain text, so that a terminal shows them: `L_tcl = sum_{j=2}^{J-1} lambda_j [D(f_1, f_j)]_+  (1)`.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

GREEK = {"beta", "gamma", "lambda", "mu", "phi", "psi", "sigma", "theta"}
FUNCTIONS = {"exp", "ln", "log"}
SYMBOLS = {
    "<-": r"\leftarrow ",
    "!=": r"\neq ",
    "||": r"\parallel ",
    "...": r"\dots ",
    "*": r"\cdot ",
    ".": r"\cdot ",
    "%": r"\% ",
    "grad": r"\nabla ",
    "in": r"\in ",
    "sum": r"\sum ",
}
ACCENTS = {"^": "hat", "~": "tilde"}  # q^ and y~, with no exponent behind them
TOKEN = re.compile(
    r"(?P<accented>[A-Za-z](?:\^(?![\w{])|\^(?=_)|~))|(?P<plus>[a-z]\+(?=[ )/]))|(?P<indexed>[A-Za-z]\d(?!\w))|(?P<product>WH)"
    r"|(?P<word>[A-Za-z]+)|(?P<number>\d+(?:\.\d+)?)|(?P<sub>_)|(?P<power>\^)|(?P<symbol><-|!=|\|\||\.\.\.|\*|\.)|(?P<space>\s+)"
    r"|(?P<other>.)"
)
INDEX = re.compile(r"\{[^{}]*\}|-?[A-Za-z0-9]+|\+")
NUMBER = re.compile(r"\s{2,}(\([^()]*\))\s*$")


def render_equations(text: str) -> str:
    """Render lines of equations, each with the number or remark that stands at its end in parentheses, as HTML."""
    rows = []
    for line in filter(str.strip, text.splitlines()):
        number = NUMBER.search(line)
        body = line[: number.start()] if number else line
        indent = " indented" if line.startswith("  ") else ""
        label = f'<span class="number">{html.escape(number[1])}</span>' if number else ""
        rows.append(f'<div class="equation{indent}">{convert(to_latex(body.strip()))}{label}</div>')
    return '<div class="equations">' + "".join(rows) + "</div>"


def to_latex(text: str) -> str:
    """Translate one line of a docstring's notation to LaTeX."""
    parts, position = [], 0
    while position < len(text):
        token = TOKEN.match(text, position)
        assert token, text
        kind, value, position = token.lastgroup, token[0], token.end()
        if kind in ("sub", "power"):
            indices = []
            while index := INDEX.match(text, position):
                indices.append(translate_index(index[0]))
                position = index.end()
                if kind == "power" or not text.startswith("_", position):
                    break
                position += 1
            parts.append(f"{'_' if kind == 'sub' else '^'}{{{', '.join(indices)}}}")
        else:
            parts.append(translate(str(kind), value))
    return "".join(parts)


def translate(kind: str, value: str) -> str:  # noqa: PLR0911 - one for each kind of token
    """Translate one token that is neither an index nor an exponent."""
    if kind == "accented":
        return f"\\{ACCENTS[value[1]]}{{{value[0]}}}"
    if kind == "plus":
        return f"{value[0]}^{{+}}"
    if kind == "indexed":
        return f"{value[0]}_{{{value[1]}}}"
    if kind == "product":
        return " ".join(value)
    if value in SYMBOLS:
        return SYMBOLS[value]
    if kind == "word":
        return translate_word(value)
    if kind == "other" and value in "{}":
        return f"\\{value}"
    return " " if kind == "space" else value


def translate_word(value: str) -> str:
    """Translate a word: a Greek letter, a function, a variable of one letter, or a name in upright letters."""
    if value in GREEK or value in FUNCTIONS:
        return f"\\{value} "
    if value == "S" or len(value) == 1:
        return value
    return f"\\;\\mathrm{{{value}}}\\;"


def translate_index(value: str) -> str:
    """Translate what stands behind `_` or `^`."""
    if value.startswith("{"):
        return to_latex(value[1:-1])
    if value in GREEK:
        return f"\\{value}"
    return f"\\mathrm{{{value}}}" if len(value.lstrip("-")) > 2 and value.isalpha() else value
